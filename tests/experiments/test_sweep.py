"""A sweep: worked off, killed, gone on with; and the table that it ends in."""

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.children import Child
from support.hparams import table_of
from support.jobs import InThisProcess

from dqn_zoo.cli.bench import main
from dqn_zoo.cli.bench import main as bench
from dqn_zoo.errors import UserError
from dqn_zoo.experiments.job import run_job
from dqn_zoo.experiments.job_needs import Needs, jobs_at_once, needs_of_jobs, side_by_side
from dqn_zoo.experiments.plan import Job, Sweep, Variant, make_plan
from dqn_zoo.experiments.summary import as_markdown, summarize_sweep
from dqn_zoo.experiments.sweep import MOST_RETRIES, hold_sweep, work_off
from dqn_zoo.runs.learning_curve import columns, last_row
from dqn_zoo.runs.run import lock
from dqn_zoo.system.files import digest
from dqn_zoo.system.locks import LOCK_NAME, hold
from dqn_zoo.system.processes import python_module

TINY = {
    "n_timesteps": 800, "learning_starts": 100, "buffer_size": 500, "batch_size": 4,
    "network": "small", "max_frames": 200, "eval_freq": 400, "eval_episodes": 1, "save_freq": 200,
    "log_interval": 100, "device": "cpu", "num_threads": 1, "precision": "float32",
}  # fmt: skip
VARIANTS = [Variant("dqn", "dqn", {}), Variant("double", "dqn", {"bootstrap": "double"})]


def sweep_in(
    folder: Path, *, num_seeds: int = 2, games=("Pong", "Breakout"), variants=VARIANTS, **settings
) -> Sweep:
    plan = make_plan(
        games=list(games),
        num_seeds=num_seeds,
        variants=variants,
        settings=TINY | settings,
        episodes=2,
    )
    sweep = Sweep.new(folder, plan, {})
    sweep.write()
    return Sweep.open(folder)


def scores(sweep: Sweep) -> str:
    """Return everything that a sweep has measured, as text that can be compared."""
    found = {}
    for job in sweep.plan.jobs():
        for which in ("last", "best"):
            results = json.loads(sweep.results_file(job, which).read_text())
            found[f"{job.name} {which}"] = results["games"], results["weights"]["sha256"]
    return json.dumps(found, indent=1)


def wait_for(condition, process: Child, timeout_s: float = 60.0):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert process.returncode is None, "the driver ended"
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)
    return value


def locked_by(sweep: Sweep, job: Job) -> int | None:
    """Return the process in the note of a lock; None while the note is being written."""
    note = (sweep.run(job).path / LOCK_NAME).read_text()
    return int(json.loads(note)["pid"]) if note else None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.timeout(300)
def test_a_sweep_that_was_killed_ends_in_the_table_of_an_undisturbed_one(
    tmp_path, monkeypatch, capsys
):
    smaller = {
        "games": ["Pong"], "num_seeds": 2, "variants": VARIANTS[:1],
        "n_timesteps": 200, "eval_freq": 120, "save_freq": 50, "max_frames": 100,
    }  # fmt: skip
    undisturbed = sweep_in(tmp_path / "undisturbed", **smaller)
    for job in undisturbed.plan.jobs():
        assert run_job(undisturbed, job) == 0
    sweep = sweep_in(tmp_path / "killed", **smaller)
    flags = ["-f", str(sweep.folder), "--jobs", "2"]
    first, second = sweep.plan.jobs()
    has_checkpoint = lambda job: bool(sweep.run(job).checkpoint_steps())  # noqa: E731

    driver = Child("dqn_zoo.cli.bench", flags)
    wait_for(lambda: has_checkpoint(first), driver)
    killed = locked_by(sweep, first)
    os.kill(killed, signal.SIGKILL)  # a job dies: the driver starts it again
    wait_for(lambda: locked_by(sweep, first) not in (None, killed), driver)
    wait_for(lambda: has_checkpoint(second), driver)
    running = [
        locked_by(sweep, job)
        for job in sweep.plan.jobs()
        if sweep.run(job).path.exists() and not sweep.is_done(job)
    ]
    driver.send_signal(signal.SIGKILL)  # its jobs save and stop by themselves
    driver.wait(30)
    deadline = time.monotonic() + 30
    while any(map(is_alive, running)):
        assert time.monotonic() < deadline, "jobs outlived their driver"
        time.sleep(0.05)
    done = [job for job in sweep.plan.jobs() if sweep.is_done(job)]
    written = {job: sweep.run(job).model_file.stat().st_mtime_ns for job in done}
    assert len(done) < len(sweep.plan.jobs())

    monkeypatch.setattr("dqn_zoo.experiments.sweep.JobProcess", InThisProcess)
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert f"2 jobs in {sweep.folder}, {len(done)} of them done" in said
    assert all(sweep.run(job).model_file.stat().st_mtime_ns == at for job, at in written.items())
    assert scores(sweep) == scores(undisturbed)
    assert as_markdown(summarize_sweep(sweep)) == as_markdown(summarize_sweep(undisturbed))
    assert (sweep.folder / "results.md").read_text() in said
    resumed = json.loads(sweep.run(first).manifest_file.read_text())["invocations"]
    assert [entry["resumed_from_step"] is None for entry in resumed][:2] == [True, False]


