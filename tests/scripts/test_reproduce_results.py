"""scripts/reproduce_results.py: trains, measures, draws, and goes on where it was."""

import json
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import reproduce_results
from reproduce_results import SB3, SUITES, Job, left_s, minutes_to_pass, run_of

from dqn_zoo.cli.arguments import parse_setting
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import resolve

TINY = ("n_timesteps=200", "num_threads=1", "network=small", "learning_starts=100", "eval_freq=100",
        "eval_episodes=1", "max_frames=100", "buffer_size=500", "log_interval=50")  # fmt: skip


@pytest.fixture
def job(monkeypatch) -> Job:
    job = Job("Breakout", "dqn", 3, 5, TINY)
    monkeypatch.setitem(SUITES, "laptop", [job])
    return job


def command(monkeypatch, folder, *flags) -> int:
    words = ["reproduce_results", "--suite", "laptop", "--episodes", "2", "-f", str(folder)]
    monkeypatch.setattr(sys, "argv", [*words, *flags])
    return reproduce_results.main()


class Command:
    """What `subprocess.Popen([python, "-m", module, ...])` is, run in this process."""

    def __init__(self, command: list[str]) -> None:
        _, _, module, *arguments = command
        self._code: int = import_module(module).main(arguments)

    def wait(self) -> int:
        return self._code


def test_a_suite_is_trained_measured_and_drawn_once(job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce_results, "subprocess", SimpleNamespace(Popen=Command))
    assert command(monkeypatch, tmp_path, "--preview") == 0
    assert f"Breakout-dqn-5min-seed3-{'-'.join(TINY)}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert command(monkeypatch, tmp_path) == 0
    folder = tmp_path / "laptop"
    results = json.loads((folder / job.name / "best.json").read_text())
    row = (folder / "results.md").read_text().splitlines()[2]
    assert row.startswith(f"| Breakout | `dqn, {', '.join(TINY)}` | 3 | 200 |")
    assert f"| {results['mean_reward']:.1f} +/- {results['std_reward']:.1f} |" in row
    assert (folder / "Breakout.png").stat().st_size > 5_000
    run = run_of(job, folder)
    written = run.model_file.stat().st_mtime_ns
    assert command(monkeypatch, tmp_path) == 0
    assert "0 min left" in capsys.readouterr().out
    assert run.model_file.stat().st_mtime_ns == written
    (folder / job.name / "last.json").unlink()
    assert command(monkeypatch, tmp_path) == 0
    assert (folder / job.name / "last.json").exists()
    assert run.model_file.stat().st_mtime_ns == written


@pytest.mark.sb3
def test_the_peer_is_trained_imported_and_measured_by_the_rules_of_the_others(
    tmp_path, monkeypatch
):
    """Its program runs in a process of its own; the commands of this package need none."""

    def start(command: list[str]) -> Command | subprocess.Popen:
        return Command(command) if "-m" in command else subprocess.Popen(command)

    peer = Job("Breakout", SB3, 1, 0.05)
    monkeypatch.setitem(SUITES, "laptop", [peer])
    monkeypatch.setattr(reproduce_results, "subprocess", SimpleNamespace(Popen=start))
    assert command(monkeypatch, tmp_path, "--peers-python", sys.executable) == 0
    folder = tmp_path / "laptop"
    result = json.loads((folder / peer.name / "last.json").read_text())
    assert (result["protocol"]["name"], result["epsilon"]) == ("zoo", 0.01)
    row = (folder / "results.md").read_text().splitlines()[2]
    assert row.startswith(f"| Breakout | `{SB3}` | 1 |")
    assert left_s(peer, folder) == 0.0


def test_what_is_left_of_a_run_is_its_time_without_what_its_log_has(job, tmp_path):
    assert left_s(job, tmp_path) == 300.0
    run = run_of(job, tmp_path)
    run.path.mkdir(parents=True)
    for reason, logged, left in [
        ("SIGINT", "100.5", 199.5),
        (None, "100.5", 199.5),
        ("time_limit", "280.0", 0.0),
        ("SIGTERM", "299.0", 0.0),
        ("finished", "100.5", 0.0),
    ]:
        run.manifest_file.write_text(json.dumps({"invocations": [{"end_reason": reason}]}))
        run.progress_file.write_text(f"steps,time_s\n1000,50\n2000,{logged}\n")
        assert left_s(job, tmp_path) == left


def test_the_mark_is_passed_at_the_first_evaluation_that_reaches_it(tmp_path):
    run = Run(tmp_path)
    assert minutes_to_pass(run) is None
    run.progress_file.write_text("steps,time_s\n1000,60\n2000,150\n3000,240\n")
    run.evaluations_file.write_text("steps,mean_minus_std\n1000,199.9\n2000,200\n3000,100\n")
    assert minutes_to_pass(run) == 2.5


@pytest.mark.parametrize("suite", SUITES)
def test_every_job_is_one_that_can_be_trained(suite):
    assert len({job.name for job in SUITES[suite]}) == len(SUITES[suite])
    for job in [job for job in SUITES[suite] if job.recipe != SB3]:
        changes = dict(parse_setting(change) for change in job.changes)
        config = resolve(env=job.game, algo=job.recipe, overrides=changes).config
        assert changes.items() <= vars(config).items()
