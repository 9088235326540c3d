"""Working off a plan: which jobs are due, who runs them, what is told of it.

Whether a job is done is read from its folder alone. So a sweep that was stopped, killed or moved
goes on with what is left.
"""

import contextlib
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dqn_zoo.errors import EXIT_USER_ERROR
from dqn_zoo.experiments.plan import Job, Sweep
from dqn_zoo.runs.learning_curve import last_row
from dqn_zoo.system.files import writing
from dqn_zoo.system.locks import hold
from dqn_zoo.system.processes import apart, ask_to_end, python_module

POLL_S = 0.5
MOST_RETRIES = 3  # of a job that dies; each goes on from its last checkpoint

State = Literal["waiting", "running", "done", "failed"]


class Handle(Protocol):
    """A job that was started, here or elsewhere."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to save and stop."""
        ...

    def wait(self) -> int:
        """Wait until it has ended and return its exit code."""
        ...


Launch = Callable[[Sweep, Job], Handle]


@dataclass(slots=True)
class JobStatus:
    """Where a job is.

    Attributes:
        state: of the job.
        steps: trained so far.
        n_timesteps: to train.
        return_mean: raw score of the last 100 training games; None before the first one.
        steps_per_second: of the last interval of its log; None where it logs nothing.
        reason: why it failed.
    """

    state: State = "waiting"
    steps: int = 0
    n_timesteps: int = 0
    return_mean: float | None = None
    steps_per_second: float | None = None
    reason: str = ""


Statuses = dict[Job, JobStatus]


class JobProcess:
    """A job in a process on this machine; what it prints goes to the job's log.

    It saves and stops when it is asked to, and when this process ends, however it ends.

    Raises:
        UserError: its log cannot be written.
    """

    def __init__(self, sweep: Sweep, job: Job) -> None:
        file = sweep.log_file(job)
        command = [*python_module("cli.bench"), "-f", str(sweep.folder)]
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            log = file.open("ab")
        with log:
            self._process = subprocess.Popen(
                [*command, "--job", job.name, "--tethered"],
                stdin=subprocess.PIPE,  # closes when this process ends
                stdout=log,
                stderr=subprocess.STDOUT,
                **apart(),  # Ctrl-C is for the driver, which asks its jobs to stop
            )

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        code = self._process.poll()
        return None if code is None else self.wait()

    def terminate(self) -> None:
        """Ask the process to save and stop."""
        ask_to_end(self._process)

    def wait(self) -> int:
        """Wait for the end of the process and return its exit code."""
        code = self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return code


def work_off(
    sweep: Sweep, launch: Launch, most: int, on_change: Callable[[Statuses], None]
) -> Statuses:
    """Run what is left of a plan, and return where every job ended up.

    `on_change` is told where they are twice a second.

    Raises:
        KeyboardInterrupt: after the jobs were asked to save and have.
        LockedError: another process works the sweep off.
    """
    with hold_sweep(sweep):
        return _work_off(sweep, launch, most, on_change)


def hold_sweep(sweep: Sweep) -> contextlib.AbstractContextManager[None]:
    """Be the only driver of a sweep; jobs hold their runs besides."""
    what = f"the sweep {sweep.folder}"
    return hold(sweep.folder, what=what, otherwise="name another folder with -f")


def last_line(file: Path) -> str:
    """Return the last line of a text file; empty where there is none."""
    with contextlib.suppress(OSError):
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def why_it_ended(sweep: Sweep, job: Job, code: int) -> str:
    """Return why the process of a job failed: what killed it, or what it said last."""
    if code < 0:  # what it printed last is progress
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}; its output: {sweep.log_file(job)}"
    return last_line(sweep.log_file(job)) or f"exit code {code}"


def may_try_again(code: int, deaths: int) -> bool:
    """Return whether a job whose process ended is started again; a user's mistake is not."""
    return code != EXIT_USER_ERROR and deaths <= MOST_RETRIES


def _work_off(
    sweep: Sweep, launch: Launch, most: int, on_change: Callable[[Statuses], None]
) -> Statuses:
    statuses = {job: _initial_status(sweep, job) for job in sweep.plan.jobs()}
    running: dict[Job, Handle] = {}
    deaths: Counter[Job] = Counter()
    try:
        while True:
            for job, code in [(job, handle.poll()) for job, handle in running.items()]:
                if code is not None:
                    del running[job]
                    deaths[job] += 1
                    statuses[job].state = _state_after(sweep, job, code, deaths[job])
                    if statuses[job].state == "failed":
                        statuses[job].reason = why_it_ended(sweep, job, code)
            waiting = [job for job, status in statuses.items() if status.state == "waiting"]
            for job in waiting[: most - len(running)]:
                running[job] = launch(sweep, job)
                statuses[job].state = "running"
            for job in running:
                _read_progress(sweep, job, statuses[job])
            on_change(statuses)
            if not running:
                return statuses
            time.sleep(POLL_S)
    finally:
        for handle in running.values():
            handle.terminate()
        for handle in running.values():
            handle.wait()


def _initial_status(sweep: Sweep, job: Job) -> JobStatus:
    status = JobStatus(n_timesteps=sweep.config(job).n_timesteps)
    status.state = "done" if sweep.is_done(job) else "waiting"
    _read_progress(sweep, job, status)
    return status


def _state_after(sweep: Sweep, job: Job, code: int, deaths: int) -> State:
    """Say what becomes of a job whose process ended; a user's mistake is not tried again."""
    if sweep.is_done(job):
        return "done"
    return "waiting" if may_try_again(code, deaths) else "failed"


def _read_progress(sweep: Sweep, job: Job, status: JobStatus) -> None:
    """Bring a status up to the last row of the job's log."""
    row = last_row(sweep.run(job).progress_file)
    try:
        steps = int(row["steps"])
        mean, rate = (
            float(row[name]) if row[name] else None for name in ("return_mean", "steps_per_second")
        )
    except (KeyError, ValueError):  # none yet, or damaged: the job itself goes on
        return
    status.steps, status.return_mean, status.steps_per_second = steps, mean, rate
