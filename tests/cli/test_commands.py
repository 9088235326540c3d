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
