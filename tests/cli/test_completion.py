"""What dqn-completion prints, in a real shell."""

import shutil
import subprocess
import sys

import pytest

from dqn_zoo.cli.commands import COMMANDS
from dqn_zoo.cli.completion import main
from dqn_zoo.settings.games import GAMES

COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
"$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')" "$1" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_commands_games_recipes_and_settings(tmp_path, capsys):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    assert main(["bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    for words, expected in (
        (["dqn-train", "--env", "Space"], ["SpaceInvaders", "SpaceWar"]),
        (["dqn-train", "--algo", "rain"], ["rainbow", "rainbow-lite"]),
        (["dqn-train", "--set", "cuda_"], ["cuda_graph=auto", "cuda_graph=never"]),
        (["dqn-train", "--set", "gam"], ["gamma=0.99"]),
        (["dqn-train", "--n-"], ["--n-timesteps", "--n-envs"]),
        (["dqn-enjoy", "--protocol", ""], ["zoo", "machado", "sb3"]),
        (["dqn-bench", "--games", "Po"], ["Pong", "Pooyan"]),
        (["dqn-completion", ""], ["bash", "zsh"]),
        (["dqn-train", "--tru"], []),  # not --truncate-last-trajectory, which is refused
        (["dqn-train", "--track", ""], ["wandb", "trackio"]),
    ):
        ended = subprocess.run(
            ["bash", "--norc", "-c", COMPLETE, "bash", script, *words],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stdout.split() == expected, (words, ended.stderr)


def test_zsh_gets_every_command(capsys):
    assert main(["zsh"]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert f"compdef _shtab_{command.replace('-', '_')} -N {command}\n" in script
    assert " ".join(list(GAMES)[:9]) in script


def test_without_shtab_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["bash"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("in a clone, or pip install shtab")
