"""Damaged weights are never played: they are refused, or come back from an intact copy."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from support.run_makers import make_run, weights_of

from dqn_zoo import load_agent
from dqn_zoo.cli.enjoy import main as enjoy
from dqn_zoo.cli.push import main as push
from dqn_zoo.errors import UserError
from dqn_zoo.play.weights import load_weights, parse_weights, weights_bytes
from dqn_zoo.runs.checkpoint import DamagedError, write_checkpoint
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config

SMALL = Config(network="small")
LAST, BEST = weights_of(1, 3_000, SMALL), weights_of(2, 2_000, SMALL)
TINY = {"b": torch.tensor([1.5, -2.0]), "a": torch.arange(6, dtype=torch.float32).view(2, 3)}
TINY_BYTES = weights_bytes(TINY, {"steps": 7, "env": "Pong"})


def without_digest(content: bytes, steps: int) -> bytes:
    """Return the weights as earlier versions wrote them."""
    return save(parse_weights(content), metadata={"dqn_zoo": json.dumps({"steps": steps})})


def flip(file: Path, place: int = -2_000, *, size: int = 4) -> None:
    content = bytearray(file.read_bytes())
    content[place : place + size] = bytes(byte ^ 0x11 for byte in content[place : place + size])
    file.write_bytes(content)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("master"), network="small")
    run.model_file.write_bytes(LAST)
    run.best_model_file.write_bytes(BEST)
    files = [("model.safetensors", weights_of(3, 2_500, SMALL)), ("best.safetensors", BEST)]
    write_checkpoint(run.checkpoints, 2_500, files)
    return run


@pytest.fixture
def run(master: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(master.path, tmp_path / "logs" / "dqn" / "Breakout_1"))


@given(place=st.integers(0, len(TINY_BYTES) - 1), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_every_flipped_bit_of_a_weights_file_is_noticed_or_changes_nothing(place, bit):
    content = bytearray(TINY_BYTES)
    content[place] ^= 1 << bit
    try:
        weights = parse_weights(bytes(content))
    except DamagedError:
        return
    assert weights.keys() == TINY.keys()
    assert all(torch.equal(weights[name], value) for name, value in TINY.items())


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_weights_or_damage(content):
    with pytest.raises(DamagedError):
        parse_weights(content)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_whoever_signed_them(value):
    wrong = {"a": torch.tensor([1.0, value, value])}
    with pytest.raises(DamagedError, match="2 of the 3 numbers in a are not finite"):
        parse_weights(weights_bytes(wrong, {}))


@pytest.mark.parametrize("has_digest", [True, False], ids=["own-digest", "of-an-earlier-version"])
def test_a_damaged_best_model_comes_back_from_the_checkpoint(run: Run, has_digest: bool):
    intact = BEST
    if not has_digest:
        intact = without_digest(BEST, 2_000)
        run.best_model_file.write_bytes(intact)
        write_checkpoint(run.checkpoints, 2_600, [("best.safetensors", intact)])
    flip(run.best_model_file)
    with pytest.warns(UserWarning, match=r"best_model.* was damaged .* is again as in checkpoints"):
        load_agent(run.path)
    assert run.best_model_file.read_bytes() == intact


def test_enjoy_says_so_in_one_line_and_plays_the_intact_copy(run: Run, capsys):
    flip(run.best_model_file)
    flags = ["--run", str(run.path), "--episodes", "1", "--num-threads", "1", "--no-render"]
    assert enjoy(flags) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1
    played = json.loads(run.results_file.read_text())["weights"]
    assert played["sha256"] == hashlib.sha256(BEST).hexdigest()


@pytest.mark.parametrize("command", [enjoy, push], ids=["enjoy", "push"])
def test_damaged_last_weights_are_refused_and_the_results_stay(run: Run, command, capsys):
    run.results_file.write_text("{}")
    flip(run.model_file)
    flags = ["--run", str(run.path), "--load-last", "--num-threads", "1"]
    assert command([*flags, "--dry-run"] if command is push else flags) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "model.safetensors is damaged" in line
    assert re.search(r"take those of \S+/checkpoints/step_\d+$", line)
    assert run.results_file.read_text() == "{}"


def test_damaged_weights_are_no_start_of_a_training(run: Run):
    flip(run.model_file)
    with pytest.raises(UserError, match="is damaged"):
        load_weights(run.model_file)


def test_results_tell_of_weights_of_an_earlier_version_that_were_changed_since(run: Run):
    old = without_digest(LAST, 3_000)
    run.model_file.write_bytes(old)
    digest = hashlib.sha256(old).hexdigest()
    played = {"file": "model.safetensors", "steps": 3_000, "sha256": digest}
    run.results_file.write_text(json.dumps({"weights": played}))
    load_weights(run.model_file)
    flip(run.model_file, size=1)
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_weights(run.model_file)
    pushed = run.path / "hub" / "dqn-Breakout" / "model.safetensors"
    pushed.parent.mkdir(parents=True)
    pushed.write_bytes(old)
    with pytest.warns(UserWarning, match="again as in hub/dqn-Breakout/model.safetensors"):
        load_weights(run.model_file)
    assert run.model_file.read_bytes() == old


def test_the_weights_of_a_damaged_checkpoint_are_refused(run: Run):
    flip(run.checkpoint(2_500) / "model.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        load_agent(run.path, 2_500)


def test_weights_of_one_game_do_not_play_another(run: Run):
    run.best_model_file.write_bytes(weights_bytes(parse_weights(BEST), {"env": "Pong"}))
    with pytest.raises(UserError, match="plays Pong, its settings are of Breakout"):
        load_agent(run.path)
