"""One thread per test process: tests run side by side, and threads that wait for each other's core
make a small network tens of times slower.
"""

import os
from collections.abc import Iterator

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Undo what a test does that trains: it sets PyTorch's number for the whole process."""
    yield
    import torch

    torch.set_num_threads(1)
