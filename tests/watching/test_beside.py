"""The page beside a training: it ends with it, changes nothing of it, and may end before."""

import contextlib
import hashlib
import os
import re
import signal
import sys

import psutil
import pytest
from support.watched import Page, get, untrained_run, wait_until

from dqn_zoo.cli.train import main
from dqn_zoo.watching.beside import page_beside
from dqn_zoo.watching.serving import bind

SMALL = [
    "--set=n_timesteps=200", "--set=learning_starts=60", "--set=buffer_size=100",
    "--set=batch_size=4", "--set=exploration_fraction=1", "--set=eval_freq=0",
    "--set=network=small", "--num-threads=1", "--no-progress", "--seed=3",
    "--env=Breakout", "--algo=dqn",
]  # fmt: skip


def pages() -> list[psutil.Process]:
    """Return the processes of pages that this one has started."""
    return [each for each in psutil.Process().children() if "spawn_main" in str(each.cmdline())]


def test_a_run_with_a_page_learns_the_same_to_the_bit_and_ends_it(tmp_path, capfd):
    digests = []
    for flags in ([], ["--watch", "--no-browser"]):
        assert main([*SMALL, *flags, "-f", str(tmp_path / f"logs{len(flags)}")]) == 0
        [weights] = (tmp_path / f"logs{len(flags)}").glob("*/*/model.safetensors")
        digests.append(hashlib.sha256(weights.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    printed = capfd.readouterr()
    [address] = re.findall(r"watch it at (http://127\.0\.0\.1:\S+/train\?token=\S+)", printed.out)
    assert len(address) > 50
    assert "page has ended" not in printed.err
    assert pages() == []


def test_it_is_served_and_nothing_of_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("dqn_zoo.watching.beside.END_S", 60.0)  # a busy machine keeps it waiting
    (tmp_path / "temporary").mkdir()
    untrained_run(tmp_path / "logs")
    with page_beside(pytest.fail) as begin:
        address = begin(tmp_path / "logs")
        port, path = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(.*)", address).groups()
        assert get(int(port), "/train").status == 403
        assert get(int(port), path).status == 200  # which waits for the server
        assert b"dqn/Breakout_1" in get(int(port), path.replace("train", "runs")).content
        assert list((tmp_path / "temporary").iterdir()) != []  # a folder for films
        [page] = pages()
        if sys.platform != "win32":
            assert page.nice() == min(psutil.Process().nice() + 10, 19)
        assert (tmp_path / "logs" / f".page-{page.pid}.log").read_text() == ""
        if sys.platform != "win32":  # where a signal ends a process where it stands
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
                page.send_signal(getattr(signal, name))
        assert get(int(port), path).status == 200, "what ends the training leaves it the page"
    assert pages() == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["dqn"]


def test_its_end_is_one_line_and_the_training_goes_on(tmp_path):
    said: list[str] = []
    with page_beside(said.append) as begin:
        port = int(re.search(r":(\d+)/", begin(tmp_path))[1])
        [page] = pages()
        page.kill()
        wait_until(lambda: said)
        with bind("127.0.0.1", port):
            pass  # nobody holds it
    [line] = said
    assert line.startswith("the page has ended")
    assert "the training goes on" in line
    assert f"-f {tmp_path} opens the page again" in line


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads that take what is left")
def test_a_game_beside_a_training_computes_only_where_nothing_else_does(tmp_path):
    def policies(page: psutil.Process) -> list[int]:
        return [os.sched_getscheduler(thread.id) for thread in page.threads()]

    with page_beside(pytest.fail) as begin:
        port, token = re.search(r":(\d+)/train[?]token=(.*)", begin(tmp_path)).groups()
        assert get(int(port), f"/?token={token}").status == 200
        [page] = pages()
        assert os.SCHED_IDLE not in policies(page), "it is served at once"
        with Page(int(port), token):
            wait_until(lambda: policies(page).count(os.SCHED_IDLE) == 1)


def test_a_training_that_fails_ends_the_page(tmp_path):
    with contextlib.suppress(ZeroDivisionError), page_beside(pytest.fail) as begin:
        begin(tmp_path)
        [page] = pages()
        raise ZeroDivisionError
    assert not page.is_running()


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "websockets"])
def test_without_the_extra_it_says_so_before_anything_is_made(
    missing, tmp_path, monkeypatch, capsys
):
    ours = [name for name in sys.modules if name.startswith("dqn_zoo.watching.")]
    theirs = [name for name in sys.modules if name.startswith("uvicorn.protocols.websockets")]
    gone = [name for name in sys.modules if name.split(".")[0] == missing]
    for name in {*ours, *theirs, *gone}:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main([*SMALL, "--watch", "-f", str(tmp_path / "logs")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --watch needs {missing}")
    assert "pip install '.[watch]'" in line
    assert not (tmp_path / "logs").exists()


def test_the_browser_is_a_matter_of_the_page(tmp_path, capsys):
    assert main([*SMALL, "--no-browser", "-f", str(tmp_path / "logs")]) == 2
    assert "--no-browser goes with --watch" in capsys.readouterr().err
