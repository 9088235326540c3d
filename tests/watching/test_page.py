"""The page of dqn-watch in a real browser."""

import contextlib
import shutil

import pytest
from support.browser import at_rest, opened_page, press_while_it_changes, screenshots
from support.run_makers import weights_of
from support.watched import served, untrained_run, wait_until

from dqn_zoo.play.film import check_film
from dqn_zoo.runs.manifest import end_invocation
from dqn_zoo.runs.run import lock
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.system.files import replace_file
from dqn_zoo.watching.agents import of_package, of_run
from dqn_zoo.watching.runs import PROGRESS

pytestmark = pytest.mark.browser
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watching")
    untrained_run(folder)
    hostile = of_run(untrained_run(folder))._replace(key=NASTY)
    with served(folder, hostile) as place:
        yield place


@pytest.fixture
def tab(place):
    with opened_page(f"{place.url}&agent=pretrained/SpaceInvaders") as tab:
        wait_for_steps(tab, 2)
        yield tab
    wait_until(lambda: place.watch.num_pages == 0)


def choose(tab, agent: str) -> None:
    tab.wait_for_selector("#agent option", state="attached")
    tab.select_option("#agent", agent)
    until(tab, f"document.title.startsWith({agent.rpartition('/')[2][:5]!r})")
    until(tab, "Number(document.getElementById('steps').textContent) > 1")


def until(tab, expression: str) -> None:
    """Wait, without the `eval` in the page that its policy forbids."""
    wait_until(lambda: tab.evaluate(expression))


def steps_of(tab) -> int:
    return int(tab.locator("#steps").inner_text().replace(",", "").replace("-", "0"))


def wait_for_steps(tab, least: int) -> None:
    wait_until(lambda: steps_of(tab) >= least)


def test_an_agent_plays_in_time_and_shows_what_it_expects(tab, place):
    wait_for_steps(tab, 20)
    assert tab.locator("#actions li").count() == 6
    assert tab.locator("#actions li.chosen, #actions li.random").count() == 1
    assert tab.locator("#frames canvas").count() == 4
    colours = tab.evaluate("""() => {
        const canvas = document.getElementById("screen");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
    }""")
    assert colours > 4
    assert tab.locator("#line canvas").count() == 1
    assert tab.said == []
    host = place.url.split("?")[0]
    assert all(url.startswith((host, host.replace("http", "ws"))) for url in tab.asked)


def test_keys_pressed_while_a_game_is_opened_leave_page_and_game_of_one_mind(tab):
    press_while_it_changes(tab)
    until(tab, "document.getElementById('about').textContent.includes('rules of machado')")
    assert tab.locator("#play").inner_text() == "Pause"
    seen = steps_of(tab)
    wait_until(lambda: steps_of(tab) > seen)


def test_names_are_text_wherever_they_come_from(place):
    with opened_page(place.url) as tab:  # which begins with the run of a hostile name
        until(tab, "document.title.startsWith('Breakout')")
        assert NASTY in tab.locator("#agent option").all_inner_texts()
        assert tab.locator("img").count() == 0
        assert tab.said == []


def test_it_is_played_by_keyboard_alone(tab):
    wait_for_steps(tab, 5)
    tab.keyboard.press("p")
    assert tab.locator("#play").inner_text() == "Play"
    step = at_rest(tab, steps_of)
    tab.keyboard.press("n")
    wait_for_steps(tab, step + 1)
    assert at_rest(tab, steps_of) == step + 1
    tab.keyboard.press("j")  # and it plays on
    tab.keyboard.down("ArrowLeft")
    mine = tab.locator("#actions li", has_text="you")
    until(tab, "document.querySelector('.chosen').textContent.startsWith('LEFTyou')")
    tab.keyboard.down("ArrowUp")  # which alone moves right here
    tab.keyboard.down(" ")
    until(tab, "document.querySelector('.chosen').textContent.startsWith('LEFTFIRE')")
    tab.keyboard.up("ArrowUp")
    tab.keyboard.down("Control")  # whatever else is held, what is let go of is not held
    tab.keyboard.up("ArrowLeft")
    tab.keyboard.up("Control")
    tab.keyboard.up(" ")
    assert tab.locator("#pad button.held").count() == 0
    until(tab, "document.querySelector('.chosen').textContent.startsWith('NOOPyou')")
    assert mine.count() == 1
    assert tab.locator("#delay").inner_text().endswith(" ms")
    tab.keyboard.press("j")
    until(tab, "!document.getElementById('actions').textContent.includes('you')")
    controls = "play step hand speed rewind agent protocol seed epsilon film-end film-game"
    reached = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
    assert reached >= set(controls.split())
    assert tab.said == []


