"""Documents that went wrong: any JSON, and good JSON with something changed in any place of it."""

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from dqn_zoo.errors import UserError

LONE_SURROGATE = "\ud800"

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**30, -1, "", LONE_SURROGATE, "\x1b[2J", "a" * 5000])
)
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(document: Any) -> list[tuple[Any, ...]]:
    """Return the way to every value in a document, the document itself left out."""
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    return [(key, *way) for key, value in inner for way in [(), *places(value)]]


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """Return a document in which one to three values are gone or are something else."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(document)
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        holder = document
        for key in way:
            holder = holder[key]
        if draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = draw(ANY_JSON)
    return document


def outcome(use: Callable[[], Any]) -> Any:
    """Return what a call gives, or the user's error that it raises; other errors pass."""
    try:
        return use()
    except UserError as error:
        return error
