"""`dqn-train --hub-backup` and `--resume hf://...`: killed here and there; a Hub that fails."""

import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.children import Child
from support.hub_commands import DEADLINE_S, Computer
from support.hub_standin import HubStandin, running_hub

from dqn_zoo.runs.run import Run, lock
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.starting import train

REPO = "ann/backup"
COMMON = {
    "learning_starts": 40, "buffer_size": 160, "batch_size": 8, "target_update_interval": 48,
    "log_interval": 20, "eval_freq": 0, "max_frames": 320, "network": "small", "seed": 4,
    "num_threads": 1, "n_envs": 1, "device": "cpu", "precision": "float32",
}  # fmt: skip
SETTINGS = COMMON | {"n_timesteps": 160, "save_freq": 20}
FLAGS = ["--env", "Breakout", "--algo", "dqn", "--no-progress"]
SHORT = [*FLAGS, *(f"--set={key}={value}" for key, value in SETTINGS.items())]
ENDLESS = [*FLAGS, *(f"--set={key}={value}" for key, value in COMMON.items())]
ENDLESS += ["--set=n_timesteps=1_000_000", "--set=save_freq=0"]  # only backups save
BACKUP = ["--hub-backup", REPO, "--hub-backup-every", "0.01s"]


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def computers(tmp_path, hub) -> Callable[[str], Computer]:
    """Return a function that gives computers by their names."""
    return lambda name: Computer(tmp_path / name, hub, token="hf_write")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, Any]:
    config = resolve(env="Breakout", algo="dqn", overrides=SETTINGS).config
    folder = tmp_path_factory.mktemp("undisturbed")
    return everything(train(config, log_folder=folder, options=TrainOptions(progress=False)).run)


def everything(run: Run) -> dict[str, Any]:
    """Return what must not depend on where a run was trained: weights, and logs without times."""
    games = [line.rsplit(b",", 1)[0] for line in run.episodes_file.read_bytes().splitlines()]
    rows = [line.split(b",")[:1] for line in run.progress_file.read_bytes().splitlines()]
    return {
        "weights": run.model_file.read_bytes(),
        "games": b"\n".join(games),
        "rows": str(rows).encode(),
    }


def commits(hub: HubStandin) -> int:
    repository = hub.repositories.get(REPO)
    return 0 if repository is None else len(repository.messages) - 1


def wait_until(holds: Callable[[], bool], child: Child) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds() and child.returncode is None:
        assert time.monotonic() < deadline, child.output()
        time.sleep(0.01)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_killed_at_random_moments_on_several_computers_it_ends_with_the_same_bits(
    hub, computers, undisturbed, seed
):
    draw = random.Random(seed)
    start = [*SHORT, *BACKUP]
    for name in ("first", "second", "third"):
        computer, had = computers(name), commits(hub)
        child = computer.start("train", *start)
        if name != "third":
            wait_until(lambda had=had: commits(hub) > had + draw.randrange(2), child)
            time.sleep(draw.uniform(0.0, 0.4))  # in an upload or between two, in a save or not
            child.send_signal(signal.SIGKILL)
        output = child.wait(DEADLINE_S)
        start = ["--resume", f"hf://{REPO}", "--no-progress"]
    assert child.returncode == 0, output
    assert "fetched into" in output
    assert "not bit-exact" not in output
    assert "finished" in output
    run = Run(computer.logs / "dqn" / "Breakout_1")
    assert everything(run) == undisturbed
    assert hub.repositories[REPO].messages[-1] == "step 160 of dqn/Breakout_1"
    refused = computers("fourth").run("train", "--resume", f"hf://{REPO}")
    assert (refused.code, "has finished its 160 steps" in refused.last_line) == (2, True)


def test_training_goes_on_whatever_the_hub_answers_and_says_so(hub, computers):
    asked = "GET /api/models/ann/backup"
    hub.fail(asked, 404, times=1, X_Error_Code="RepoNotFound")  # before the training: it is new
    hub.fail(asked, 401, times=1)
    hub.fail(asked, 429, times=1, Retry_After="1", RateLimit='"api";r=0;t=1')
    hub.fail(asked, 503)
    child = computers("home").start("train", *ENDLESS, *BACKUP)
    wait_until(lambda: "status 503" in child.output(), child)
    hub.failures.clear()
    wait_until(lambda: "backed up step" in child.output(), child)
    child.send_signal(signal.SIGINT)
    output = child.wait(DEADLINE_S)
    assert child.returncode == 130, output
    warnings = re.findall(r"^warning: step ([\d,]+) was not backed up (.*)$", output, re.MULTILINE)
    for status, (_, line) in zip((401, 429, 503), warnings, strict=False):
        assert f"status {status}" in line
        assert line.endswith("tries again")
        assert "run the same command" not in line
    assert "(the Hub has had too many requests (status 429, " in warnings[1][1]
    assert "checkpoint in 1 s or later tries again" in warnings[1][1]
    steps = [int(step.replace(",", "")) for step, _ in warnings]
    assert steps == sorted(set(steps))
    assert re.search(
        r"^backed up step .* to ann/backup: \d+\.\d MB in \d+ s, ", output, re.MULTILINE
    )


def test_another_ctrl_c_leaves_a_hanging_upload_out_and_a_resume_goes_on_until_told(hub, computers):
    computer = computers("home")
    child = computer.start("train", *ENDLESS, *BACKUP)
    wait_until(lambda: "backed up step" in child.output(), child)
    with hub.changing:  # every answer waits from now on
        child.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C skips it" in child.output(), child)
        time.sleep(0.6)  # two that are closer are taken for one
        child.send_signal(signal.SIGINT)
        output = child.wait(DEADLINE_S)
    assert child.returncode == 130, output
    assert "warning: ann/backup lacks the end of this run" in output
    assert "\nresume it: " in output
    before = commits(hub)
    child = computer.start("train", "--resume", "--no-progress")  # it goes on with its backup
    wait_until(lambda: commits(hub) > before, child)
    child.send_signal(signal.SIGINT)
    output = child.wait(DEADLINE_S)
    assert child.returncode == 130, output
    before = commits(hub)
    flags = ("--resume", "--no-progress", "--time-limit", "0.01s", "--hub-backup", "none")
    [note] = Path(computer.logs).rglob("backup.json")
    with lock(Run(note.parent)):  # another process trains it: nothing is forgotten
        refused = computer.run("train", *flags)
    assert (refused.code, note.exists()) == (2, True), refused.output
    ended = computer.run("train", *flags)
    assert ended.code == 75, ended.output
    assert (commits(hub), note.exists()) == (before, False)
    assert "not backed up any more" in ended.output
    assert "backed up step" not in ended.output


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--hub-backup-every 5m", "say where to with --hub-backup"),
        ("--resume --hub-backup none --hub-backup-every 5m", "leave --hub-backup-every out"),
        ("--hub-backup ann", "is no repository of the Hub"),
        ("--resume hf://ann/x --env Pong", "--env chooses among runs"),
        ("--resume hf://ann/x", "the Hub has no repository ann/x"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(computers, flags, said):
    computer = computers("home")
    ended = computer.run("train", *flags.split())
    assert (ended.code, len(ended.output.splitlines())) == (2, 1), ended.output
    assert said in ended.output
    assert not list(Path(computer.logs).rglob("*"))
