"""Runs that were killed or stopped, however often, end with the bits of the undisturbed run.

What is killed is a process of its own; what nobody disturbs is trained in this one.
"""

import csv
import io
import itertools
import json
import random
import re
import shlex
import shutil
import signal
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from support.children import Child

from dqn_zoo.cli.train import main
from dqn_zoo.runs.checkpoint import MANIFEST
from dqn_zoo.runs.metrics import TIMING_COLUMNS
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.recipe_files import available_recipes
from dqn_zoo.settings.recipes import resolve

GAME, SEED = "RoadRunner", 4  # three lives, which are soon lost
STEPS = 320
SETTINGS = {
    "n_timesteps": STEPS,
    "learning_starts": 64,
    "buffer_size": 160,
    "batch_size": 8,
    "target_update_interval": 48,
    "exploration_fraction": 0.5,
    "log_interval": 20,
    "eval_freq": 160,
    "eval_episodes": 1,
    "max_frames": 320,
    "network": "small",
}
DEADLINE_S = 90


@dataclass(frozen=True)
class Case:
    """One kind of run; the cap of 320 frames makes truncations frequent."""

    name: str
    algo: str = "dqn"
    save_freq: int = 60
    extra: dict = field(default_factory=dict)

    def arguments(self, folder: Path) -> list[str]:
        idle = without_effect(resolve(algo=self.algo).config)
        settings = {key: value for key, value in SETTINGS.items() if key not in idle}
        settings |= {"save_freq": self.save_freq} | self.extra
        flags = [f"--set={key}={value}" for key, value in settings.items()]
        run = ["--env", GAME, "--algo", self.algo, "--seed", str(SEED), "-f", str(folder)]
        return [*run, *flags, "--no-progress", "--num-threads", "1"]


