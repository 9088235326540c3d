"""What all commands have, and the one name for them, `python -m dqn_zoo`."""

import runpy
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import pytest
from support.offers import COMMANDS

import dqn_zoo
from dqn_zoo.cli import commands


def test_every_entry_point_is_listed(capsys):
    modules = {name: f"dqn_zoo.cli.{module}:main" for name, module in commands.COMMANDS.items()}
    assert modules == COMMANDS
    assert commands.main([]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        [line] = [line for line in listed.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_version_however_it_is_started(name, capsys, monkeypatch):
    module = f"dqn_zoo.cli.{commands.COMMANDS[name]}"
    monkeypatch.setattr(sys, "argv", [name, "--version"])
    script = import_module(module).main
    monkeypatch.delitem(sys.modules, module)
    for start in (
        script,
        partial(runpy.run_module, module, run_name="__main__"),
        partial(commands.main, [name.removeprefix("dqn-"), "--version"]),
    ):
        with pytest.raises(SystemExit) as ended:
            start()
        assert not ended.value.code
        assert capsys.readouterr().out == f"{name} of dqn_zoo {dqn_zoo.__version__}\n"


def test_the_package_is_run_by_its_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dqn_zoo", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("dqn_zoo", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out == f"dqn_zoo {dqn_zoo.__version__}\n"
    assert commands.main(["enjoi"]) == 2
    assert "no command is called 'enjoi': did you mean dqn-enjoy?" in capsys.readouterr().err


def test_no_module_is_called_like_a_command_and_does_nothing():
    for name in COMMANDS:
        word = name.removeprefix("dqn-").replace("-", "_")
        assert find_spec(f"dqn_zoo.{word}") is None, f"python -m dqn_zoo.{word} prints nothing"


def test_the_package_shows_its_public_names():
    shown = {name for name in dir(dqn_zoo) if not name.startswith("_")}
    assert shown == set(dqn_zoo.__all__)
    assert all(getattr(dqn_zoo, name) is not None for name in shown)


@pytest.mark.parametrize("path", [".", "..", ""])
@pytest.mark.parametrize(
    "line",
    [
        "train -c PATH --print-config", "train -c / --print-config",
        "train -i PATH --print-config", "train --resume PATH",
        "enjoy --no-render --run PATH", "push --dry-run --run PATH", "pull PATH", "verify PATH",
        "import PATH", "export-sb3 --run PATH", "export-onnx --run PATH -o x.onnx", "plot PATH",
        "report PATH", "bench --table -f PATH", "leaderboard --csv PATH", "watch --run PATH",
    ],
)  # fmt: skip
def test_a_path_that_has_no_name_is_answered_in_one_line(line, path, tmp_path, monkeypatch, capsys):
    (folder := tmp_path / "logs").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command, *flags = [path if word == "PATH" else word for word in line.split()]
    code = import_module(f"dqn_zoo.cli.{commands.COMMANDS[f'dqn-{command}']}").main(flags)
    printed = capsys.readouterr()
    assert (code, printed.err.count("\n")) == (2, 1), printed
    assert list(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize(
    "line",
    [
        "enjoy --episodes 1e10", "enjoy --num-threads 1e10", "enjoy --n-envs 1e10",
        f"enjoy --seed 1{'0' * 46}", f"verify dqn/Pong_1 --seed 1{'0' * 46}",
        "plot logs --smooth 1e12", "push --episodes 1e12", "bench --seeds 1e12",
        f"tune --seed 1{'0' * 46}", "tune --n-trials 1e12", "watch --visitors 1e12",
        "watch --visitors 1 --idle-minutes 1e12",
    ],
)  # fmt: skip
def test_a_number_that_nobody_can_mean_is_refused_with_the_largest(line, capsys):
    command, *flags = line.split()
    assert import_module(f"dqn_zoo.cli.{commands.COMMANDS[f'dqn-{command}']}").main(flags) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert "expected a whole number of at most" in message
