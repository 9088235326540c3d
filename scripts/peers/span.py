"""What the peers share: their arguments, and the span that is measured."""

import argparse
import json
import time


def parse_arguments() -> argparse.Namespace:
    """Read what `benchmark_training.py` hands to every peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--buffer-size", type=int, default=10_000, help="transitions")
    parser.add_argument("--learning-starts", type=int, default=1_000, help="steps")
    parser.add_argument("--warm-up", type=int, default=200, help="steps of learning, not measured")
    parser.add_argument("--seconds", type=float, default=10.0, help="of learning, measured")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--trainer", action="store_true", help="tianshou: with its own trainer")
    return parser.parse_args()


class Span:
    """A span of so many seconds that begins at a step.

    Args:
        first_step: where the measurement begins.
        seconds: how long it lasts, at least.
    """

    def __init__(self, first_step: int, seconds: float) -> None:
        self._first_step = first_step
        self._seconds = seconds
        self._began: tuple[int, float] | None = None

    def is_over(self, steps: int) -> bool:
        """Take note of the steps so far; when the span is over print it, as a line of JSON."""
        now = time.perf_counter()
        if self._began is None:
            if steps >= self._first_step:
                self._began = (steps, now)
            return False
        passed = now - self._began[1]
        if passed < self._seconds:
            return False
        print(json.dumps({"steps": steps - self._began[0], "seconds": passed}), flush=True)
        return True