class Scripted:
    """Starts jobs that end at once, as they are told to."""

    def __init__(self, outcomes: dict[Job, list[int]]) -> None:
        self.outcomes = outcomes
        self.started: list[Job] = []
        self.running = self.stopped = 0

    def __call__(self, sweep: Sweep, job: Job) -> "Scripted":
        self.started.append(job)
        self.running += 1
        assert self.running <= 2
        code = self.outcomes.get(job, [0]).pop(0)
        if code == 0:
            finish(sweep, job, 1.0)
        handle = Scripted({})
        handle.poll = lambda: self.end(code)
        handle.terminate = handle.wait = self.stop
        return handle

    def end(self, code: int) -> int:
        self.running -= 1
        return code

    def stop(self) -> None:
        self.stopped += 1


def scored(mean: float) -> dict[str, float]:
    """Return what a results.json holds at least."""
    return {"mean_reward": mean, "std_reward": 0.0, "n_eval_episodes": 2}


def finish(sweep: Sweep, job: Job, last: float, best: float | None = None) -> None:
    """Leave what a job leaves that is done."""
    sweep.run(job).path.mkdir(parents=True, exist_ok=True)
    for which, mean in (("last", last), ("best", last if best is None else best)):
        sweep.results_file(job, which).write_text(json.dumps(scored(mean)))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("dqn_zoo.experiments.sweep.POLL_S", 0.0)


def test_a_job_that_dies_is_tried_again_and_a_mistake_is_not(tmp_path, quick):
    sweep = sweep_in(tmp_path / "sweep")
    unlucky, hopeless, wrong, *others = sweep.plan.jobs()
    log = sweep.log_file(wrong)
    log.parent.mkdir(parents=True)
    log.write_text("training\nerror: the disk is full; make room\n")
    launch = Scripted({unlucky: [-9, -9, 0], hopeless: [-9] * (MOST_RETRIES + 1), wrong: [2]})
    seen = []
    statuses = work_off(sweep, launch, 2, lambda found: seen.append(len(found)))
    states = {job: status.state for job, status in statuses.items()}
    assert states == {unlucky: "done", hopeless: "failed", wrong: "failed"} | dict.fromkeys(
        others, "done"
    )
    assert launch.started.count(unlucky) == 3
    assert launch.started.count(hopeless) == MOST_RETRIES + 1
    assert launch.started.count(wrong) == 1
    assert statuses[wrong].reason == "error: the disk is full; make room"
    assert statuses[hopeless].reason.startswith("killed by SIGKILL; its output: ")
    assert set(seen) == {8}


@pytest.mark.parametrize("row", [b"x,1,2,3\n", b"\xff\xfe\n", b"5\n", b"\0\0\n", b'"\n'])
def test_a_damaged_log_does_not_stop_the_sweep(tmp_path, quick, row):
    sweep = sweep_in(tmp_path / "sweep", num_seeds=1, games=("Pong",))
    file = sweep.run(sweep.plan.jobs()[0]).progress_file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"steps,time_s,steps_per_second,return_mean\n" + row)
    statuses = work_off(sweep, Scripted({}), 2, lambda _: None)
    assert {status.state for status in statuses.values()} == {"done"}


def test_of_two_starts_of_one_sweep_the_second_gets_one_line(tmp_path, capsys):
    folder = tmp_path / "sweep"
    folder.mkdir()
    flags = ["--algos", "dqn", "--games", "pong", "--seeds", "1", "-f", str(folder), "--plan-only"]
    with hold(folder, what="it", otherwise="wait"):
        assert bench(flags) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert not (folder / "plan.yml").exists()
    assert bench(flags) == 0


