"""One thread per test process: tests run side by side, and threads that wait for each other's core
make a small network tens of times slower.
"""

import gc
import os
import sys
from collections.abc import Generator, Iterator

import pytest
from support import browser, emulators, offers

os.environ["OMP_NUM_THREADS"] = "1"
# As in an activated environment: messages then call the commands by their names.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, which later leaves out what is there by now."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests with a time limit of their own begin first: one core would wait for the other."""

    def limit_s(item: pytest.Item) -> float:
        limit = item.get_closest_marker("timeout")
        return limit.args[0] if limit else 0.0

    items.sort(key=limit_s, reverse=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Undo what a test does that trains: it sets how PyTorch computes in the whole process."""
    yield
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def emulators_are_handed_on() -> Iterator[None]:
    """Start an emulator once in a file of tests, not once in a test or for what they share."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        emulators.hand_on(monkeypatch)
        yield


@pytest.fixture(scope="module", autouse=True)
def what_a_file_shares_ends_with_it() -> Iterator[None]:
    """Free what no test of the next file takes: emulators, a megabyte each, and the browser."""
    yield
    emulators.KEPT.close()
    browser.close_browser()


@pytest.fixture(autouse=True)
def offers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold what messages offer to its word, wherever a test meets one."""
    offers.watch(monkeypatch)
