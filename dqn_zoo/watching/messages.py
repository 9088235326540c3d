"""What a page and the server tell each other.

A page sends small JSON objects, each with a word under `do`. The server sends notices, which are
JSON too, and pictures, which are binary:

    length of the head     uint32, little-endian
    head                   JSON
    what the network got   uint8 [stack, 84, 84]
    screens                uint8 [screens, height, 160, 3]
"""

import json
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dqn_zoo.envs.backend import SCREEN_SIZE
from dqn_zoo.errors import UserError
from dqn_zoo.play.agent import Outlook
from dqn_zoo.play.by_hand import Order
from dqn_zoo.settings.protocols import FRAMES_PER_SECOND, FRAMES_PER_STEP
from dqn_zoo.system.documents import place_of
from dqn_zoo.watching.game import Moment, Screen

LARGEST_BYTES = 1_024
"""Of a message from a page."""

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

MOST_RETURNS = 51
"""Numbers of a distribution that a page gets for one action."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Open(_Message):
    """Let an agent of the list play from its first game on."""

    do: Literal["open"]
    agent: Annotated[str, Field(max_length=300)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    protocol: Literal["zoo", "machado", "sb3"] | None = None  # the run's


class OpenDuel(_Message):
    """Let two agents of the list play the same seed, or a person and the right one."""

    do: Literal["duel"]
    left: Annotated[str, Field(max_length=300)] | None  # a person
    right: Annotated[str, Field(max_length=300)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    protocol: Literal["zoo", "machado", "sb3"] | None = None  # that of the right agent's run
    order: Order = "side by side"  # of a person and an agent
    stops: bool = False  # where two agents part


class Go(_Message):
    """Play on, or stand still."""

    do: Literal["play", "pause", "step"]


class Speed(_Message):
    """Play so many times as fast as the console."""

    do: Literal["speed"]
    times: Annotated[float, Field(ge=SPEEDS[0], le=SPEEDS[-1])]


class Epsilon(_Message):
    """Let the agent act at random with this chance."""

    do: Literal["epsilon"]
    chance: Annotated[float, Field(ge=0.0, le=1.0)]


class Hand(_Message):
    """Give the joystick to the person, or back to the agent."""

    do: Literal["hand"]
    to: Literal["you", "agent"]


class Press(_Message):
    """Hold an action; `press` is a number that comes back with the first picture of it."""

    do: Literal["press"]
    action: Annotated[int, Field(ge=0, lt=18)]
    press: Annotated[int, Field(ge=0, lt=2**31)]


class Look(_Message):
    """Stand still, and show the moment so many steps ago."""

    do: Literal["look"]
    back: Annotated[int, Field(ge=0, lt=100_000)]


class Branch(_Message):
    """Play on from the moment that was shown last."""

    do: Literal["branch"]


class Saliency(_Message):
    """Show which parts of the picture the value comes from, or no longer."""

    do: Literal["saliency"]
    on: bool


class Film(_Message):
    """Make a film of a game, or of its last seconds."""

    do: Literal["film"]
    game: Annotated[int, Field(ge=0, lt=2**31)]
    seconds: Annotated[int, Field(ge=1, le=3_600)] | None = None


class Drawn(_Message):
    """A picture was drawn: another may come."""

    do: Literal["drawn"]


Message = (
    Open | OpenDuel | Go | Speed | Epsilon | Hand | Press | Look | Branch | Saliency | Film | Drawn
)
_READER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="do")])


def read_message(text: str | bytes) -> Message:
    """Read what a page sent.

    Raises:
        UserError: it is none of the messages above.
    """
    try:
        return _READER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"not a message of this page: {place_of(first)} {first['msg']}") from None


def picture(moment: Moment, screens: Sequence[Screen], **more: Any) -> bytes:
    """Return a moment as a page gets it.

    Args:
        moment: what happened.
        screens: those of its pictures to send.
        more: further entries of the head.
    """
    height = len(moment.screens[0])
    head = {
        "game": moment.game,
        "step": moment.step,
        "q": _numbers(moment.outlook.q_values),
        "best": int(moment.outlook.q_values.argmax()),  # where the rounded ones may be equal
        **_returns(moment.outlook),
        "choice": moment.choice,
        "action": moment.action,
        "by_hand": moment.by_hand,
        "reward": moment.reward,
        "score": moment.score,
        "lives": moment.lives,
        "result": None if moment.result is None else moment.result.score,
        "stack": len(moment.observation),
        "screens": len(screens),
        "height": height,
        **more,
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    parts = [struct.pack("<I", len(text)), text, moment.observation.tobytes()]
    return b"".join([*parts, *(screen.tobytes() for screen in screens)])


def read_picture(shown: bytes) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Return the head of a picture, and what the network got: uint8 [stack, 84, 84]."""
    (length,) = struct.unpack_from("<I", shown)
    head = json.loads(shown[4 : 4 + length])
    stack = np.frombuffer(shown, np.uint8, head["stack"] * SCREEN_SIZE**2, offset=4 + length)
    return head, stack.reshape(-1, SCREEN_SIZE, SCREEN_SIZE)


def picture_in_time(moment: Moment, speed: float, **more: Any) -> bytes:
    """Return a moment as a page gets it that plays at a speed.

    At more than the console's there are not more screens than a second shows.
    """
    every = max(1, min(round(speed), FRAMES_PER_STEP))
    screens = moment.screens[::-1][::every][::-1]
    length_ms = len(moment.screens) / FRAMES_PER_SECOND / speed * 1_000
    return picture(moment, screens, ms=round(length_ms, 2), **more)


def _returns(outlook: Outlook) -> dict[str, list[list[float]]]:
    """Return the distribution of the return of each action, if the agent has any."""
    if outlook.probabilities is not None:
        return {"atoms": [_numbers(row, 4) for row in outlook.probabilities]}
    if outlook.quantiles is not None:
        quantiles = np.sort(outlook.quantiles, axis=1)  # those of a network may cross
        most = min(MOST_RETURNS, quantiles.shape[1])
        kept = np.linspace(0, quantiles.shape[1] - 1, most).round().astype(int)
        return {"quantiles": [_numbers(row) for row in quantiles[:, kept]]}
    return {}


def _numbers(values: NDArray[np.float32], digits: int = 3) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
