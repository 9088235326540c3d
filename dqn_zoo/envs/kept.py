"""Emulators that are kept when their environments are closed, for the next ones of the same kind.

To start an emulator takes 0.1 s, most of it for a table of colours that ale-py computes and nobody
uses. Reset with a seed, one that has played is where a new one would be.
"""

import threading
from collections.abc import Callable, Hashable

from dqn_zoo.envs.backend import Actions, Backend, BackendStep, Counts, Mask, Observations, Seeds


class KeptEmulators:
    """Backends that wait for further use, by their kind; several threads may ask at once."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Backend]] = {}
        self._lock = threading.Lock()

    def lend(self, kind: Hashable, build: Callable[[], Backend]) -> Backend:
        """Return a backend that comes back here when it is closed.

        Args:
            kind: all that `build` depends on.
            build: makes a new one, where none of this kind waits.
        """
        with self._lock:
            waiting = self._waiting.setdefault(kind, [])
            backend = waiting.pop() if waiting else None
        return _Lent(backend or build(), waiting)

    def close(self) -> None:
        """Free the emulators that wait; what is lent out is kept again when it comes back."""
        with self._lock:
            for waiting in self._waiting.values():
                while waiting:
                    waiting.pop().close()


class _Lent:
    """A backend whose `close` puts it back, unless a call failed or a step is on its way."""

    def __init__(self, backend: Backend, waiting: list[Backend]) -> None:
        self.action_meanings = backend.action_meanings
        self._backend = backend
        self._waiting = waiting
        self._is_whole = True

    def reset(self, rows: Mask, seeds: Seeds) -> tuple[Observations, Counts]:
        self._is_whole = False
        started = self._backend.reset(rows, seeds)
        self._is_whole = True
        return started

    def send(self, actions: Actions) -> None:
        self._is_whole = False
        self._backend.send(actions)

    def recv(self) -> BackendStep:
        step = self._backend.recv()
        self._is_whole = True
        return step

    def close(self) -> None:
        if self._is_whole:
            self._waiting.append(self._backend)
        else:
            self._backend.close()
