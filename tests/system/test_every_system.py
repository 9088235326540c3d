"""What is different from one system to another stays in system/, and a run needs none of it."""

import ast
import builtins
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # noqa: F401  (these need what is taken away below)
import pytest
import torch  # noqa: F401

import dqn_zoo
from dqn_zoo.cli.commands import main as commands
from dqn_zoo.runs.finding import find_run
from dqn_zoo.settings.games import GAMES
from dqn_zoo.settings.recipe_files import available_recipes
from dqn_zoo.system import files, locks, shell, signals
from dqn_zoo.system.files import is_portable, link_or_copy, move

PACKAGE = Path(dqn_zoo.__file__).parent
ELSEWHERE = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "system"]

# What modules outside of system/ may use of modules that differ from system to system.
EVERYWHERE = {
    "os": {
        *("O_WRONLY", "devnull", "dup2", "environ", "fsync", "getpid", "isatty", "open", "path"),
        *("read", "stat", "strerror"),
    },
    "signal": {"Signals"},
}
ONE_SYSTEMS = {
    *("fcntl", "grp", "msvcrt", "nt", "posix", "pty", "pwd", "resource", "syslog", "termios"),
    *("tty", "winreg"),
}
# Methods of pathlib and arguments of subprocess that one system has not, or has otherwise.
OTHERWISE = {
    *("chmod", "group", "hardlink_to", "is_mount", "is_socket", "lchmod", "link_to", "owner"),
    *("readlink", "rename", "renames", "symlink_to"),
}
ASKS_TO_END = ("_process.terminate", "_process.send_signal")
POPEN = {"creationflags", "pass_fds", "preexec_fn", "process_group", "start_new_session", "umask"}
POSIX_ALONE = {
    "os": "chown fchmod fork forkpty getpgid getuid getloadavg killpg link lockf mkfifo nice "
    "posix_fadvise posix_spawn pread pwrite register_at_fork sched_getaffinity setsid statvfs "
    "symlink sync sysconf",
    "signal": "SIGALRM SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 SIGXCPU",
}


def calls_of_one_system(tree: ast.AST) -> Iterator[str]:
    """Yield what a module uses that is not the same everywhere."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name in ONE_SYSTEMS)
            case ast.ImportFrom(module=str(module), names=names) if module in ONE_SYSTEMS:
                yield module
            case ast.Attribute(value=ast.Name(id=("os" | "signal") as module), attr=name):
                if name not in EVERYWHERE[module]:
                    yield f"{module}.{name}"
            case ast.Call(func=function, args=args, keywords=keywords):
                yield from (each.arg for each in keywords if each.arg in POPEN)
                called = ast.unparse(function)
                name = called.rpartition(".")[2]
                is_file_replace = name == "replace" and len(args) == 1 and not keywords
                if name in OTHERWISE or called.endswith(ASKS_TO_END) or is_file_replace:
                    yield called


NO_FILES = ("Sweep.", "archive.", "os.", "webbrowser.", "choice.", "gallery.", "self._gallery.")
"""Whose `open` opens no text."""


def texts_without_encoding(tree: ast.AST) -> Iterator[str]:
    """Yield the calls whose text Windows would read and write in an encoding of its own."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="read_text" | "write_text"), keywords=keywords):
                is_text = True
            case ast.Call(func=ast.Name(id="open") | ast.Attribute(attr="open"), keywords=keywords):
                words = [each.value for each in node.args if isinstance(each, ast.Constant)]
                is_text = not words or any(re.fullmatch(r"[rwa]\+?t?", str(each)) for each in words)
                is_text &= not ast.unparse(node.func).startswith(NO_FILES)
            case _:
                continue
        if is_text and "encoding" not in {each.arg for each in keywords}:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_one_system_has_stays_in_system(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(calls_of_one_system(tree)) == []
    assert list(texts_without_encoding(tree)) == []


def test_what_is_looked_for_is_found():
    tree = ast.parse(
        "import fcntl\nfrom pwd import x\nos.fork()\nsignal.SIGHUP\npath.rename(target)\n"
        "path.replace(target)\nPopen(a, start_new_session=True)\ntext.replace(a, b)\n"
    )
    found = {"fcntl", "pwd", "os.fork", "signal.SIGHUP", "path.rename", "path.replace"}
    assert set(calls_of_one_system(tree)) == found | {"start_new_session"}
    tree = ast.parse(
        "a.open()\na.open('w')\na.open('rb')\nopen(a, encoding='utf-8')\na.read_text()"
    )
    assert list(texts_without_encoding(tree)) == ["a.open()", "a.open('w')", "a.read_text()"]


@pytest.mark.parametrize("name", ["files", "locks", "machine", "processes", "shell", "signals"])
def test_the_modules_of_the_system_are_imported_where_posix_is_missing(name, monkeypatch):
    take_posix_away(monkeypatch)
    spec = importlib.util.spec_from_file_location("twin", PACKAGE / "system" / f"{name}.py")
    twin = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "twin", twin)
    spec.loader.exec_module(twin)
    if name == "signals":
        assert set(twin.ENDING) == {"SIGINT", "SIGTERM"}


