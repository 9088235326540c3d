"""The server of dqn-watch: who gets in, what is refused, and what a slow page gets."""

import contextlib
import errno
import json
import select
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest
from support.run_makers import weights_of
from support.watched import TOKEN, Page, get, served, untrained_run, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dqn_zoo.cli.watch import main
from dqn_zoo.errors import UserError
from dqn_zoo.play.film import check_film
from dqn_zoo.runs.finding import list_runs
from dqn_zoo.runs.manifest import end_invocation
from dqn_zoo.runs.run import Run, lock
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.system.files import replace_file
from dqn_zoo.watching import server, serving
from dqn_zoo.watching.agents import Gallery, of_run
from dqn_zoo.watching.outlet import MOST_UNDRAWN
from dqn_zoo.watching.runs import read_curves

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A served page with one run, and the packaged agents."""
    folder = tmp_path_factory.mktemp("watch")
    run = untrained_run(folder)
    with served(folder, of_run(run)) as place:
        place.run, place.key, place.folder = run, "dqn/Breakout_1", folder
        yield place


def test_only_who_knows_the_token_gets_in(place):
    assert get(place.port, f"/?token={TOKEN}").status == 200
    for path in (
        "/",
        "/?token=",
        "/?token=the-tokem",
        "/?token=%C3%A9",
        "/agents",
        "/agents?token=x",
    ):
        answer = get(place.port, path)
        assert answer.status == 403
        assert b"Breakout" not in answer.content
    with pytest.raises(InvalidStatus, match="403"), Page(place.port, token="the-tokem"):
        pass


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "stranger.example:{port}"},
        {"Host": "[::1"},
        {"Host": "127.0.0.1:{port}", "Origin": "http://stranger.example"},
        {"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:1"},
        {"Host": "127.0.0.1:{port}", "Origin": "null"},
    ],
)
def test_another_page_of_the_same_browser_is_refused_even_with_the_token(place, headers):
    filled = {name: value.format(port=place.port) for name, value in headers.items()}
    for path in (f"/?token={TOKEN}", f"/agents?token={TOKEN}", "/page/watch.css"):
        assert get(place.port, path, **filled).status == 403
    if "Origin" in headers:
        asked = Page(place.port, origin=filled["Origin"])
        with pytest.raises(InvalidStatus, match="403"), asked:
            pass


def test_this_machine_by_other_names_is_let_in(place):
    for host in ("localhost", "127.0.0.1", "[::1]"):
        name = f"{host}:{place.port}"
        assert get(place.port, f"/?token={TOKEN}", Host=name, Origin=f"http://{name}").status == 200


def test_a_name_that_was_asked_for_is_let_in_and_no_other():
    assert server._is_here("laptop.local:8600", frozenset({"laptop.local"}))
    assert not server._is_here("stranger.local:8600", frozenset({"laptop.local"}))
    assert not server._is_here("", frozenset())
    assert not server._is_here(":8600", frozenset())


def test_an_agent_that_was_named_stands_at_the_head_of_the_list(place):
    newer, older = (choice for choice in Gallery(place.folder, []).choices()[-2:])
    assert [each.key for each in Gallery(place.folder, [older]).choices()].index(older.key) == 0
    assert Gallery(None, [older, newer, older]).choices() == [older, newer]


def test_a_named_run_of_another_folder_does_not_hide_ones_own(tmp_path):
    logs = tmp_path / "logs"
    own, other = untrained_run(logs), untrained_run(tmp_path / "elsewhere")
    keys = [each.key for each in Gallery(logs, [of_run(other, beside=logs)]).choices()]
    assert keys[:2] == [str(other.path), "dqn/Breakout_1"]
    keys = [each.key for each in Gallery(logs, [of_run(own, beside=logs)]).choices()]
    assert keys.count("dqn/Breakout_1") == 1


def test_a_run_that_is_a_link_is_listed_once_and_one_below_the_root_has_a_name(tmp_path):
    logs, disk = tmp_path / "logs", untrained_run(tmp_path / "disk")
    (logs / "dqn").mkdir(parents=True)
    linked = Run(logs / "dqn" / "Breakout_1")
    linked.path.symlink_to(disk.path)
    keys = [each.key for each in Gallery(logs, [of_run(linked, beside=logs)]).choices()]
    assert [key for key in keys if "/Breakout_" in key] == ["dqn/Breakout_1"]
    assert of_run(Run(Path("/run")), beside=logs).key == "/run"


def test_a_page_may_load_what_is_served_here_and_nothing_else(place):
    for path in (f"/?token={TOKEN}", "/page/play.js", f"/agents?token={TOKEN}"):
        answer = get(place.port, path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    for path in ("/page/../server.py", "/page/%2e%2e/server.py", "/page//etc/passwd", "/page/"):
        assert get(place.port, path).status in (400, 404)


def test_the_list_has_the_runs_and_what_comes_with_the_package(place):
    listed = json.loads(get(place.port, f"/agents?token={TOKEN}").content)
    keys = [agent["key"] for agent in listed["agents"]]
    assert keys[0] == listed["first"] == place.key
    assert "pretrained/Pong" in keys
    assert len(keys) == len(set(keys))


def test_only_what_is_listed_is_opened(place):
    with Page(place.port) as page:
        for agent in (str(place.run.path), "../dqn/Breakout_1", "", NASTY):
            page.tell("open", agent=agent)
            assert "is not on the list" in page.notice("error")["error"]
        opened = page.open(place.key, seed=7)
        assert opened["actions"] == ["NOOP", "FIRE", "RIGHT", "LEFT"]
        assert (opened["game"], opened["steps"], opened["seed"]) == ("Breakout", 10, 7)
        assert page.picture()["step"] >= 1


def test_it_plays_by_the_runs_rules_or_by_those_that_are_chosen(place):
    with Page(place.port) as page:
        assert page.open(place.key)["protocol"] == "zoo"
        page.tell("open", agent=place.key, protocol="machado")
        opened = page.notice("opened")
        assert (opened["protocol"], opened["epsilon"]) == ("machado", 0.001)
        page.tell("open", agent=place.key, protocol="none")
        assert "not a message of this page" in page.notice("error")["error"]


def test_it_pauses_makes_one_step_and_goes_on(place):
    with Page(place.port) as page:
        page.open(place.key)
        page.tell("pause")
        page.tell("step")
        step = page.last_picture()["step"]
        for number in (1, 2):
            page.tell("step")
            assert page.last_picture()["step"] == step + number
        page.tell("play")
        assert [page.picture()["step"] for _ in range(4)][-1] > step + 3


def test_a_picture_holds_the_screens_and_what_the_network_gets(place):
    with Page(place.port) as page:
        page.open(place.key)
        page.picture()
        picture = page.picture()
        assert picture["screens"] == 4
        assert len(picture["pixels"]) == 4 * 84 * 84 + 4 * picture["height"] * 160 * 3
        assert picture["ms"] == pytest.approx(1_000 * 4 / 60, abs=0.01)
        assert len(picture["q"]) == 4
        page.tell("speed", times=16)
        while page.picture()["screens"] > 1:
            continue


def test_pictures_are_compressed_where_they_go_through_a_network(tmp_path):
    first = of_run(untrained_run(tmp_path))
    with served(tmp_path, first, compresses=True) as place, Page(place.port) as page:
        page.open(first.key)
        assert page.picture()["height"] == 210
        [extension] = page.socket.protocol.extensions
        assert extension.name == "permessage-deflate"


def test_a_page_that_does_not_draw_gets_the_newest_picture_when_it_does(place):
    with Page(place.port) as page:
        page.open(place.key)
        page.tell("speed", times=16)
        first = [page.picture(is_drawn=False) for _ in range(MOST_UNDRAWN)]
        with pytest.raises(TimeoutError):
            page.socket.recv(timeout=0.5)
        page.tell("drawn")
        newest = page.picture()
        assert newest["step"] > first[-1]["step"] + 10 or newest["game"] > first[-1]["game"]
        missed = [step for _, step, _, _ in newest["trail"]]
        assert missed[0] == first[-1]["step"] + 1  # their values and rewards are told
        assert len(missed) > 10


MALFORMED = [
    "", "{", "[]", "null", '{"do": "fly"}', '{"do": "play", "more": 1}', '{"do": ["play"]}',
    '{"do": "speed", "times": 1e9}', '{"do": "speed", "times": "1"}',
    '{"do": "epsilon", "chance": NaN}', '{"do": "open", "agent": 1}',
    '{"do": "open", "agent": "a", "seed": -1}', '{"do": "press", "action": 18, "press": 0}',
]  # fmt: skip


def test_malformed_messages_are_answered_and_the_game_goes_on(place):
    with Page(place.port) as page:
        for text in MALFORMED:
            page.socket.send(text)
            assert "not a message of this page" in page.notice("error")["error"], text
        page.open(place.key)
        page.tell("press", action=17, press=0)
        assert page.notice("error")["error"] == "this game has no action 17"


@pytest.mark.parametrize("content", ["x" * 2_000, b"\0\1"])
def test_what_is_too_long_or_binary_ends_that_page_alone(place, content):
    with Page(place.port) as other, Page(place.port) as page:
        other.open(place.key)
        page.socket.send(content)
        with pytest.raises(ConnectionClosed):
            page.notice("opened")
        assert other.picture()["step"] >= 1


def test_too_many_messages_end_a_page(place, monkeypatch):
    monkeypatch.setattr(server, "MOST_MESSAGES_S", 40)
    with Page(place.port) as page:
        with pytest.raises(ConnectionClosed) as closed:
            flood(page, 500, "drawn")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == server.CLOSED_TOO_MANY


def test_messages_that_a_busy_game_does_not_come_to_end_a_page(place, monkeypatch):
    monkeypatch.setattr(server, "MOST_WAITING", 20)
    busy = threading.Event()
    monkeypatch.setattr(Gallery, "open", lambda *_: busy.wait(30))
    with Page(place.port) as page:
        page.tell("open", agent=place.key)
        with pytest.raises(ConnectionClosed) as closed:
            flood(page, 30, "pause")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == server.CLOSED_TOO_MANY
        busy.set()


def flood(page: Page, times: int, do: str) -> None:
    """Send what the server ends the connection for, be it before the last or behind it."""
    for _ in range(times):
        page.tell(do)
    page.notice("never")


def test_pages_are_bounded_and_what_leaves_makes_room_and_stops_computing(place, monkeypatch):
    monkeypatch.setattr(server, "MOST_PAGES", 2)
    wait_until(lambda: place.watch.num_pages == 0)
    with Page(place.port) as one, Page(place.port) as two:
        one.open(place.key)
        [first, *_] = list(place.watch._players)
        two.tell("pause")
        with Page(place.port) as third, pytest.raises(ConnectionClosed) as closed:
            third.notice("opened")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == server.CLOSED_FULL
        players = list(place.watch._players)
        one.socket.socket.close()  # it vanishes without a word
        two.socket.socket.close()
    wait_until(lambda: place.watch.num_pages == 0)
    for player in [first, *players]:
        player.join(10)
        assert not player.is_alive()


def test_hundreds_of_connections_that_ask_nothing_stop_nobody(place, monkeypatch):
    monkeypatch.setattr(place.server.config, "timeout_keep_alive", 600)  # or the first have gone
    with Page(place.port) as page, contextlib.ExitStack() as idle:
        page.open(place.key)
        for number in range(1, 301):
            idle.enter_context(socket.create_connection(("127.0.0.1", place.port)))
            if number % 40 == 0:  # 50 may wait to be taken; the kernel drops more for a second
                wait_until(lambda n=number: len(place.server.server_state.connections) > n)
        step = page.picture()["step"]
        assert get(place.port, f"/?token={TOKEN}").status == 200
        assert [page.picture() for _ in range(5)][-1]["step"] > step


def test_a_connection_that_asks_nothing_is_closed(place, monkeypatch):
    monkeypatch.setattr(place.server.config, "timeout_keep_alive", 0.2)
    with socket.create_connection(("127.0.0.1", place.port), timeout=20) as silent:
        assert silent.recv(1) == b""


def test_half_a_request_is_closed_and_a_whole_one_is_served_as_long_as_it_takes(place, monkeypatch):
    monkeypatch.setattr(place.server.config, "timeout_keep_alive", 2.0)
    with Page(place.port) as page, socket.create_connection(("127.0.0.1", place.port), 20) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: ")
        page.open(place.key)
        assert half.recv(1) == b""
        step = page.picture()["step"]
        assert [page.picture() for _ in range(10)][-1]["step"] >= step + 10


def test_a_process_that_may_open_few_files_serves_its_page(place, monkeypatch):
    monkeypatch.setattr(serving, "most_open_files", lambda: 128)
    assert get(place.port, f"/?token={TOKEN}").status == 200


def test_more_connections_than_there_are_files_for_are_closed_and_stop_nobody(place, monkeypatch):
    monkeypatch.setattr(serving, "most_open_files", lambda: 160)
    monkeypatch.setattr(serving, "FEWEST_CONNECTIONS", 1)
    monkeypatch.setattr(place.server.config, "timeout_keep_alive", 600)
    wait_until(lambda: not place.server.server_state.connections)
    with Page(place.port) as page, contextlib.ExitStack() as idle:
        page.open(place.key)
        address = ("127.0.0.1", place.port)
        crowd = [idle.enter_context(socket.create_connection(address)) for _ in range(40)]
        wait_until(lambda: len(select.select(crowd, [], [], 0)[0]) == 31)  # the page is the tenth
        step = page.picture()["step"]
        assert [page.picture() for _ in range(5)][-1]["step"] > step
        for each in crowd:
            each.close()
        wait_until(lambda: len(place.server.server_state.connections) == 1)
        assert get(place.port, f"/?token={TOKEN}").status == 200


def test_keys_act_as_soon_as_a_person_has_the_joystick(place):
    with Page(place.port) as page:
        page.open(place.key)
        page.tell("press", action=2, press=1)  # the agent still has it
        assert not any(page.picture()["by_hand"] for _ in range(3))
        page.tell("hand", to="you")
        for press, action in enumerate((2, 0, 3, 0), start=2):  # let go at once: both count
            page.tell("press", action=action, press=press)
        pictures = [page.picture() for _ in range(8)]
        mine = [picture for picture in pictures if picture["by_hand"]]
        assert {2, 3} <= {picture["action"] for picture in mine}
        assert mine[-1]["action"] == 0
        assert max(picture.get("press", 0) for picture in mine) == 5
        page.tell("hand", to="agent")
        while page.picture()["by_hand"]:
            continue


def test_the_past_is_looked_at_and_played_on_from(place):
    with Page(place.port) as page:
        page.tell("look", back=3)  # there is none yet
        page.open(place.key, seed=5)
        seen = [page.picture() for _ in range(12)]
        page.tell("step")  # which pauses
        seen.append(page.last_picture())
        page.tell("look", back=6)
        past = page.picture()
        assert past["is_past"]
        assert past["step"] == seen[-1]["step"] - 6
        assert past["screens"] == 1
        same = next(each for each in seen if each["step"] == past["step"])
        assert (past["q"], past["action"]) == (same["q"], same["action"])
        assert past["pixels"] == same["pixels"][: 4 * 84 * 84] + same["pixels"][-210 * 160 * 3 :]
        page.tell("look", back=900)
        assert page.picture()["step"] == 1
        page.tell("look", back=6)
        page.picture()
        page.tell("branch")
        assert page.notice("branched")["branched"] == [0, past["step"]]
        again = page.picture()
        assert again["step"] == past["step"] + 1
        after = next(each for each in seen if each["step"] == again["step"])
        assert again["action"] == after["action"]  # the same past, and again the agent
        assert again["pixels"][: 4 * 84 * 84] == after["pixels"][: 4 * 84 * 84]
        page.tell("step")
        now = page.last_picture()["step"]
        page.tell("look", back=now - past["step"] + 1)  # what came after it is forgotten
        assert page.picture()["step"] == past["step"] - 1


def test_a_film_is_made_fetched_by_its_page_alone_and_gone_with_it(place, tmp_path):
    with Page(place.port) as page:
        page.open(place.key)
        for _ in range(10):
            page.picture()
        page.tell("film", game=5)
        refused = page.notice("film")
        assert (refused["film"], "game 6 is not kept" in refused["error"]) == (None, True)
        assert page.picture()["step"] < page.picture()["step"]  # and the game goes on
        page.tell("film", game=0, seconds=1)
        page.tell("film", game=0)
        assert "a film is being made" in page.notice("error")["error"]
        made = page.notice("film")
        assert made["name"] == "Breakout-seed-0-game-1.mp4"
        path = f"/films/{made['film']}"
        assert get(place.port, path).status == 403
        assert get(place.port, f"/films/other.mp4?token={TOKEN}").status == 404
        answer = get(place.port, f"{path}?token={TOKEN}")
        assert answer.headers["Content-Type"] == "video/mp4"
        file = tmp_path / "film.mp4"
        file.write_bytes(answer.content)
        check_film(file)
    wait_until(lambda: place.watch.num_pages == 0)
    assert get(place.port, f"{path}?token={TOKEN}").status == 404
    wait_until(lambda: not list(Path(place.watch._films.name).iterdir()))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, r"port 80 may not be served \(no rights\): name one above 1023 with --port"),
        (errno.EADDRNOTAVAIL, r"somewhere cannot be served \(no rights\): --host names an address"),
    ],
)
def test_an_address_that_cannot_be_served_says_which_flag_helps(code, said, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, "no rights")

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(UserError, match=said):
        serving.bind("somewhere", 80)


ROW = "{steps},{time},{score},0.5,1.25,0.1,100.0,512\n"
HEADER = "steps,time_s,return_mean,loss,q_mean,epsilon,steps_per_second,memory_mb\n"


def test_a_run_that_grows_is_shown_as_it_grows(tmp_path):
    run = untrained_run(tmp_path)
    end_invocation(untrained_run(tmp_path), "finished", step=1, seconds={}, updates="eager")
    run.progress_file.write_text(HEADER + ROW.format(steps=100, time=2, score=""))
    with served(tmp_path, of_run(run)) as place, lock(run):

        def ask(path: str) -> dict:
            return json.loads(get(place.port, f"{path}token={TOKEN}").content)

        rows = {row["key"]: row for row in ask("/runs?")["runs"]}
        assert rows["dqn/Breakout_1"]["training"]
        assert not rows["dqn/Breakout_2"]["training"]
        assert [rows[f"dqn/Breakout_{n}"]["finished"] for n in (1, 2)] == [False, True]
        assert (rows["dqn/Breakout_1"]["steps"], rows["dqn/Breakout_1"]["return"]) == (100, None)
        first = ask("/curves?run=dqn/Breakout_1&")
        assert first["progress"]["return_mean"] == [None]
        assert ask(f"/curves?run=dqn/Breakout_1&since={first['stamp']}&") == {
            "stamp": first["stamp"]
        }
        with run.progress_file.open("a") as file:
            file.write(ROW.format(steps=200, time=4, score=7.5))
            file.write("300,6,")  # half a row
        run.evaluations_file.write_text("steps,mean\n150,3.5\n")
        with pytest.warns(UserWarning, match="damaged rows"):
            grown = ask(f"/curves?run=dqn/Breakout_1&since={first['stamp']}&")
        assert grown["progress"]["steps"] == [100, 200]
        assert grown["progress"]["return_mean"] == [None, 7.5]
        assert grown["evaluations"] == {"steps": [150], "mean": [3.5]}
        [row] = [row for row in ask("/runs?")["runs"] if row["training"]]
        assert (row["steps"], row["return"], row["evaluation"]) == (200, 7.5, 3.5)


def test_curves_of_listed_runs_are_read_without_listing_all_of_them_again(tmp_path, monkeypatch):
    first, second = untrained_run(tmp_path), untrained_run(tmp_path)
    listed = []

    def noted(folder: Path) -> list[Run]:
        listed.append(folder)
        return list_runs(folder)

    monkeypatch.setattr("dqn_zoo.watching.agents.list_runs", noted)
    with served(tmp_path, of_run(first)) as place:

        def status(path: str) -> int:
            return get(place.port, f"{path}&token={TOKEN}").status

        for _ in range(2):
            assert status("/curves?run=dqn/Breakout_2") == 200
            assert status("/settings?run=dqn/Breakout_1&run=dqn/Breakout_2") == 200
        assert len(listed) == 1
        shutil.rmtree(second.path)
        assert status("/curves?run=dqn/Breakout_2") == 404
        untrained_run(tmp_path, algo="rainbow")
        assert status("/curves?run=rainbow/Breakout_1") == 200


def test_long_curves_are_thinned_to_what_a_screen_shows(tmp_path):
    run = untrained_run(tmp_path)
    rows = [ROW.format(steps=step, time=step, score=step) for step in range(1, 2_501)]
    run.progress_file.write_text(HEADER + "".join(rows))
    progress = read_curves(run, "")["progress"]
    assert progress["steps"][-1] == 2_500
    assert len(progress["steps"]) == 834
    assert progress["return_mean"] == progress["steps"]


@pytest.mark.parametrize("path", ["/train", "/runs", "/curves?run=dqn/Breakout_1"])
def test_runs_are_shown_to_who_knows_the_token_and_only_those_of_the_folder(place, path):
    assert get(place.port, path).status == 403
    for run in (str(place.run.path), "../dqn/Breakout_1", ""):
        assert get(place.port, f"/curves?run={run}&token={TOKEN}").status == 404


def test_the_newest_weights_of_a_run_play_and_newer_ones_as_they_come(tmp_path):
    run = untrained_run(tmp_path)
    with served(tmp_path, of_run(run)) as place, lock(run), Page(place.port) as page:
        listed = json.loads(get(place.port, f"/agents?token={TOKEN}").content)["agents"]
        key = "dqn/Breakout_1, newest weights"
        assert key in [agent["key"] for agent in listed]
        assert page.open(key)["steps"] == 10
        before = page.picture()["q"]
        replace_file(run.model_file, weights_of(9, 350_000, load_config(run.config_file)))
        assert page.notice("newer") == {"newer": "newest weights", "steps": 350_000}
        assert page.picture()["q"] != before
        run.model_file.unlink()
        page.tell("step")
        assert page.last_picture()["step"] > 1  # and what was loaded plays on


def test_the_newest_weights_of_a_run_that_has_ended_since_can_be_opened_again(tmp_path):
    run, key = untrained_run(tmp_path), "dqn/Breakout_1, newest weights"
    with served(tmp_path, of_run(run)) as place, Page(place.port) as page:
        with lock(run):
            page.open(key)
        end_invocation(run, "finished", step=1, seconds={}, updates="eager")
        assert page.open(key, seed=1)["steps"] == 10


def test_a_run_that_cannot_be_loaded_is_said_and_another_plays(place):
    broken = untrained_run(place.folder, seed=2)
    broken.model_file.write_bytes(b"no weights")
    with Page(place.port) as page:
        page.tell("open", agent="dqn/Breakout_2")
        assert "is damaged" in page.notice("error")["error"]
        page.open("pretrained/Breakout")
        assert len(page.picture()["quantiles"]) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run", "Nowhere_1"], "no run 'Nowhere_1' in"),
        (["--agents", "pretrained/Tennis"], "no agent for Tennis comes with dqn_zoo"),
        (["--agents", "Breakout_1", "--env", "Pong"], "--agents names the agent: leave out --env"),
        (["--hub", "a/b", "--run", "x"], "--hub names the agent: leave out --run"),
        (["--host", "203.0.113.1"], "cannot be served"),
        (["--port", "0"], "--port: expected a whole number of at least 1"),
    ],
)
def test_a_mistake_is_one_line(place, flags, message, capsys):
    assert main(["--no-browser", "-f", str(place.folder), *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "websockets"])
def test_without_the_extra_it_says_what_to_install(missing, monkeypatch, capsys):
    ours = [name for name in sys.modules if name.startswith("dqn_zoo.watching.serv")]
    theirs = [name for name in sys.modules if name.startswith("uvicorn.protocols.websockets")]
    for name in (*ours, *theirs):
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["--no-browser"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: dqn-watch needs {missing}")
    assert "pip install '.[watch]'" in line
