"""Every command that a message offers is understood; `support.offers` sees to the states."""

import ast
import os
import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from support.offers import COMMANDS, ROOT, check_command
from support.run_makers import make_run, weights_of

from dqn_zoo.cli import enjoy, train
from dqn_zoo.cli.preview import hint_on_unfinished
from dqn_zoo.errors import UserError
from dqn_zoo.play.session import choose_weights
from dqn_zoo.runs.checkpoint import write_checkpoint
from dqn_zoo.runs.manifest import may_be_training
from dqn_zoo.runs.run import Run, lock
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.training.preparation import complete

PACKAGE = ROOT / "dqn_zoo"
ANY = "1"
"""Stands for what only a running program knows; a number, because some flags take one."""
WITH_FLAGS = re.compile(rf"\b(?:{'|'.join(COMMANDS)})(?: +[^\s`;,)]+)* +-(?:[^`;,)#\n]|,(?=\S))*")
COPIED = {"cli", "sharing/card.py", "sharing/space.py", "settings/recipes.py"}
"""Where commands are written for other places than this one: help texts, cards, files."""


def offers() -> Iterator[tuple[str, list[str]]]:
    """Yield every call of `shell.command`, values that are not known as `ANY`."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "shell.command":
                words = [each for each in node.args if not isinstance(each, ast.Starred)]
                known = [each.value if isinstance(each, ast.Constant) else ANY for each in words]
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", known


def texts(file: Path) -> Iterator[str]:
    """Yield the texts of a module but its docstrings, values in them as `ANY`."""
    tree = ast.parse(file.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    known = docs | {id(part) for node in joined for part in node.values}
    for node in joined:
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in known:
            yield node.value


@pytest.mark.parametrize(("where", "words"), [pytest.param(*each, id=each[0]) for each in offers()])
def test_a_command_of_a_message_is_understood(where, words):
    check_command(words[0], words[1:], is_here=False)


def test_commands_are_offered_by_one_function_and_others_are_understood_too():
    assert len(list(offers())) > 15
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        for text in texts(file):
            for line in WITH_FLAGS.findall(text):
                assert {name, name.split("/")[0]} & COPIED, f"{name}: {line!r} is no shell.command"
                program, *words = shlex.split(re.sub(r" N\b", f" {ANY}", line))
                check_command(program, words, is_here=False)


# --- Advice that was refused -------------------------------------------------------------------


def test_a_number_that_two_runs_have_is_resumed_as_the_message_says(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = {game: make_run(Path("logs"), game) for game in ("Breakout", "Pong")}
    asked = ["--resume", "--exp-id", "1"]
    assert train.main(asked) == 2
    labels = re.search(r"ambiguous: (.*); name one of them$", capsys.readouterr().err.strip())[1]
    for label, (game, run) in zip(labels.split(", "), runs.items(), strict=True):
        for flags in (["--resume", label, "--exp-id", "1"], [*asked, "--env", game]):
            parsed = train.build_parser().parse_args(flags)
            train.check_flags(parsed)
            assert train._run_to_resume(parsed)[0] == run


@pytest.mark.parametrize(("before", "after"), [(100_000, 500_000), (250_000, 250_000), (0, 0)])
def test_another_device_saves_as_often_as_suits_it_unless_somebody_chose(
    before, after, tmp_path, monkeypatch
):
    run = make_run(tmp_path, device="cpu", save_freq=before, n_timesteps=5_000_000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    parsed = train.build_parser().parse_args(["--resume", str(run.path), "--device", "cuda"])
    assert complete(train._run_to_resume(parsed)[1]).save_freq == after


def test_the_device_of_before_in_other_words_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = make_run(Path("logs"), device="cpu", num_threads=1)
    for flags in ([], ["--device", "auto"], ["--device", "cpu"]):
        parsed = train.build_parser().parse_args(["--resume", str(run.path), *flags])
        assert train._run_to_resume(parsed)[1].num_threads == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    parsed = train.build_parser().parse_args(["--resume", str(run.path), "--device", "auto"])
    assert train._run_to_resume(parsed)[1].num_threads == 0  # chosen for the other device


@pytest.mark.parametrize("flags", [["--device", "cpu"], ["--set", "device=cpu"]])
def test_a_device_chooses_the_recipe_however_it_is_given(flags, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert train._resolve(train.build_parser().parse_args(flags)).config.algo == "laptop"
    assert train._resolve(train.build_parser().parse_args([])).config.algo == "gpu"


def test_make_train_resumes_its_latest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = make_run(Path("logs"), "SpaceInvaders", "laptop")
    make_run(Path("logs"), "Pong", "laptop")  # later
    [recipe] = re.findall(r"dqn-train (--env .*)\$\(ARGS\)", (ROOT / "Makefile").read_text())
    parsed = train.build_parser().parse_args([*recipe.split(), "--resume"])
    train.check_flags(parsed)
    assert train._run_to_resume(parsed)[0] == own


@pytest.mark.parametrize("choice", ["default", "best", "last", "last_checkpoint"])
def test_weights_that_are_offered_instead_are_there(tmp_path, choice):
    content = weights_of(1, 100, Config(network="small"))
    for number, has in enumerate(product((False, True), repeat=3)):
        run = make_run(tmp_path / str(number), network="small")
        for file in (run.best_model_file, run.model_file):
            if has[file == run.model_file]:
                file.write_bytes(content)
        if has[2]:
            write_checkpoint(run.checkpoints, 100, [("model.safetensors", content)])
        has_asked = dict(default=has[0] or has[1], best=has[0], last=has[1], last_checkpoint=has[2])
        if has_asked[choice]:
            assert choose_weights(run, choice).file.exists()
            continue
        with pytest.raises(UserError) as refused:
            choose_weights(run, choice)
        offered = re.findall(r"--load-[a-z-]+", str(refused.value))
        assert bool(offered) == any(has), refused.value
        for flag in offered:
            parsed = enjoy.build_parser().parse_args([flag])
            assert choose_weights(run, parsed.weights).file.exists()
        assert offered or "dqn-train --resume" in str(refused.value)


# --- The start -----------------------------------------------------------------------------------


def test_a_run_that_waits_is_offered_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve(env="Breakout").config
    hints = lambda: list(hint_on_unfinished(Path("logs"), config))  # noqa: E731
    assert hints() == []
    run: Run = make_run(Path("logs"), "Breakout")
    make_run(Path("logs"), "Pong")
    assert hints() == []  # nothing was saved yet
    write_checkpoint(run.checkpoints, 100, [("model.safetensors", b"")])
    [line] = hints()
    assert not may_be_training(run)  # nor does the question make it seem so
    with lock(run):
        assert hints() == []
        # A container that is gone has taken its name with it, and nobody waits for it for ever.
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        assert hints() == []
        for file in (run.progress_file, run.manifest_file):
            if file.exists():
                os.utime(file, (0, 0))
        assert hints() == [line]
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
    assert "logs/dqn/Breakout_1 stopped at step 100; dqn-train --resume logs/dqn/Breakout_1" in line
    manifest = run.manifest_file.read_text()
    run.manifest_file.write_text(
        manifest.replace('"end_reason": null', '"end_reason": "finished"').replace(
            '"end_step": null', '"end_step": 1'
        )
    )
    assert hints() == []
