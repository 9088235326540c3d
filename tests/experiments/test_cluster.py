"""A sweep on a Ray cluster of two nodes, one of which is lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep import scores, sweep_in

from dqn_zoo.experiments.job import run_job
from dqn_zoo.experiments.summary import as_markdown, summarize_sweep

NAMESPACE = ("unshare", "--map-root-user", "--net")


def has_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_namespaces(), reason="no network namespaces here")
def test_a_sweep_survives_the_loss_of_a_node(tmp_path):
    pytest.importorskip("ray")
    undisturbed = sweep_in(tmp_path / "undisturbed", num_seeds=1)
    for job in undisturbed.plan.jobs():
        assert run_job(undisturbed, job) == 0
    sweep = sweep_in(tmp_path / "sweep", num_seeds=1)
    script = Path(__file__).with_name("ray_nodes.py")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, script, sweep.folder],
        capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["interfaces"] == ["lo"]
    assert outcome["code"] == 0
    assert scores(sweep) == scores(undisturbed)
    assert as_markdown(summarize_sweep(sweep)) == as_markdown(summarize_sweep(undisturbed))
    ends = []
    for job in sweep.plan.jobs():
        invocations = json.loads(sweep.run(job).manifest_file.read_text())["invocations"]
        ends += [entry["end_reason"] for entry in invocations]
        finished = [entry for entry in invocations if entry["end_reason"] == "finished"]
        assert len(finished) == 1  # nothing is done twice
        assert all(entry["resumed_from_step"] > 0 for entry in invocations[1:])
    assert len(ends) > len(sweep.plan.jobs())  # at least one job was cut off and went on
