"""A page for anybody: what visitors may do, how many of them, and for how long."""

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
from support.watched import Page, get, served, untrained_run, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dqn_zoo.cli.watch import main
from dqn_zoo.watching import server
from dqn_zoo.watching.agents import of_package, of_run
from dqn_zoo.watching.messages import read_message
from dqn_zoo.watching.visitors import Visit, Visits

HOST = "ann-pong.hf.space"


@pytest.fixture(scope="module")
def place():
    with served(None, of_package("Pong"), visits=Visits(2, hosts=frozenset({HOST}))) as place:
        yield place


def test_visitors_need_no_token_and_get_the_agents_and_nothing_else(place):
    answer = get(place.port, "/", Host=HOST, Origin=f"https://{HOST}")
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.endswith("frame-ancestors https://huggingface.co")
    listed = json.loads(get(place.port, "/agents").content)
    assert [agent["key"] for agent in listed["agents"]] == ["pretrained/Pong"]
    assert listed["visitors"] == {"games": 2, "minutes": 5.0}
    for path in (
        "/duel",
        "/train",
        "/runs",
        "/curves?run=dqn/Breakout_1",
        "/films/a.mp4",
        "/settings",
        "/groups?by=gamma",
    ):
        assert get(place.port, path).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "stranger.example"},
        {"Host": HOST, "Origin": "https://stranger.example"},
        {"Host": HOST, "Origin": "null"},
        {"Host": f"{HOST}.stranger.example"},
    ],
)
def test_only_the_names_that_were_allowed_are_answered(place, headers):
    for path in ("/", "/agents", "/page/play.js"):
        assert get(place.port, path, **headers).status == 403
    if "Origin" in headers:
        with pytest.raises(InvalidStatus, match="403"), Page(place.port, origin=headers["Origin"]):
            pass


def test_each_has_a_game_the_next_waits_and_none_is_filmed(place):
    with Page(place.port) as one, Page(place.port) as two:
        for page, seed in ((one, 1), (two, 2)):
            assert page.open("pretrained/Pong", seed=seed)["seed"] == seed
            assert page.picture()["step"] >= 1
        duel = {"left": None, "right": "pretrained/Pong"}
        for message in ({"do": "film", "game": 0}, {"do": "duel", **duel}):
            one.tell(message.pop("do"), **message)
            assert one.notice("error")["error"] == "visitors cannot make films or duels"
        one.tell("open", agent="dqn/Breakout_1")
        assert "is not on the list" in one.notice("error")["error"]
        with Page(place.port) as three, pytest.raises(ConnectionClosed) as closed:
            three.notice("opened")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == server.CLOSED_WAIT
    wait_until(lambda: place.watch.num_pages == 0)
    with Page(place.port) as four:
        four.open("pretrained/Pong")


def test_a_game_that_is_left_alone_ends_though_its_pictures_are_drawn(tmp_path):
    first = of_run(untrained_run(tmp_path))
    with served(None, first, visits=Visits(1, idle_s=2.0)) as place, Page(place.port) as page:
        page.tell("open", agent="dqn/Breakout_1")
        with pytest.raises(ConnectionClosed) as closed:
            page.notice("never")  # which draws
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == server.CLOSED_IDLE
        wait_until(lambda: place.watch.num_pages == 0)


def test_a_visitor_who_reads_nothing_keeps_no_game(monkeypatch):
    monkeypatch.setattr(server, "CLOSE_S", 0.2)
    monkeypatch.setattr(server, "MOST_MESSAGES_S", 20)
    with served(None, of_package("Pong"), visits=Visits(1)) as place:
        [listening] = place.server.servers[0].sockets
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # as that of each visitor
        with raw_page(place.port) as page:
            wait_until(lambda: place.watch.num_pages == 1)
            send(page, {"do": "open", "agent": "pretrained/Pong"})
            [player] = place.watch._players
            wait_until(lambda: player._game and len(player._game.record(0).actions) > 5)
            for _ in range(60):
                send(page, {"do": "drawn"})
            player.join(20)
            assert not player.is_alive()
            assert place.watch.num_pages == 0


@contextlib.contextmanager
def raw_page(port: int) -> Iterator[socket.socket]:
    """Open a page's connection of which nothing is read."""
    with socket.socket() as page:
        page.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        page.settimeout(5)
        page.connect(("127.0.0.1", port))
        page.sendall(
            f"GET /play HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        yield page


def send(page: socket.socket, message: dict[str, object]) -> None:
    """Send a short text frame, masked with zeros."""
    text = json.dumps(message).encode()
    page.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)


def test_acting_lengthens_a_visit_and_drawing_does_not_and_every_visit_ends(monkeypatch):
    now = 100.0
    monkeypatch.setattr("dqn_zoo.watching.visitors.time.monotonic", lambda: now)
    visit = Visit(Visits(1, idle_s=60, longest_s=100))
    assert visit.seconds_left() == 60
    now = 150.0
    visit.take(read_message('{"do": "drawn"}'))
    assert visit.seconds_left() == 10
    visit.take(read_message('{"do": "pause"}'))
    assert visit.seconds_left() == 50  # of the hundred
    now = 300.0
    assert visit.seconds_left() == 0
    assert Visit(None).seconds_left() is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--visitors", "2"], "--visitors shows what --agents names and nothing else"),
        (["--allow-host", HOST], "--allow-host goes with --visitors N"),
        (["--idle-minutes", "2"], "--idle-minutes goes with --visitors N"),
        (
            ["--visitors", "1", "--agents", "pretrained/Pong", "--allow-host", "https://x.org"],
            "--allow-host https://x.org is never asked for: expected a name alone",
        ),
        (
            ["--visitors", "1", "--agents", "pretrained/Pong", "--allow-host", "x.org:443"],
            "--allow-host x.org:443 is never asked for",
        ),
        (["--visitors", "0"], "--visitors: expected a whole number of at least 1"),
    ],
)
def test_a_mistake_is_one_line(flags, message, capsys):
    assert main(["--no-browser", *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_two_agents_of_one_name_are_refused(tmp_path, capsys):
    runs = [str(untrained_run(tmp_path / place).path) for place in ("here", "there")]
    assert main(["--no-browser", "--agents", *runs]) == 2
    assert f"{runs[0]} and {runs[1]} are both called dqn/Breakout_1" in capsys.readouterr().err
