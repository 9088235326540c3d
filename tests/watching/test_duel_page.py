"""The page Duel in a real browser: you against an agent, and two agents until they part."""

import csv
import re

import pytest
from support.browser import opened_page, press_while_it_changes, screenshots
from support.watched import served, untrained_run, wait_until

from dqn_zoo.cli.leaderboard import main as leaderboard
from dqn_zoo.play.by_hand import files_of, folder_of, read_game
from dqn_zoo.watching.agents import of_run

pytestmark = pytest.mark.browser
LEARNED, UNTRAINED = "pretrained/Breakout", "dqn/Breakout_1"

GAMEPAD = """() => {
    const buttons = Array.from({length: 16}, () => ({pressed: false}));
    window.gamepad = {connected: true, axes: [0, 0, 0, 0], buttons};
    navigator.getGamepads = () => [null, window.gamepad];
}"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("duels")
    run = untrained_run(folder, max_frames=600)  # 150 steps: 10 s on a page, no-ops included
    with served(folder, of_run(run)) as place:
        place.folder = folder
        place.duel = place.url.replace("/?", "/duel?")
        yield place
    assert place.watch.num_pages == 0


def said(tab, text: str | re.Pattern[str]) -> None:
    """Wait for a piece of news."""
    tab.locator("#news", has_text=text).wait_for()


def steps(tab) -> list[int]:
    shown = tab.locator(".steps").all_inner_texts()
    return [int(text.replace("-", "0")) for text in shown]


def test_you_play_an_agent_with_a_gamepad_and_stand_in_the_leaderboard(place, tmp_path):
    with opened_page(f"{place.duel}&seed=7") as tab:
        said(tab, "Ready when you are")
        assert tab.locator("#left .state").inner_text() == "Begin (P)"
        tab.focus("#new-seed")
        tab.keyboard.press("Space")  # which is not the joystick's before the duel begins
        wait_until(lambda: "seed 7;" not in tab.locator("#about").inner_text())
        tab.fill("#seed", "7")
        tab.press("#seed", "Enter")
        tab.locator("#about", has_text="seed 7;").wait_for()
        tab.focus("#play")
        assert tab.locator("#step:disabled, #speed:disabled").count() == 2
        assert files_of(folder_of(place.folder, "Breakout")) == []
        tab.evaluate(GAMEPAD)
        tab.evaluate("() => { gamepad.axes = [-0.9, 0.1]; }")
        tab.keyboard.press("p")
        wait_until(lambda: steps(tab)[0] > 5)
        held = "#pad button.held"
        assert tab.locator(held).get_attribute("aria-label") == "left"
        tab.keyboard.press("p")
        assert tab.locator("#left .state").inner_text() == "paused"
        tab.evaluate("() => { gamepad.axes = [0, 0]; gamepad.buttons[15].pressed = true; }")
        tab.locator(f"{held}[aria-label=right]").wait_for()
        tab.keyboard.press("p")
        tab.locator("#results tbody tr").wait_for()
        said(tab, re.compile("^(A draw|.* wins? by [0-9]+)[.] They part at step [0-9]+: "))
        assert tab.locator("#play").inner_text() == "New duel"
        assert tab.locator("#pad").is_hidden()
        screenshots(tab, "duel")
        [file] = files_of(folder_of(place.folder, "Breakout"))
        assert str(file) in tab.locator("#kept").inner_text()
        assert tab.said == []
    game = read_game(file)
    assert (game["seed"], game["pauses"], game["order"]) == (7, 1, "side by side")
    actions = game["played"]["actions"]
    left, right = actions.index("d"), actions.index("c")
    assert 0 < left < right, "first by the stick, then by the cross"
    assert set(actions[right:]) <= {"b", "c"}, "and FIRE by the rules"
    rows = tmp_path / "rows.csv"
    asked = ["--env", "Breakout", "--offline", "-f", str(place.folder), "--csv", str(rows)]
    assert leaderboard(asked) == 0
    [row] = csv.DictReader(rows.read_text().splitlines())
    assert (row["library"], float(row["mean"])) == ("human", game["played"]["score"])


@pytest.mark.parametrize("left", ["", LEARNED])
def test_keys_pressed_while_the_terms_change_leave_page_and_game_of_one_mind(place, left):
    before = files_of(folder_of(place.folder, "Breakout"))
    with opened_page(f"{place.duel}&left={left}&right={LEARNED}&seed=3") as tab:
        tab.locator("#about", has_text="seed 3; rules of zoo").wait_for()
        press_while_it_changes(tab)
        tab.locator("#about", has_text="rules of machado").wait_for()
        if left:
            assert tab.locator("#play").inner_text() == "Pause"
            seen = steps(tab)[0]
            wait_until(lambda: steps(tab)[0] > seen)
        else:
            assert tab.locator("#play").inner_text() == "Begin"
            tab.click("#new-seed")  # which the server answers behind whatever it was told before
            wait_until(lambda: "seed 3;" not in tab.locator("#about").inner_text())
            assert files_of(folder_of(place.folder, "Breakout")) == before
        assert tab.said == []


def test_two_agents_of_one_game_stand_still_where_they_part_and_play_on_to_the_end(place):
    with opened_page(f"{place.duel}&left={LEARNED}&seed=3") as tab:
        said(tab, "They part at step")
        news = tab.locator("#news").inner_text()
        [parted] = map(int, re.findall(r"They part at step (\d+): ", news))
        wait_until(lambda: steps(tab) == [parted] * 2)  # the news may be ahead of the screens
        chosen = tab.locator("li.chosen, li.random").all_inner_texts()
        assert len(chosen) == len(set(chosen)) == 2
        assert tab.locator(".state", has_text="paused").count() == 2
        screenshots(tab, "compare")
        tab.keyboard.press("n")
        wait_until(lambda: steps(tab) == [parted + 1] * 2)
        tab.set_viewport_size({"width": 390, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        left, right = (tab.locator(f"#{side} .screen").bounding_box() for side in ("left", "right"))
        assert left["y"] == right["y"]
        screenshots(tab, "compare-phone")
        tab.select_option("#speed", "16")
        tab.click("#play")
        tab.locator("#results tbody tr").wait_for()
        cells = tab.locator("#results td").all_inner_texts()
        assert [cells[0], cells[1], cells[3], cells[5]] == ["3", LEARNED, UNTRAINED, str(parted)]
        assert tab.locator(".state", has_text="over").count() == 2
        assert tab.locator("#left-agent option").all_inner_texts() == ["You", UNTRAINED, LEARNED]
        tab.select_option("#right-agent", "pretrained/Pong")
        said(tab, "Ready when you are")
        assert tab.title().startswith("Pong")
        assert tab.locator("#left-agent option").all_inner_texts() == ["You", "pretrained/Pong"]
        assert tab.said == []