def test_a_game_ends_and_the_next_begins(tab):
    choose(tab, "dqn/Breakout_1")
    tab.fill("#epsilon", "1")
    tab.press("#epsilon", "Enter")
    tab.select_option("#speed", "16")
    tab.wait_for_selector("#results tbody tr")
    until(tab, "Number(document.getElementById('number').textContent) > 1")
    tab.fill("#seed", "7")
    tab.press("#seed", "Enter")
    tab.wait_for_selector("#results", state="hidden")
    assert tab.said == []


def test_the_past_is_looked_at_and_another_future_is_played(tab):
    wait_for_steps(tab, 40)
    tab.focus("#rewind")
    tab.keyboard.press("ArrowLeft")  # which pauses
    for _ in range(9):
        tab.keyboard.press("ArrowLeft")
    until(tab, "document.getElementById('state').textContent === '0.7 s ago'")
    assert tab.get_attribute("#rewind", "aria-valuetext") == "0.7 seconds ago"
    step = at_rest(tab, steps_of)
    tab.keyboard.press("j")
    tab.click("#branch")
    until(tab, f"Number(document.getElementById('steps').textContent) < {step + 9}")
    until(tab, "document.querySelector('.chosen').textContent.startsWith('NOOPyou')")
    assert tab.is_disabled("#branch")
    assert tab.said == []


def test_keys_pressed_while_a_game_goes_back_leave_page_and_game_of_one_mind(tab):
    wait_for_steps(tab, 40)
    tab.focus("#rewind")
    for _ in range(10):
        tab.keyboard.press("ArrowLeft")
    until(tab, "document.getElementById('state').textContent === '0.7 s ago'")
    tab.evaluate("""() => {
        document.getElementById("branch").click();
        for (const key of ["n", "p", "p"])
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
        const slider = document.getElementById("rewind");
        slider.value = -3;
        slider.dispatchEvent(new Event("input"));
    }""")
    until(tab, "document.getElementById('play').textContent === 'Pause'")
    seen = steps_of(tab)
    wait_until(lambda: steps_of(tab) > seen)
    assert tab.said == []


def test_a_film_is_saved(tab, tmp_path):
    wait_for_steps(tab, 30)
    with tab.expect_download() as download:
        tab.click("#film-game")
    assert download.value.suggested_filename == "SpaceInvaders-seed-0-game-1.mp4"
    download.value.save_as(tmp_path / "film.mp4")
    check_film(tmp_path / "film.mp4")
    until(tab, "document.getElementById('filming').textContent.endsWith('is saved')")
    assert tab.said == []


@pytest.fixture
def training(tmp_path):
    """A run that trains, and one that has ended."""
    run, ended = untrained_run(tmp_path), untrained_run(tmp_path)
    end_invocation(ended, "finished", step=1, seconds={}, updates="eager")
    for each in (run, ended):
        grow(each, 100)
        each.evaluations_file.write_text("steps,mean\n100,2.5\n200,4\n300,3\n")
    with served(tmp_path, of_run(run)) as place, lock(run):
        yield place, run


@contextlib.contextmanager
def opened_train_page(place):
    """Yield the page of runs, which asks for new rows ten times as often as usual."""
    with opened_page("about:blank") as tab:
        tab.add_init_script("""const later = window.setTimeout;
            window.setTimeout = (act, ms, ...more) => later(act, ms / 10, ...more);""")
        tab.goto(place.url.replace("/?", "/train?"))
        yield tab


