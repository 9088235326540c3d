"""A second thread of Python, for work that is done beside other work.

Python runs one of its threads at a time. Two get ahead together only while one of them is inside a
long call that lets go of the interpreter, such as PyTorch's backward pass.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class SecondThread:
    """Does one piece of work after another; PyTorch has one thread of its own in it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="beside")
        own_threads = torch.get_num_threads()
        self._pool.submit(_take_one_thread).result()
        torch.set_num_threads(own_threads)

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Begin with the work and return at once."""
        return self._pool.submit(work)


class Beside(Generic[T]):
    """Work to be done beside what a `with` encloses; it has ended where the `with` is left.

    Args:
        work: what is to be done.
        thread: does it; None: nothing is there to do it, and it is done at the end.
    """

    def __init__(self, work: Callable[[], T], thread: SecondThread | None) -> None:
        self._work = work
        self._thread = thread
        self._future: Future[T] = Future()

    def __enter__(self) -> None:
        if self._thread is not None:
            self._future = self._thread.begin(self._work)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None:
            wait([self._future])
        elif kind is None:
            self._future.set_result(self._work())

    def result(self) -> T:
        """Return what the work gave, or raise what it raised; call it after the `with`."""
        return self._future.result()


def _take_one_thread() -> None:
    """Let PyTorch compute with one thread here.

    What `set_num_threads` is given holds in the thread that calls it, and in every thread that
    first asks or computes afterwards: so this one asks first, and whoever called sets its own
    number again.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
