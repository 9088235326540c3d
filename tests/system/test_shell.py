"""Commands in messages: quoted, and named so that they run from where the user stands."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dqn_zoo.system import shell

OWN = Path(sys.executable).parent / "dqn-train"


@pytest.fixture(autouse=True)
def no_offers(offers_hold, monkeypatch):
    """Let the words be anything: the commands of this file are no offers."""
    monkeypatch.setattr("support.offers.check_command", lambda *_, **__: None)


def test_words_are_quoted_and_a_path_is_never_a_flag():
    line = shell.command("dqn-train", "--resume", Path("my runs/Pong_1"), "-n", 5)
    assert line == "dqn-train --resume 'my runs/Pong_1' -n 5"
    assert shlex.split(shell.command("dqn-enjoy", "--run", Path("-x")))[-1] == "./-x"


def test_outside_of_the_environment_the_path_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert shell.command("dqn-train") == shlex.quote(str(OWN))
    printed = subprocess.run([*shlex.split(shell.command("dqn-train")), "--version"],
                             capture_output=True, check=True, text=True)  # fmt: skip
    assert printed.stdout.startswith("dqn-train of dqn_zoo ")
    monkeypatch.chdir(OWN.parents[1])
    assert shell.command("dqn-train") == f"{OWN.parent.name}/dqn-train"


def test_the_program_of_another_environment_is_not_meant(tmp_path, monkeypatch):
    (other := tmp_path / "dqn-train").write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    monkeypatch.chdir(tmp_path)
    assert shell.command("dqn-train") == shlex.quote(str(OWN))


def test_without_entry_points_the_module_is_named(tmp_path, monkeypatch):
    python = tmp_path / "python3"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path))
    line = shell.command("dqn-export-sb3", "-o", "x")
    assert line == f"{shlex.quote(str(python))} -m dqn_zoo export-sb3 -o x"