def grow(run, num_rows: int) -> None:
    with run.progress_file.open("a") as file:
        if not file.tell():
            file.write(f"{','.join(PROGRESS)}\n")
        begin = file.tell()
        for row in range(begin, begin + num_rows):
            file.write(f"{10 * row},{row},{row % 37},{1 / (row + 1)},{row / 50},0.1,250,512\n")


def test_a_run_that_grows_is_watched_and_its_newest_weights_play(training):
    place, run = training
    with opened_train_page(place) as tab:
        tab.wait_for_selector("#runs tbody tr")
        assert tab.locator("#runs tbody tr").count() == 2
        tab.wait_for_selector("#curves canvas")
        assert tab.locator("#curves canvas").count() == 6
        drawn = "[...document.querySelectorAll('#runs input:checked')].map(box => box.ariaLabel)"
        assert tab.evaluate(drawn) == ["draw dqn/Breakout_1"]
        newest = untrained_run(run.path.parents[1])
        with lock(newest):
            until(tab, f"String({drawn}) === 'draw dqn/Breakout_3'")
        shutil.rmtree(newest.path)
        until(tab, f"String({drawn}) === 'draw dqn/Breakout_1'")
        until(tab, "document.getElementById('message').hidden")
        tab.get_by_label("draw dqn/Breakout_2").check()
        until(tab, "document.querySelectorAll('#curves .u-legend .u-series').length === 18")
        screenshots(tab, "train")
        tab.set_viewport_size({"width": 960, "height": 900})
        fits = "(box => box.scrollWidth <= box.clientWidth)(document.querySelector('.scroll'))"
        assert tab.evaluate(fits), "headings go over two lines before a column is cut off"
        before = tab.locator("#runs tbody tr").first.inner_text()
        grow(run, 50)
        until(tab, f"document.querySelector('#runs tbody tr').innerText !== {before!r}")
        tab.set_viewport_size({"width": 390, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        plots = "[...document.querySelectorAll('#curves canvas')]"
        until(tab, f"{plots}.every(plot => plot.clientWidth <= 390)")
        tab.get_by_label("play the newest weights of dqn/Breakout_1").click()
        until(tab, "document.getElementById('about').textContent.includes('after 10 steps')")
        replace_file(run.model_file, weights_of(9, 350_000, load_config(run.config_file)))
        until(tab, "document.getElementById('about').textContent.includes('350,000 steps')")
        said = [text for text in tab.said if "404" not in text]  # as the run was removed
        assert said == []


def test_new_rows_leave_a_zoom_and_hidden_lines_as_they_are(training):
    place, run = training
    run.evaluations_file.write_text("steps,mean\n1000,2.5\n1100,4\n1200,3\n")
    with opened_train_page(place) as tab:
        tab.wait_for_selector("#curves canvas")
        plot, line = tab.locator("#curves .u-over").first, tab.locator(".u-legend .u-series").nth(1)
        evaluations = tab.locator("#curves figure").nth(1)
        line.locator("th").click()
        assert "u-off" in line.get_attribute("class")
        last = last_step(tab, plot)
        box = plot.bounding_box()
        tab.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 50)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50, steps=3)
        tab.mouse.up()
        zoomed = last_step(tab, plot)
        assert 1_200 <= zoomed < last
        tab.mouse.move(0, 0)
        inside = evaluations.screenshot()
        grow(run, 50)
        wait_for_rows(tab)
        assert last_step(tab, plot) == zoomed
        tab.mouse.move(0, 0)
        assert evaluations.screenshot() == inside, "all its points lie inside the zoom"
        plot.dblclick()
        newest = last_step(tab, plot)
        assert newest > last
        grow(run, 50)
        wait_for_rows(tab)
        assert last_step(tab, plot) > newest
        assert "u-off" in line.get_attribute("class")
        assert tab.said == []