def take_posix_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in POSIX_ALONE.items():
        for each in names.split():
            monkeypatch.delattr(f"{module}.{each}", raising=False)
    load = builtins.__import__

    def refuse_to_us(name, namespace=None, *arguments, **options):
        ours = str((namespace or {}).get("__name__")).startswith(("dqn_zoo", "twin"))
        if ours and name in ONE_SYSTEMS:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return load(name, namespace, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse_to_us)


@pytest.fixture
def windows(tmp_path, monkeypatch) -> Iterator[list[Path]]:
    """Pretend that this is Windows, as far as one process can; return what was moved.

    No fork, no links, no fcntl, no signal but Ctrl-C; no folder can be opened or replaced, and each
    file is looked at by another program when it is moved first.
    """
    opened, moved = os.open, []

    def open_file(path, *arguments, **options):
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    def replace(source: Path, target: Path) -> Path:
        if source not in moved:
            moved.append(source)
            raise PermissionError(13, "The process cannot access the file", str(source))
        if Path(target).is_dir():
            raise PermissionError(5, "Access is denied", str(target))
        os.replace(source, target)
        return Path(target)

    def no_links(path: Path, target: Path) -> None:
        raise NotImplementedError("Path.hardlink_to() is unsupported on this system")

    take_posix_away(monkeypatch)
    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    monkeypatch.setattr(signals, "ENDING", {"SIGINT": signal.SIGINT})
    monkeypatch.setattr(signals, "_ALWAYS", (signal.SIGINT,))
    return moved


def test_a_run_is_trained_stopped_resumed_played_and_shared(windows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = "learning_starts=60 buffer_size=100 batch_size=4 exploration_fraction=1 seed=3"
    settings += " max_frames=200 eval_freq=100 eval_episodes=1 save_freq=60 network=small n_envs=1"
    train = ["train", "--env", "Breakout", "--algo", "dqn", "-n", "200"]
    quiet = ["--num-threads", "1", "--no-progress"]
    calls = 0

    def interrupt_in_the_middle(self: signals.Stop) -> str | None:
        nonlocal calls
        calls += 1
        if calls == 130:
            signal.raise_signal(signal.SIGINT)
        return self._signal

    with monkeypatch.context() as patch:
        patch.setattr(signals.Stop, "reason", interrupt_in_the_middle)
        changed = [f"--set={each}" for each in settings.split()]
        assert commands([*train, *quiet, *changed]) == 130
    run = find_run("logs")
    assert 60 < run.checkpoint_steps()[-1] < 200
    with locks.hold(run.path, what="run", otherwise="wait"):
        assert commands(["train", "--resume"]) == 2
        assert "is being written by process" in capsys.readouterr().err
    assert commands(["train", "--resume", *quiet]) == 0
    play = ["--episodes", "2", "--num-threads", "1", "--n-envs", "1", "--no-render"]
    assert commands(["enjoy", *play]) == 0
    assert commands(["push", *play, "--dry-run"]) == 0
    assert "dry run" in capsys.readouterr().out
    assert {"model.safetensors", "results.json", "README.md"} <= {
        path.name for path in (run.path / "hub").rglob("*")
    }
    assert len(windows) > 5
    everything = [*tmp_path.rglob("*")]
    assert not [path for path in everything if path.name.endswith((".tmp", ".unfinished"))]
    names = {path.name for path in everything} - {locks.LOCK_NAME}
    assert [name for name in names if not is_portable(name)] == []


def test_a_move_waits_for_who_has_the_file_open_and_gives_up_in_the_end(
    windows, tmp_path, monkeypatch
):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    move(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    other = tmp_path / "other"
    other.write_bytes(b"new")
    with pytest.raises(PermissionError):
        move(other, tmp_path / "file")
    assert other.read_bytes() == b"new"
    link_or_copy(other, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"new"


def test_a_file_system_without_links_gets_a_copy_and_others_a_link(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"content")
    link_or_copy(first, second)
    assert second.samefile(first)


def test_names_of_games_and_recipes_are_valid_on_every_system():
    assert [name for name in (*GAMES, *available_recipes()) if not is_portable(name)] == []
    bad = ["con", "NUL.yml", "com1", "a:b", "a b", "a.", "", ".a", "a/b", "a\\b", "a?", "lpt9.txt"]
    assert not [name for name in bad if is_portable(name)]
    assert is_portable("console")


def test_commands_are_quoted_for_the_shell_of_the_system():
    words = ["dqn-train", "--resume", r"C:\my runs\Pong_1"]
    assert shell._joined(words, "nt") == r'dqn-train --resume "C:\my runs\Pong_1"'
    assert shell._joined(words, "posix") == r"dqn-train --resume 'C:\my runs\Pong_1'"
    assert shell._joined(["dqn-train", "-f", "R&D", "--set", "gamma=0.9"], "nt") == (
        'dqn-train -f "R&D" --set gamma=0.9'
    )
