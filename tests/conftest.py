"""One thread per test process: tests run side by side, and threads that wait for each other's core
make a small network tens of times slower.
"""

import os
import sys
from collections.abc import Iterator

import pytest
from support import emulators, offers

os.environ["OMP_NUM_THREADS"] = "1"
# As in an activated environment: messages then call the commands by their names.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Undo what a test does that trains: it sets how PyTorch computes in the whole process."""
    yield
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def emulators_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start an emulator once in a file of tests, not once in a test."""
    emulators.hand_on(monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def emulators_end_with_their_file() -> Iterator[None]:
    """Free what no test of the next file takes: each has a megabyte."""
    yield
    emulators.KEPT.close()


@pytest.fixture(autouse=True)
def offers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold what messages offer to its word, wherever a test meets one."""
    offers.watch(monkeypatch)