@given(st.binary(max_size=60))
@settings(max_examples=80, deadline=None)
@pytest.mark.filterwarnings("ignore:.*damaged rows")
def test_any_bytes_in_a_log_give_its_readable_rows(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "progress.csv"
        file.write_bytes(b"steps,mean\n1,2\n" + content)
        last_row(file)
        steps, means = columns(file, "steps", "mean")
        assert (steps[0], means[0], len(steps)) == (1.0, 2.0, len(means))


def test_a_sweep_that_is_interrupted_asks_its_jobs_to_stop(tmp_path, quick):
    launch, sweep = Scripted({}), sweep_in(tmp_path / "sweep")

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_off(sweep, launch, 2, interrupt)
    assert launch.stopped == 4  # two were asked and waited for


def test_a_job_that_is_done_is_not_started(tmp_path, quick):
    sweep = sweep_in(tmp_path / "sweep")
    first, *others = sweep.plan.jobs()
    finish(sweep, first, 3.0)
    launch = Scripted({})
    work_off(sweep, launch, 2, lambda _: None)
    assert launch.started == others


def test_a_job_waits_for_the_process_that_still_saves_its_run(tmp_path, monkeypatch):
    sweep = sweep_in(tmp_path / "sweep", n_timesteps=120, eval_freq=0)
    job = sweep.plan.jobs()[0]
    assert run_job(sweep, job) == 0
    sweep.results_file(job, "last").unlink()
    (run := sweep.run(job)).manifest_file.write_text(
        run.manifest_file.read_text().replace('"finished"', '"SIGTERM"')
    )
    waits = []
    with lock(run):
        monkeypatch.setattr("dqn_zoo.experiments.job.PATIENCE_S", 1.0)
        clock = SimpleNamespace(monotonic=lambda: len(waits) / 2, sleep=waits.append)
        monkeypatch.setattr("dqn_zoo.experiments.job.time", clock)
        with pytest.raises(Exception, match="is being written by process"):
            run_job(sweep, job)
    assert waits
    assert run_job(sweep, job) == 0
    assert sweep.is_done(job)


def test_tensorboard_has_a_table_of_settings_against_scores(tmp_path):
    variants = [Variant("a", "dqn", {}), Variant("b", "dqn", {"gamma": 0.9, "bootstrap": "double"})]
    small = {"n_timesteps": 120, "eval_freq": 60, "max_frames": 100}
    sweep = sweep_in(
        tmp_path / "sweep", games=["Breakout"], num_seeds=1, variants=variants, **small
    )
    for job in sweep.plan.jobs():
        assert run_job(sweep, job) == 0
    table = table_of(sweep.folder)
    for job, own in zip(sweep.plan.jobs(), (("greedy", 0.99), ("double", 0.9)), strict=True):
        row = {"bootstrap": own[0], "game": "Breakout", "gamma": own[1], "seed": 1.0}
        row["variant"] = job.variant
        scores = table.pop(tuple(sorted(row.items())))
        last = columns(sweep.run(job).evaluations_file, "mean")[0][-1]
        assert scores["eval/mean_reward"] == pytest.approx(last)
        for which in ("last", "best"):
            results = json.loads(sweep.results_file(job, which).read_text())
            assert scores[f"score/{which}"] == pytest.approx(results["mean_reward"])
    assert table == {}


def test_a_start_that_left_an_empty_folder_is_made_again(tmp_path):
    sweep = sweep_in(tmp_path / "sweep", n_timesteps=120, eval_freq=0)
    job = sweep.plan.jobs()[0]
    sweep.run(job).path.mkdir(parents=True)
    assert run_job(sweep, job) == 0
    last, best = (sweep.results_file(job, which).read_text() for which in ("last", "best"))
    assert last == best  # no evaluation, no best


def test_of_runs_that_average_the_weights_that_learned_play_too(tmp_path, capsys):
    variants = [VARIANTS[0], Variant("mean", "dqn", {"averaged_weights": 0.9})]
    small = {"n_timesteps": 200, "eval_freq": 0, "learning_rate": 0.01}
    sweep = sweep_in(tmp_path / "sweep", games=["Pong"], num_seeds=1, variants=variants, **small)
    plain, averaged = sweep.plan.jobs()
    for job in (plain, averaged):
        assert run_job(sweep, job) == 0
    assert capsys.readouterr().out.count("playing 2 games with the ") == 3  # no weights twice
    assert not sweep.results_file(plain, "online").exists()
    played = {
        which: json.loads(sweep.results_file(averaged, which).read_text())
        for which in ("last", "best", "online")
    }
    run, names = sweep.run(averaged), {which: each["weights"] for which, each in played.items()}
    assert names["last"]["sha256"] == names["best"]["sha256"] == digest(run.model_file)
    assert names["online"]["sha256"] == digest(run.online_model_file)
    sweep.results_file(averaged, "online").unlink()  # as in sweeps of earlier versions
    assert not sweep.is_done(averaged)
    assert run_job(sweep, averaged) == 0
    assert sweep.is_done(averaged)


def test_the_table_has_a_column_of_online_weights_where_a_variant_averages(tmp_path):
    sweep = sweep_in(tmp_path / "sweep", games=["Pong"])
    for job in sweep.plan.jobs():
        finish(sweep, job, 1.0 + job.seed)
        if job.variant == "double":
            sweep.run(job).online_model_file.touch()
            assert not sweep.is_done(job)
            sweep.results_file(job, "online").write_text(json.dumps(scored(5.0 + job.seed)))
    head, _, row, *_ = as_markdown(summarize_sweep(sweep)).splitlines()
    assert head == (
        "| game | dqn: last | best | human = 1 | double: last | best | online | human = 1 |"
    )
    assert row == "| Pong | 2.5 +/- 0.5 | 2.5 | 0.66 | 2.5 +/- 0.5 | 2.5 | 6.5 | 0.66 |"
    sweep.run(job).online_model_file.unlink()  # to save space
    assert as_markdown(summarize_sweep(sweep)).splitlines()[2] == row


# --- The table


def test_the_table_has_means_over_runs_the_human_score_and_published_numbers(tmp_path, capsys):
    sweep = sweep_in(tmp_path / "sweep", games=("Pong", "Adventure"))
    for job in sweep.plan.jobs():
        offset = 10 * (job.variant == "double") + job.seed
        finish(sweep, job, -20.7 + offset, best=-20.7 + 2 * offset)
    assert main(["-f", str(sweep.folder), "--table", "--reference", "rl-zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("| Pong "))
    # dqn: 1 and 2 above random play, of 35.3 to the human; RL-Zoo's DQN and QR-DQN behind.
    assert row == (
        "| Pong | -19.2 +/- 0.5 | -17.7 | 0.04 | -9.2 +/- 0.5 | 2.3 | 0.33 | 20.6 | 20.5 |"
    )
    assert any(line.startswith("| Adventure | -19.2 +/- 0.5 | -17.7 | - |") for line in lines)
    aggregate = next(line for line in lines if line.startswith("| `double` | 0.326"))
    assert aggregate.startswith("| `double` | 0.326 (0.312 to 0.340) |")
    assert "| `double` | `dqn` | 1.000 (1.000 to 1.000) |" in lines
    assert any("rl-zoo: protocol zoo, 10,000,000 steps" in line for line in lines)
    content = json.loads((sweep.folder / "results.json").read_text())
    assert content["scores"]["dqn"]["Pong"]["2"] == {"last": -18.7, "best": -16.7}


def test_a_variant_with_runs_missing_has_scores_but_no_aggregates(tmp_path):
    sweep = sweep_in(tmp_path / "sweep")
    for job in sweep.plan.jobs()[:-1]:
        finish(sweep, job, 1.0)
    missing = sweep.plan.jobs()[-1]
    summary = summarize_sweep(sweep)
    assert missing.variant == "double"
    assert list(summary.aggregates) == ["dqn"]
    text = as_markdown(summary)
    assert "No aggregates of `double`: 1 of its runs are not done." in text
    assert "1.0 +/- 0.0 (1 of 2 runs)" in text


def test_results_that_were_cut_off_say_which_file(tmp_path, capsys):
    sweep = sweep_in(tmp_path / "sweep")
    for job in sweep.plan.jobs():
        finish(sweep, job, 1.0)
    file = sweep.results_file(job, "best")
    file.write_text("{")
    assert main(["-f", str(sweep.folder), "--table"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file} is damaged: ")
    assert "; remove it, and dqn-bench" in line


# --- The command


FLAGS = [
    *("--algos", "dqn", "--variant", "double=dqn,bootstrap=double", "--games", "pong,breakout"),
    *("--seeds", "2", "-n", "800", "--episodes", "2"),
    *itertools.chain(
        *(("--set", f"{key}={value}") for key, value in TINY.items() if key != "n_timesteps")
    ),
]


def test_a_dry_run_shows_plan_cost_and_commands_and_leaves_nothing(tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert main([*FLAGS, "-f", str(folder), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"8 jobs in {folder}, 0 of them done" in printed
    assert (
        "double       dqn with bootstrap=double: "
        "protocol zoo with max_frames 200, 800 steps, 0.5 GB, 1 thread, about" in printed
    )
    assert printed.count("note         settings: ") == 1  # for all games
    assert "with --plan-only in place of --dry-run these commands work" in printed
    assert "core-hours" in printed
    assert f"dqn-bench -f {folder} --job double/Breakout_2" in printed
    assert not folder.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "holds no plan: start one with dqn-bench --algos"),
        (["--algos", "dqn"], "a plan needs --games, such as --games pong,breakout"),
        (["--games", "pong"], "a plan needs --algos or --variant"),
        (["--algos", "dqn", "--games", "pong,Pong"], "game Pong is in the plan twice"),
        (["--algos", "dqm", "--games", "pong"], "unknown algorithm 'dqm': did you mean dqn?"),
        (["--algos", "dqn", "--games", "pong", "--seeds", "0"], "--seeds"),
        (["--job", "1", "--dry-run"], "--job cannot go with --dry-run: leave one out"),
        (["--job", "1", "--reference", "rl-zoo"], "--job cannot go with --reference"),
        (["--dry-run", "--plan-only"], "--dry-run cannot go with --plan-only: leave one out"),
        (["--plan-only", "--reference", "rl-zoo"], "--reference cannot go with --plan-only"),
        (["--algo", "dqn"], "unknown flag --algo; did you mean --algos?"),
        (["--env", "pong"], "unknown flag --env; did you mean --games?"),
        (["--seed", "1"], "unknown flag --seed; did you mean --seeds?"),
        (
            ["--variant", "a=dqn,gamma=0.9,gamma=0.8", "--games", "pong"],
            "variant a names a key twice; keep one",
        ),
        (["--table", "--algos", "dqn"], "--table cannot go with --algos: leave one out"),
        (["--variant", "dqn", "--games", "pong"], "expected NAME=ALGO[,KEY=VALUE...], got 'dqn'"),
        (["--algos", "dqn", "--games", "pong", "--reference", "x"], "no published scores are"),
        (
            ["--algos", "dqn", "--games", "pong", "--set", "gamma=1", "--set", "gamma=1"],
            "--set names a key twice",
        ),
    ],
)
def test_a_command_that_cannot_be_meant_starts_nothing(tmp_path, capsys, flags, message):
    folder = tmp_path / "sweep"
    assert main([*flags, "-f", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not folder.exists()


def test_a_plan_that_does_not_fit_the_memory_starts_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dqn_zoo.experiments.job_needs.memory_available_bytes", lambda: 900_000_000)
    folder = tmp_path / "sweep"
    assert main([*FLAGS, "-f", str(folder), "--jobs", "2"]) == 2
    message = capsys.readouterr().err
    assert "2 jobs of this plan at once need 1.0 GB of memory and 0.9 GB are free" in message
    assert not folder.exists()
    # What starts nothing here needs no memory here.
    assert main([*FLAGS, "-f", str(folder), "--jobs", "2", "--plan-only"]) == 0
    sweep = Sweep.open(folder)
    for job in sweep.plan.jobs():
        finish(sweep, job, 1.0)
    assert main(["-f", str(folder), "--jobs", "2"]) == 0


def test_a_folder_with_something_else_is_not_offered_for_a_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    assert main([]) == 2
    assert "start one with dqn-bench --algos dqn --games SpaceInvaders -f logs" in (
        capsys.readouterr().err
    )
    Path("logs", "dqn").mkdir()
    assert main([]) == 2
    error = capsys.readouterr().err
    [command] = re.findall(r"start one with dqn-bench (.*)$", error)
    assert command.endswith("-f sweeps/first")
    assert main([*command.split(), "--plan-only"]) == 0


def test_what_jobs_take_is_that_of_their_own_game(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hyperparams").mkdir()
    recipe = "atari: {n_timesteps: 30_000}\nPong: {buffer_size: 300_000, n_timesteps: 300}\n"
    Path("hyperparams", "mine.yml").write_text(recipe)
    settings = {key: TINY[key] for key in TINY if key not in ("buffer_size", "n_timesteps")}
    plan = make_plan(
        games=["Breakout", "Pong", "Seaquest"], num_seeds=2, settings=settings | {"eval_freq": 0},
        variants=[Variant("mine", "mine", {"learning_starts": 200})],
    )  # fmt: skip
    needs = needs_of_jobs(Sweep.new(Path("sweep"), plan, {}).configs())
    breakout, pong, seaquest = (needs["mine", game] for game in ("Breakout", "Pong", "Seaquest"))
    assert breakout is seaquest  # timed once
    frames = 84 * 84 * (300_000 - 100_000)
    assert 0.95 < (pong.memory_bytes - breakout.memory_bytes) / frames < 1.2
    assert pong.seconds < breakout.seconds
    monkeypatch.setattr(
        "dqn_zoo.experiments.job_needs.memory_available_bytes",
        lambda: pong.memory_bytes + breakout.memory_bytes,
    )
    assert jobs_at_once([breakout, breakout], 2, num_left=2) == 2
    assert jobs_at_once([pong, breakout], 2, num_left=1) == 1
    with pytest.raises(UserError, match="2 jobs of this plan at once need"):
        jobs_at_once([pong, breakout], 2, num_left=2)


def test_as_many_jobs_compute_at_a_time_as_there_are_cores_for(monkeypatch):
    monkeypatch.setattr("dqn_zoo.experiments.job_needs.usable_cores", lambda: 4)
    of_one, of_two = Needs(1, 0, 10, 1.0), Needs(2, 0, 10, 1.0)
    assert [side_by_side([of_one], number) for number in (1, 3, 8)] == [1, 3, 4]
    assert [side_by_side([of_one, of_two], number) for number in (1, 3, 8)] == [1, 2, 2]
    assert side_by_side([Needs(8, 0, 10, 1.0)], 8) == 1


def test_a_start_that_was_killed_before_its_plan_is_made_again(tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert main([*FLAGS, "-f", str(folder), "--plan-only"]) == 0
    (folder / "plan.yml").unlink()
    (folder / ".lock").touch()
    assert main([*FLAGS, "-f", str(folder), "--plan-only"]) == 0
    (folder / "plan.yml").unlink()
    (folder / "mine.txt").touch()
    assert main([*FLAGS, "-f", str(folder), "--plan-only"]) == 2
    assert "is not empty and holds no plan" in capsys.readouterr().err


def test_a_sweep_has_one_driver(tmp_path, capsys):
    sweep = sweep_in(tmp_path / "sweep")
    with hold_sweep(sweep):
        assert main(["-f", str(sweep.folder)]) == 2
    error = capsys.readouterr().err
    assert f"the sweep {sweep.folder} is being written by process {os.getpid()} on" in error
    assert not sweep.runs.exists()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, capsys):
    sweep = sweep_in(tmp_path / "sweep")
    (sweep.folder / "logs").touch()
    assert main(["-f", str(sweep.folder)]) == 2
    assert "logs/dqn/Pong_1.log cannot be written" in capsys.readouterr().err


def test_flags_of_another_plan_are_refused_and_those_of_the_same_go_on(tmp_path, capsys, quick):
    folder = tmp_path / "my sweep"
    assert main([*FLAGS, "-f", str(folder), "--plan-only"]) == 0
    sweep = Sweep.open(folder)
    for job in sweep.plan.jobs():
        finish(sweep, job, 1.0)
    assert main(["-f", str(folder), "--algos", "dqn", "--games", "pong"]) == 2
    assert f"continue it with dqn-bench -f '{folder}', or name" in capsys.readouterr().err
    for flags in ([], FLAGS):
        assert main([*flags, "-f", str(folder)]) == 0
        assert "8 of them done" in capsys.readouterr().out


def test_steps_given_twice_are_refused(tmp_path, capsys):
    flags = ["--algos", "dqn", "--games", "pong", "-n", "5", "--set", "n_timesteps=6"]
    assert main([*flags, "-f", str(tmp_path / "sweep")]) == 2
    assert "n_timesteps is given twice, by -n and --set; keep one" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_ray_that_is_missing_or_unreachable_is_one_line(tmp_path, capsys, address):
    assert main([*FLAGS, "-f", str(tmp_path / "sweep"), "--ray", address]) == 2
    error = capsys.readouterr().err
    has_ray = importlib.util.find_spec("ray") is not None
    assert ("no Ray cluster answers at" if has_ray else "pip install '.[cluster]'") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_a_file_in_the_working_folder_is_not_run_in_place_of_a_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("yaml.py").write_text("raise SystemExit('a foreign file was run')")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "plan.yml").write_text("games: 3\n")
    command = [*python_module("cli.bench"), "-f", "sweep", "--job", "1"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "plan.yml" in told.stderr