DQN_1 = Case("dqn-1-env-n1")
DOUBLE_3 = Case(
    "double-3-envs-n3",
    algo="double-dqn",
    extra={
        "n_envs": 3,
        "n_steps": 3,
        "averaged_weights": 0.95,
        "exploration_spread": 2.0,
        "exploration_zeta": 1.5,
        "exploration_zeta_share": 0.5,
        "train_freq": 6,
        "train_freq_later": 3,
    },
)
DQN_3_STICKY = Case(
    "dqn-3-envs-n1-sticky", save_freq=68, extra={"n_envs": 3, "action_repeat_probability": 0.25}
)
DOUBLE_1 = Case("double-1-env-n3", algo="double-dqn", save_freq=92, extra={"n_steps": 3})
RARE = Case("dqn-1-env-no-saves", save_freq=0)
HALVES = Case("dqn-1-env-two-saves", save_freq=STEPS // 2)
# Noise, priorities and a distribution at once.
RAINBOW_3 = Case("rainbow-3-envs", algo="rainbow", extra={"n_envs": 3, "train_freq": 12})
PQN = Case(
    "pqn-3-envs",
    algo="pqn-laptop",
    extra={"n_envs": 3, "rollout_steps": 16, "num_minibatches": 4, "averaged_weights": 0.95}
    | {"exploration_zeta": 2.0},
)
CORE = [DQN_1, RAINBOW_3, PQN]  # DOUBLE_3 is killed after two signals
ALL = [DQN_1, DOUBLE_3, DQN_3_STICKY, DOUBLE_1]


def recipe_case(algo: str) -> Case:
    """Return a run of a recipe with its own pieces, on networks and at rates for seconds."""
    small: dict = {"n_envs": 2, "train_freq": 20, "gradient_steps": 2, "precision": "float32"}
    config = resolve(algo=algo).config
    if config.network == "impala":
        small |= {"network": "impala", "network_width": 1, "train_freq": 100, "batch_size": 4}
    if config.loss in ("qrdqn", "iqn"):
        small |= {"num_quantiles": 8}
    if config.loss == "iqn":
        small |= {"num_target_quantiles": 6, "num_acting_quantiles": 4}
    if "rollout_steps" not in without_effect(config):
        small = {"n_envs": 2, "rollout_steps": 24, "num_minibatches": 4, "precision": "float32"}
    return Case(algo, algo=algo, extra=small)


RECIPES = [recipe_case(algo) for algo in sorted(available_recipes())]


def start(arguments: list[str]) -> Child:
    return Child("dqn_zoo.cli.train", arguments)


def finish(arguments: list[str], *, expect: int = 0) -> str:
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        code = main(arguments)
    output = printed.getvalue()
    assert code == expect, output
    return output


def run_of(folder: Path) -> Path:
    (path,) = folder.glob(f"*/{GAME}_1")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [
            {key: value for key, value in row.items() if key not in TIMING_COLUMNS}
            for row in csv.DictReader(file)
        ]


def everything(run: Path) -> dict:
    """Return what must not depend on interruptions: weights, best weights, logs without times."""
    result: dict = {name: rows(run / name) for name in
                    ("progress.csv", "episodes.csv", "evaluations.csv")}  # fmt: skip
    for path in run.glob("*model.safetensors"):  # last, best and, where they are averaged, online
        result[path.name] = path.read_bytes()
    return result


def steps_logged(run: Path) -> int:
    """Return the last step in progress.csv; tolerates a run that is only starting."""
    try:
        lines = (run / "progress.csv").read_text().splitlines()
        return int(lines[-1].split(",")[0])
    except (OSError, ValueError, IndexError):
        return 0


def wait_for(condition, process: Child) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.returncode is None, process.output()
        assert time.monotonic() < deadline, "the run did not get there in time"
        time.sleep(0.02)


def kill_at(process: Child, folder: Path, step: int, number: int, delay_s: float) -> str:
    """Send a signal once `step` is logged (and a checkpoint exists), a little later, and wait."""

    def there() -> bool:
        found = list(folder.glob(f"*/{GAME}_1"))
        return bool(found) and steps_logged(found[0]) >= step

    wait_for(there, process)
    time.sleep(delay_s)  # where within the interval the signal falls must not matter
    process.send_signal(number)
    return process.wait(DEADLINE_S)


def resumed_at(output: str) -> int:
    match = re.search(r"at step ([\d,]+)", output[output.index("resumed ") :])
    assert match is not None, output
    return int(match[1].replace(",", ""))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function that gives the run of a case without any interruption, trained once."""
    known: dict[str, Path] = {}

    def run(case: Case) -> Path:
        if case.name not in known:
            folder = tmp_path_factory.mktemp(case.name)
            finish(case.arguments(folder))
            known[case.name] = run_of(folder)
        return known[case.name]

    return run


@pytest.fixture(scope="module")
def undisturbed(trained):
    """Return a function that gives what must come out of a case, whatever interrupts it."""
    return lambda case: everything(trained(case))


@pytest.fixture(scope="module")
def hung_up(tmp_path_factory):
    """The run of `DQN_1`, saved because its terminal was closed."""
    folder = tmp_path_factory.mktemp("hung-up")
    process = start(DQN_1.arguments(folder))
    kill_at(process, folder, 220, signal.SIGHUP, 0.0)
    assert process.returncode == 129
    return run_of(folder)


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "dqn" / run.name))


def check_kills(case: Case, folder: Path, expected: dict, seed: int) -> None:
    """Kill a run twice at random moments, resume it to the end, compare."""
    chance = random.Random(seed)
    process = start(case.arguments(folder))
    kill_at(process, folder, chance.randrange(100, 160, 20), signal.SIGKILL, chance.random() / 12)
    run = run_of(folder)
    process = start(["--resume", str(run), "--no-progress"])
    at_least = Run(run).checkpoint_steps()[-1]
    target = chance.randrange(200, 260, 20)
    output = kill_at(process, folder, target, signal.SIGKILL, chance.random() / 12)
    assert resumed_at(output) == at_least > 0
    at_least = Run(run).checkpoint_steps()[-1]
    output = finish(["--resume", str(run), "--no-progress"])
    assert resumed_at(output) == at_least >= 136
    assert everything(run) == expected


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)
def test_killed_twice_and_resumed_equals_undisturbed(case, tmp_path, undisturbed):
    check_kills(case, tmp_path, undisturbed(case), seed=1)


@pytest.mark.timeout(300)
def test_stopped_by_two_signals_then_killed_equals_undisturbed(tmp_path, undisturbed):
    case = DOUBLE_3
    process = start(case.arguments(tmp_path))
    output = kill_at(process, tmp_path, 100, signal.SIGTERM, 0.02)
    assert process.returncode == 143
    run = run_of(tmp_path)
    assert f"dqn-train --resume {run}" in output
    stopped_at = Run(run).checkpoint_steps()[-1]
    for target, number in ((180, signal.SIGUSR1), (240, signal.SIGKILL)):
        process = start(["--resume", str(run), "--no-progress"])
        output = kill_at(process, tmp_path, target, number, 0.02)
        assert resumed_at(output) == stopped_at
        stopped_at = Run(run).checkpoint_steps()[-1]
    output = finish(["--resume", str(run), "--no-progress"])
    assert resumed_at(output) == stopped_at
    assert everything(run) == undisturbed(case)


def test_changing_one_weight_in_the_checkpoint_changes_the_end(tmp_path, hung_up, undisturbed):
    run = copied(hung_up, tmp_path)
    newest = run / "checkpoints" / f"step_{Run(run).checkpoint_steps()[-1]:09d}"
    weights = load_file(newest / "model.safetensors")
    weights["torso.layers.0.weight"][0, 0, 0, 0] += 1e-3
    save_file(weights, newest / "model.safetensors")
    sign_again(newest)
    finish(["--resume", str(run), "--no-progress"])
    found, expected = everything(run), undisturbed(DQN_1)
    assert found["model.safetensors"] != expected["model.safetensors"]
    assert len(found["progress.csv"]) == len(expected["progress.csv"])


def sign_again(checkpoint: Path) -> None:
    """Make the manifest agree with the files, as somebody who edits a checkpoint would have to."""
    import hashlib

    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"size": len(content), "sha256": digest}
    canonical = json.dumps(manifest, sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(canonical).hexdigest()
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def test_a_time_limit_saves_says_how_to_resume_and_the_rest_equals_undisturbed(
    tmp_path, undisturbed, monkeypatch
):
    folder = tmp_path / "my runs"
    looks = itertools.count()  # a clock that moves by 10 ms with every look at it
    clock = SimpleNamespace(monotonic=lambda: next(looks) / 100)
    monkeypatch.setattr("dqn_zoo.system.signals.time", clock)
    output = finish([*DQN_1.arguments(folder), "--time-limit", "1s"], expect=75)
    run = run_of(folder)
    copied = output.partition("resume it: ")[2].splitlines()[0]
    command, *flags = shlex.split(copied)
    assert (command, flags) == ("dqn-train", ["--resume", str(run)])
    output = finish([*flags, "--no-progress"])
    assert 0 < resumed_at(output) < STEPS
    assert everything(run) == undisturbed(DQN_1)


def test_killed_before_its_first_checkpoint_it_starts_again_and_how_often_is_saved_changes_nothing(
    tmp_path, undisturbed
):
    process = start(RARE.arguments(tmp_path))
    kill_at(process, tmp_path, 20, signal.SIGKILL, 0.0)
    run = run_of(tmp_path)
    assert Run(run).checkpoint_steps() == []
    output = finish(["--resume", str(run), "--no-progress"])
    assert "no checkpoint yet" in output
    assert Run(run).checkpoint_steps() == [STEPS]
    assert everything(run) == undisturbed(DQN_1)


def test_a_damaged_checkpoint_is_skipped_and_the_end_is_the_same(tmp_path, hung_up, undisturbed):
    run = copied(hung_up, tmp_path)
    older, newer = Run(run).checkpoint_steps()
    damaged = run / "checkpoints" / f"step_{newer:09d}" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    output = finish(["--resume", str(run), "--no-progress"])
    assert "skipped" in output
    assert "optimizer.safetensors" in output
    assert resumed_at(output) == older
    assert everything(run) == undisturbed(DQN_1)


def test_going_back_to_an_older_checkpoint_equals_undisturbed_and_loses_nothing(
    tmp_path, undisturbed
):
    finish(HALVES.arguments(tmp_path))
    run = run_of(tmp_path)
    assert Run(run).checkpoint_steps() == [STEPS // 2, STEPS]
    (run / "results.json").write_text("{}")
    older, newer = (Run(run).checkpoint(step) for step in (STEPS // 2, STEPS))
    names = [
        *("progress.csv", "episodes.csv", "evaluations.csv", "results.json"),
        *("model.safetensors", "best_model.safetensors"),
    ]
    before = {name: (run / name).read_bytes() for name in names}
    manifest = (newer / MANIFEST).read_bytes()
    soon = ["--time-limit", "0.01", "--no-progress"]
    output = finish(["--resume", str(older), "--num-threads", "1", *soon], expect=75)
    assert f"\nresume it: dqn-train --resume {run} --num-threads 1\n" in output
    aside = run / "set_aside" / "1"
    assert f"goes back to step {STEPS // 2}: checkpoints after it, logs and models" in output
    assert f"put aside in {aside}" in output
    assert resumed_at(output) == STEPS // 2
    assert {name: (aside / f"old_{name}").read_bytes() for name in names} == before
    assert (aside / newer.name / MANIFEST).read_bytes() == manifest
    assert len(rows(run / "progress.csv")) == 8
    assert (run / "model.safetensors").read_bytes() == (older / "model.safetensors").read_bytes()
    finish(["--resume", str(run), "--no-progress"])  # it has not finished any more
    assert everything(run) == undisturbed(DQN_1)
    for asked, reason in (
        (newer, "has finished"),
        (Run(run).checkpoint(7), "no checkpoint"),
    ):
        assert reason in finish(["--resume", str(asked), "--no-progress"], expect=2)
    assert not (run / "set_aside" / "2").exists()


def test_a_finished_run_trains_on_to_a_larger_n_as_if_it_had_never_ended(
    tmp_path, trained, undisturbed
):
    run = copied(trained(DQN_1), tmp_path)
    refused = finish(["--resume", str(run)], expect=2)
    assert "larger -n" in refused
    finish(["--resume", str(run), "-n", "400", "--no-progress"])
    assert (
        rows(run / "progress.csv")[: len(undisturbed(DQN_1)["progress.csv"])]
        == (undisturbed(DQN_1)["progress.csv"])
    )
    assert rows(run / "progress.csv")[-1]["steps"] == "400"
    # The schedule kept its horizon: epsilon stays where it had arrived at step 160.
    assert {row["epsilon"] for row in rows(run / "progress.csv")[8:]} == {"0.01"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_killed_at_many_random_moments_equals_undisturbed(case, seed, tmp_path, undisturbed):
    check_kills(case, tmp_path, undisturbed(case), seed=100 + seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", RECIPES, ids=lambda case: case.name)
def test_every_recipe_killed_twice_and_resumed_equals_undisturbed(case, tmp_path, undisturbed):
    check_kills(case, tmp_path, undisturbed(case), seed=7)


def test_the_runs_of_this_file_have_truncations_lost_lives_and_evaluations(undisturbed):
    result = undisturbed(DQN_1)
    assert len(result["evaluations.csv"]) == 2
    assert len(result["episodes.csv"]) >= 4
    lengths = [int(row["length_steps"]) for row in result["episodes.csv"]]
    assert lengths.count(80) >= 2, "games that the cap of 320 frames cut off"
    assert min(lengths) < 80, "games that ended by themselves"