def wait_for_rows(tab) -> None:
    """Wait until all that is there by now is drawn: until the page asks for the runs once more."""
    begun = [number for number, address in enumerate(tab.asked) if "/runs?" in address]
    while sum("/runs?" in address for address in tab.asked) < len(begun) + 2:
        tab.wait_for_timeout(50)


def last_step(tab, plot) -> int:
    """Return the step of a plot's right edge, which its legend says of the place of the mouse."""
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + box["width"] - 1, box["y"] + 50)
    return int(tab.locator("#curves .u-legend .u-value").first.inner_text().replace(",", ""))


def test_a_phone_shows_all_of_it_and_its_buttons_play(place):
    phone = {"has_touch": True, "is_mobile": True}
    with opened_page(f"{place.url}&agent=pretrained/SpaceInvaders", **phone) as tab:
        tab.set_viewport_size({"width": 390, "height": 844})
        wait_for_steps(tab, 2)
        tab.tap("#hand")
        fire = tab.get_by_role("button", name="fire")
        box = fire.bounding_box()
        tab.evaluate("scrollTo(0, 0)")
        fire.dispatch_event("pointerdown", {"pointerId": 1, "isPrimary": True})
        until(tab, "document.querySelector('.chosen').textContent.startsWith('FIREyou')")
        fire.dispatch_event("pointerup", {"pointerId": 1, "isPrimary": True})
        assert min(box["width"], box["height"]) >= 44
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        screenshots(tab, "watch-phone")


HIDE = """Object.defineProperty(document, "hidden", {value: true, configurable: true});"""


def test_a_page_that_is_opened_unseen_waits_to_be_seen(place):
    with opened_page("about:blank") as tab:
        tab.add_init_script(HIDE)
        tab.goto(f"{place.url}&agent=pretrained/SpaceInvaders")
        until(tab, "document.getElementById('state').textContent === 'paused'")
        tab.wait_for_timeout(300)
        assert steps_of(tab) < 5
        tab.evaluate("""() => {
            Object.defineProperty(document, "hidden", {value: false, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""")
        wait_for_steps(tab, 8)
    wait_until(lambda: place.watch.num_pages == 0)


def test_it_stands_still_while_nobody_sees_it(tab):
    wait_for_steps(tab, 5)
    tab.evaluate("""() => {
        Object.defineProperty(document, "hidden", {value: true, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    assert tab.locator("#state").inner_text() == "paused"
    tab.evaluate("""() => {
        Object.defineProperty(document, "hidden", {value: false, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    wait_for_steps(tab, steps_of(tab) + 2)


def test_an_agent_that_is_gone_is_said_and_a_run_that_has_ended_plays_its_last(place):
    newest = "dqn/Breakout_1, newest weights"
    with opened_page(f"{place.url}&agent={newest}") as tab:
        until(tab, "document.title.startsWith('Breakout')")
        assert tab.locator("#agent").input_value() == newest
        assert tab.locator("#message").inner_text() == ""
        assert "newest weights after 10 steps" in tab.locator("#about").inner_text()
    with opened_page(f"{place.url}&agent=dqn/<b>Gone_7") as tab:
        until(tab, "document.title.startsWith('Breakout')")
        said = tab.locator("#message").inner_text()
        assert said == f"dqn/<b>Gone_7 is not on the list any more: {NASTY} plays instead"


def test_a_server_that_ends_is_said_and_no_button_is_left_without_use(tmp_path):
    with served(tmp_path, of_package("Pong")) as place, opened_page(place.url) as tab:
        tab.set_viewport_size({"width": 1600, "height": 1000})
        until(tab, "Number(document.getElementById('steps').textContent) > 40")
        screenshots(tab, "watch")
        tab.evaluate("1")  # which serves the browser's events
        place.server.should_exit = True
        tab.wait_for_selector("#message:not([hidden])")
        assert "the connection is lost" in tab.locator("#message").inner_text()
        assert tab.locator("button:enabled, select:enabled, input:enabled").count() == 0
