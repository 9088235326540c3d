"""Jobs of a sweep that need no process of their own."""

from dqn_zoo.experiments.job import run_job
from dqn_zoo.experiments.plan import Job, Sweep


class InThisProcess:
    """What `JobProcess` is, done when it is launched."""

    def __init__(self, sweep: Sweep, job: Job) -> None:
        self._code = run_job(sweep, job)

    def poll(self) -> int:
        """Return the exit code."""
        return self._code

    def terminate(self) -> None:
        """Nothing is left to end."""

    def wait(self) -> int:
        """Return the exit code."""
        return self._code
