"""The jobs of a sweep on a Ray cluster whose nodes share the folder of the sweep.

Ray decides where a job fits by its cores, GPU and memory, and starts it again elsewhere when its
node is lost. What a job is does not change: the same process as on one machine.
"""

import contextlib
import logging
import socket
from pathlib import Path
from typing import Any

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.job_needs import Needs
from dqn_zoo.experiments.plan import Job, Sweep
from dqn_zoo.experiments.sweep import MOST_RETRIES, Handle, JobProcess
from dqn_zoo.system.extras import need

CONNECT_S = 5.0
PATIENCE_S = 60.0  # for jobs that were asked to save and stop
_LOST = -9  # the exit code of a job that Ray gave up


class Cluster:
    """A Ray cluster, by HOST:PORT, or `auto` for the one on this machine.

    Raises:
        UserError: Ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str) -> None:
        need("cluster", "--ray")
        import ray

        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"no Ray cluster answers at {address} ({reason}): start one with "
                "`ray start --head`, give its HOST:PORT or auto, or leave --ray out"
            ) from error
        self._ray = ray

    def launch(self, sweep: Sweep, job: Job, wanted: Needs) -> Handle:
        """Hand a job over; Ray keeps what it cannot place yet. Each node sees the same folder."""
        task = self._ray.remote(_run).options(
            name=job.name,
            num_cpus=wanted.cores,
            num_gpus=wanted.gpus,
            memory=wanted.memory_bytes,
            max_retries=MOST_RETRIES,
        )
        return _Task(self._ray, task.remote(str(sweep.folder.absolute()), job.name))


def _reach(address: str) -> None:
    """Connect to a cluster's address once: where nobody answers Ray ends the whole process.

    Raises:
        OSError: nobody answers.
        ValueError: this is no address.
    """
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


class _Task:
    """A job on the cluster."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray = ray
        self._reference = reference

    def poll(self) -> int | None:
        return self._code(timeout_s=0.0)

    def terminate(self) -> None:
        self._ray.cancel(self._reference)

    def wait(self) -> int:
        code = self._code(timeout_s=PATIENCE_S)
        return _LOST if code is None else code

    def _code(self, timeout_s: float) -> int | None:
        try:
            return int(self._ray.get(self._reference, timeout=timeout_s))
        except self._ray.exceptions.GetTimeoutError:
            return None
        except self._ray.exceptions.RayError:  # the task was cancelled, or its node is lost
            return _LOST


def _run(folder: str, name: str) -> int:
    """Run a job on the node that Ray chose, and return its exit code."""
    sweep = Sweep.open(Path(folder))
    process = JobProcess(sweep, sweep.find_job(name))
    try:
        return process.wait()
    finally:  # Ray cancels by an exception in this process
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()
