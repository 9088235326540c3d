"""Commands of the package in processes of their own that start in milliseconds.

A server imports PyTorch once and forks; each child then runs `main` with its arguments, its output
in a file. What depends on a fresh interpreter (import times, the entry points) is tested through
`subprocess` instead.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

_CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
_CONTEXT = multiprocessing.get_context("forkserver" if _CAN_FORK else "spawn")
_CONTEXT.set_forkserver_preload(
    [
        "dqn_zoo.training.starting",
        "dqn_zoo.training.threads",
        "dqn_zoo.envs.vector_backend",
        "dqn_zoo.cli.train",
        "dqn_zoo.cli.enjoy",
        "dqn_zoo.cli.push",
        "dqn_zoo.cli.pull",
        "dqn_zoo.cli.verify",
        "dqn_zoo.cli.leaderboard",
        "dqn_zoo.play.film",
        "dqn_zoo.play.session",
        "dqn_zoo.sharing.push",
        "dqn_zoo.sharing.pull",
        "dqn_zoo.sharing.verify",
        "httpx2",
        "httpcore2",
        "huggingface_hub.file_download",
        "huggingface_hub.hf_api",
        "cv2",
        "matplotlib.pyplot",
        "rich.console",
        "rich.progress",
        "rich.table",
        "tensorboard.plugins.hparams.summary_v2",
        "tensorboard.summary.writer.record_writer",
        "torch.fx.experimental.symbolic_shapes",  # a network on the device meta asks for it
    ]
)
RETRIES_FASTER = 100


def _shorten_retries() -> None:
    """Let the Hub's client wait a hundredth of its time before it asks once more."""
    from huggingface_hub.utils import _http

    def sleep(duration_s: float) -> None:
        time.sleep(duration_s / RETRIES_FASTER)

    _http.time = SimpleNamespace(sleep=sleep)  # type: ignore[attr-defined]


def _read_variables() -> None:
    """Let the Hub's client read its variables, as its import does in a fresh interpreter."""
    from huggingface_hub import constants

    before = dict(vars(constants))
    importlib.reload(constants)
    copies = [
        (module, name)
        for key, module in sys.modules.items()
        if key.startswith("huggingface_hub")
        for name in before.keys() & vars(module).keys()
        if name.isupper() and vars(module)[name] is before[name]
    ]
    for module, name in copies:
        setattr(module, name, getattr(constants, name))


def _run(module: str, arguments: list[str], output: str, environment: dict[str, str]) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.environ.update(environment)
    if "HF_ENDPOINT" in environment:
        _read_variables()
        _shorten_retries()
    # What a shell hands on: Ctrl-C and all that ends a program do what Python does by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(module).main(arguments))


class Child:
    """A running command, for instance `Child("dqn_zoo.cli.train", ["--help"])`."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        descriptor, name = tempfile.mkstemp(prefix="child-", suffix=".txt")
        os.close(descriptor)
        self._output = Path(name)
        self._process = _CONTEXT.Process(
            target=_run, args=(module, list(arguments), name, dict(environment or {}))
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, -9 after SIGKILL, None while the command runs."""
        return self._process.exitcode

    def output(self) -> str:
        """Return what was printed so far, both streams."""
        return self._output.read_text()

    def send_signal(self, number: int) -> None:
        """Send a signal unless the command has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> str:
        """Wait for the end, return what was printed; kill and fail after `timeout_s`."""
        self._process.join(timeout_s)
        ended = self.returncode is not None
        if not ended:
            self._process.kill()
            self._process.join()
        printed = self.output()
        self._output.unlink()
        assert ended, f"not ended after {timeout_s} s; printed: {printed}"
        return printed


def run_python(code: str, *arguments: object, environment: Mapping[str, str] | None = None) -> str:
    """Run code as `python -c` does, with PyTorch already imported, and return what it printed."""
    child = Child("support.code", [code, *map(str, arguments)], environment)
    printed = child.wait(60.0)
    assert child.returncode == 0, printed
    return printed
