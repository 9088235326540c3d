"""A sweep on a Ray cluster of two nodes, one of which is lost."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_sweep import VARIANTS, scores, sweep_in

from dqn_zoo.experiments.job import run_job
from dqn_zoo.experiments.plan import GAME_SETS, Sweep
from dqn_zoo.experiments.summary import as_markdown, summarize_sweep

NAMESPACE = ("unshare", "--map-root-user", "--net")


def has_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def on_two_nodes(sweep: Sweep, *, done_before: int, timeout_s: float) -> dict[str, Any]:
    """Work a sweep off on two nodes, one of which is lost when so many jobs are done."""
    script = Path(__file__).parents[1] / "support" / "ray_nodes.py"
    done = subprocess.run(
        [*NAMESPACE, sys.executable, script, sweep.folder, str(done_before)],
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["interfaces"] == ["lo"]
    assert outcome["code"] == 0
    return outcome


def ends_of(sweep: Sweep) -> list[str]:
    """Return how each start of each job ended, once it is sure that nothing was done twice."""
    ends = []
    for job in sweep.plan.jobs():
        invocations = json.loads(sweep.run(job).manifest_file.read_text())["invocations"]
        ends += [entry["end_reason"] for entry in invocations]
        assert [entry["end_reason"] for entry in invocations].count("finished") == 1
        assert all(entry["resumed_from_step"] > 0 for entry in invocations[1:])
    return ends


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_namespaces(), reason="no network namespaces here")
def test_a_sweep_survives_the_loss_of_a_node(tmp_path):
    pytest.importorskip("ray")
    undisturbed = sweep_in(tmp_path / "undisturbed", num_seeds=1)
    for job in undisturbed.plan.jobs():
        assert run_job(undisturbed, job) == 0
    sweep = sweep_in(tmp_path / "sweep", num_seeds=1)
    on_two_nodes(sweep, done_before=0, timeout_s=550)
    assert scores(sweep) == scores(undisturbed)
    assert as_markdown(summarize_sweep(sweep)) == as_markdown(summarize_sweep(undisturbed))
    assert len(ends_of(sweep)) > len(sweep.plan.jobs())  # at least one was cut off and went on


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(5_400)
@pytest.mark.skipif(not has_namespaces(), reason="no network namespaces here")
def test_57_games_with_5_seeds_survive_the_loss_of_a_node_with_a_small_driver(tmp_path):
    pytest.importorskip("ray")
    sweep = sweep_in(
        tmp_path / "sweep",
        num_seeds=5,
        games=GAME_SETS["atari-57"],
        variants=VARIANTS[:1],
        n_timesteps=400,
        max_frames=100,
    )
    outcome = on_two_nodes(sweep, done_before=140, timeout_s=5_000)
    print(json.dumps(outcome, indent=1))
    assert sum(map(sweep.is_done, sweep.plan.jobs())) == 285
    assert len(ends_of(sweep)) > 285
    assert outcome["driver_peak_mib"] < 500
    begin = time.monotonic()
    table = as_markdown(summarize_sweep(sweep))
    assert time.monotonic() - begin < 60
    assert all(game in table for game in GAME_SETS["atari-57"])
