"""JSON that others wrote: read with limits, then held against a model; every failure is one error.

A model is a `TypedDict` (or anything that pydantic validates) beside the code that writes the
document. Whoever gets a document from here may rely on every key that its model requires.
"""

import json
import math
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from dqn_zoo.errors import UserError, short

MOST_BYTES = 2**24
MOST_VALUES = 1_000_000
DEEPEST = 64
LONGEST_NUMBER = 40
"""Digits: the state of a random generator has 128 bits."""

AS_WRITTEN = ConfigDict(extra="allow", strict=True)
"""For `with_config` on a model: "1" is no number, and a later version may have more keys."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
Word = Annotated[str, Field(max_length=200, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]
"""What a terminal and a card may show as it is."""

Model = TypeVar("Model")


class DocumentError(UserError):
    """A document is damaged, or is not what it should be."""


def read_document(path: Path, model: type[Model], *, most_bytes: int = MOST_BYTES) -> Model:
    """Read a JSON file and hold it against its model.

    Raises:
        DocumentError: not readable, too large, no JSON, or not what the model says.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > most_bytes:
        raise DocumentError(f"{path} has more than the {most_bytes:,} bytes that are read")
    return checked(parse_json(content, str(path)), model, str(path))


def parse_json(content: bytes | str, name: str, *, is_finite: bool = True) -> Any:
    """Read JSON of limited depth and size, in which every key stands once and all is finite.

    `is_finite` False takes NaN and infinities, too, as Python writes them.

    Raises:
        DocumentError: it is none.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        if sum(map(text.count, ",[{")) > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values")
        value = json.loads(
            text,
            parse_constant=_not_finite if is_finite else float,
            parse_float=_finite if is_finite else float,
            parse_int=_bounded,
            object_pairs_hook=_without_twins,
        )
        _check_depth(value)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # half a character, unless its twin follows
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise DocumentError(f"{name} is damaged: it is not text in UTF-8") from error
    except RecursionError as error:
        raise DocumentError(f"{name} is damaged: it is nested too deeply") from error
    except ValueError as error:
        raise DocumentError(f"{name} is damaged: it is no JSON that is read ({error})") from error
    return value


def checked(value: object, model: type[Model], name: str) -> Model:
    """Return a value that is what its model says.

    Raises:
        DocumentError: it is something else; the message names the first place.
    """
    try:
        found: Model = _adapter(model).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = place_of(first)
        raise DocumentError(
            f"{name} is damaged: {f'{place}: ' if place else ''}{_in_words(first)}"
        ) from error
    return found


def place_of(problem: ErrorDetails) -> str:
    """Return the keys that lead to it, with what a terminal would act on escaped."""
    keys = [str(part)[:40] for part in problem["loc"]]
    return ".".join(key if key.isprintable() else repr(key) for key in keys)


def _in_words(problem: ErrorDetails) -> str:
    if problem["type"] == "missing":
        return "it is missing"
    expected = (
        problem["msg"].removeprefix("Input should be ").replace("a valid dictionary", "an object")
    )
    return f"expected {expected[:100]}, got {short(problem['input'])[:100]}"


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:40]!r} stands there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no finite number")


def _bounded(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _check_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        depth += 1
        groups = (
            each.values() if isinstance(each, dict) else each
            for each in level
            if isinstance(each, dict | list)
        )
        level = [inner for group in groups for inner in group]
