"""Where in the picture an agent's value comes from: what it loses when a patch is blurred.

After Greydanus, Koul, Dodge and Fern, "Visualizing and Understanding Atari Agents" (2018), equation
1: a blurred frame is blended in through a Gaussian mask; hiding patches to see what a
network looks at is from Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks"
(2014), section 4.2. Theirs is the change of the state's value or of the policy; ours is that of the
value of one action. Theirs have one frame with a recurrent network; here the patch is blurred in
every frame of the stack, or the network would see the same thing a step earlier.
"""

import itertools
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.envs.backend import SCREEN_SIZE
from dqn_zoo.play.agent import Agent
from dqn_zoo.system.opencv import import_cv2

SIDE = 12
"""Patches in a row and in a column: 144 and the whole picture are one batch."""

PATCH_SIGMA = 5.0
"""Of the mask in pixels of the observation, as in the paper; patches are 7 apart, theirs are 5."""

REACH = 3 * PATCH_SIGMA
"""Where a mask ends, from its middle."""

BLUR_SIGMA = 3.0

YIELD_S = 0.005
"""Between two turns of a page, so that another one's comes first."""

Show = Callable[[dict[str, Any]], None]


class Seen(NamedTuple):
    """What an agent decided by.

    Attributes:
        agent: that decided.
        observation: uint8 [stack, 84, 84].
        action: that it chose.
        game: index of the game.
        step: of this game.
    """

    agent: Agent
    observation: NDArray[np.uint8]
    action: int
    game: int
    step: int


def saliency(seen: Seen) -> NDArray[np.float32]:
    """Return how much the action's value changes with each patch: float32 [SIDE, SIDE]."""
    values = seen.agent.q_values(_with_patches(seen.observation))[:, seen.action]
    return np.asarray(abs(values[1:] - values[0]).reshape(SIDE, SIDE), np.float32)


def _with_patches(observation: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an observation as it is, then with each patch blurred, row by row."""
    whole = observation.astype(np.float32)
    blur = import_cv2().GaussianBlur
    change = np.stack([blur(frame, (0, 0), BLUR_SIGMA) for frame in whole]) - whole
    pixels = np.arange(SCREEN_SIZE) + 0.5
    strips = []  # of rows or of columns: which, and the mask across them
    for middle in (np.arange(SIDE) + 0.5) * SCREEN_SIZE / SIDE:
        reached = slice(max(0, int(middle - REACH)), int(middle + REACH))
        strips.append((reached, np.exp(-((pixels[reached] - middle) ** 2) / (2 * PATCH_SIGMA**2))))
    batch = np.repeat(observation[None], 1 + SIDE**2, axis=0)
    for patched, ((rows, down), (columns, across)) in zip(
        batch[1:], itertools.product(strips, repeat=2), strict=True
    ):
        mask = down[:, None] * across
        area = np.s_[:, rows, columns]
        patched[area] = (whole[area] + mask * change[area]).round()
    return batch


class Onlooker:
    """Makes a map of the newest moment while somebody wants one, beside the game.

    It rests as long as it worked, and lets moments go by for which there is no time: the game and
    its picture go on in time.

    Args:
        show: takes a map, in its thread, or why none can be made.
        turn: held while one is made and while that one rests; shared by all pages, so that many
            cost no more than one.
    """

    def __init__(self, show: Show, turn: threading.Lock) -> None:
        self._show = show
        self._turn = turn
        self._seen: Seen | None = None
        self._made: Seen | None = None  # the moment of the last map
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._wanted = False

    def see(self, seen: Seen | None) -> None:
        """Take note of what the page shows now; None: another agent, which has shown nothing."""
        with self._changed:
            self._seen = seen
            self._changed.notify()

    def want(self, wanted: bool) -> None:
        """Begin, or end."""
        with self._changed:
            self._wanted, self._made = wanted, None
            self._changed.notify()
        if wanted and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="saliency", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._wanted or self._is_new())
                if not self._wanted:
                    self._thread = None
                    return
                self._made = seen = self._seen
            assert seen is not None, "or it would wait"
            with self._turn:
                begun = time.monotonic()
                try:
                    found = saliency(seen)
                except Exception as error:  # a bug of ours, or no memory: the game goes on
                    traceback.print_exc()
                    self._show({"saliency": None, "error": f"no map can be made: {error}"})
                else:
                    self._tell(seen, found, time.monotonic() - begun)
                self._rest(time.monotonic() - begun)
            self._rest(YIELD_S)

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._wanted, timeout=seconds)

    def _is_new(self) -> bool:
        return self._seen is not None and self._seen is not self._made

    def _tell(self, seen: Seen, found: NDArray[np.float32], took_s: float) -> None:
        newest = self._seen
        if not self._wanted or newest is None or newest.agent is not seen.agent:
            return
        self._show(
            {
                "saliency": [round(value, 4) for value in found.ravel().tolist()],
                "action": seen.action,
                "at": [seen.game, seen.step],
                "ms": round(took_s * 1_000),
            }
        )
