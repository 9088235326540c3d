"""YAML as people expect it: 1e-4 is a number, `on` is text, and every key knows its line.

PyYAML reads YAML 1.1, where 1e-4 is text, `no` is false and 010 is 8, and where the second of two
equal keys silently wins. The loader here reads the scalars of YAML 1.2, refuses duplicate keys, and
knows no tag that could run code: the ordered mapping and the tuple that RL-Zoo saves are read as
what they hold. What a file may be is limited: its size, its depth, and what it would come to with
every alias written out.
"""

import copy
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dqn_zoo.errors import UserError, short

MOST_BYTES = 2**17
"""Of a file: twenty times the longest recipe."""

MOST_VALUES = 10_000
MOST_CHARACTERS = 2**18
"""Of all values together, aliases written out."""

BUILT_IN = "built-in default"
"""Origin of what nobody has set."""

DEEPEST = 16
LONGEST_KEY = 100


class Entry(NamedTuple):
    """A value and where it came from.

    Attributes:
        value: as YAML or a flag gave it.
        origin: in words: "dqn.yml, line 4" or "--n-envs".
        convert: from all settings as merged, this value among them, to the one that is meant, and
            notes for the user; None: the value is meant as it is.
    """

    value: Any
    origin: str
    convert: Callable[[Any], tuple[Any, tuple[str, ...]]] | None = None


def read_entries(path: Path, *, name: str) -> dict[str, Entry]:
    """Read a YAML file that holds one mapping; the values of nested mappings are entries too.

    Raises:
        UserError: not readable, not YAML, not a mapping, a duplicate key.
    """
    return copy.deepcopy(_guarded(_read_text(path, name), name))


def parse_value(text: str) -> Any:
    """Read one YAML scalar or flow value: "1e-4", "true", "[0, 0, 8, 8]".

    Raises:
        UserError: the text is no YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{short(text)} is not a value in YAML: {_problem(error)}") from None


def as_yaml(value: object) -> str:
    """Write a plain value: JSON is YAML; plain words need no quotes."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return value if parse_value(value) == value else json.dumps(value)
    text = json.dumps(value)
    # Readers of YAML 1.1 take 1e-08 for text and 1.0e-08 for a number.
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text


def _read_text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{name} has more than the {MOST_BYTES:,} bytes that are read")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"no file {name}: expected a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{name} is not a text file: expected YAML in UTF-8") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None


@functools.lru_cache(maxsize=64)  # PyYAML takes twenty times as long as a copy of what it read
def _guarded(text: str, name: str) -> dict[str, Entry]:
    """Turn what PyYAML raises into one line with the place."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, MappingNode):
            raise UserError(
                f"{name}, line {_line(root)}: expected 'key: value' lines, got {_excerpt(root)}"
            )
        return _entries(loader, root, name=name, depth=0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}, line {mark.line + 1}"
        raise UserError(f"{place}: {_problem(error)}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{name} is not YAML: {_problem(error)}") from None


def _entries(loader: "_Loader", node: MappingNode, *, name: str, depth: int) -> dict[str, Entry]:
    """Read a mapping whose values may be mappings; what lies deeper is read as plain values."""
    loader.flatten_mapping(node)
    entries = {}
    for key_node, value_node in node.value:
        place = f"{name}, line {_line(key_node)}"
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise UserError(f"{place}: expected a key that is text, got {_excerpt(key_node)}")
        nested = depth == 0 and isinstance(value_node, MappingNode)
        value = (
            _entries(loader, value_node, name=name, depth=1)
            if nested
            else loader.construct_object(value_node, deep=True)
        )
        entries[key] = Entry(value, place)
    return entries


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _excerpt(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return short(node.value)
    return "a mapping" if isinstance(node, MappingNode) else "a list"


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    if problem.startswith("but found"):
        problem = f"{getattr(error, 'context', 'YAML')}, {problem}"
    return " ".join(problem.split())[:200]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2, without duplicate keys and with limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = self._characters = 0
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Node:
        """Count every node, and for an alias all that it stands for."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        place, is_alias = event.start_mark, isinstance(event, AliasEvent)
        before = self._values, self._characters
        self._depth += 1
        if self._depth > DEEPEST:
            raise ConstructorError(problem="nested too deeply", problem_mark=place)
        node = super().compose_node(parent, index)
        assert node is not None, "there is an event, so there is a node"
        if node.tag == _ORDERED:
            node = _ordered_as_mapping(node)
            if event.anchor is not None:
                self.anchors[event.anchor] = node  # what its aliases stand for
        self._depth -= 1
        if not is_alias:
            self._values += 1
            self._characters += len(node.value) if isinstance(node, ScalarNode) else 0
            values, characters = self._values - before[0], self._characters - before[1]
            self._sizes[id(node)] = values, characters
        elif id(node) not in self._sizes:
            raise ConstructorError(problem="an alias stands for itself", problem_mark=place)
        else:
            values, characters = self._sizes[id(node)]
            self._values += values
            self._characters += characters
        if self._values > MOST_VALUES or self._characters > MOST_CHARACTERS:
            raise ConstructorError(
                problem=f"more than {MOST_VALUES:,} values or {MOST_CHARACTERS:,} characters, "
                "aliases written out",
                problem_mark=place,
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Refuse a key given twice, before merge keys (`<<`) may bring the same key legally."""
        node: MappingNode = super().compose_mapping_node(anchor)
        _check_keys(node)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Give the place to a scalar that its tag cannot read, as in `!!float abc`."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError):
            raise ConstructorError(
                problem=f"{short(node.value)} is no {node.tag.removeprefix(_CORE)[:60]}",
                problem_mark=node.start_mark,
            ) from None


_CORE = "tag:yaml.org,2002:"
_ORDERED = f"{_CORE}python/object/apply:collections.OrderedDict"


def _check_keys(node: MappingNode) -> None:
    """Refuse a key that is too long or given twice."""
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, ScalarNode):
            continue
        if len(key_node.value) > LONGEST_KEY:
            raise ConstructorError(
                problem=f"a key of more than {LONGEST_KEY} characters",
                problem_mark=key_node.start_mark,
            )
        if key_node.value in lines:
            raise ConstructorError(
                problem=f"{key_node.value} is given twice, first in line "
                f"{lines[key_node.value]}; keep one",
                problem_mark=key_node.start_mark,
            )
        lines[key_node.value] = _line(key_node)


def _ordered_as_mapping(node: Node) -> MappingNode:
    """Return the mapping that PyYAML writes as a call of OrderedDict on one list of pairs."""
    match node:
        case SequenceNode(value=[SequenceNode(value=pairs)]) if all(
            isinstance(pair, SequenceNode) and len(pair.value) == 2 for pair in pairs
        ):
            entries = [(pair.value[0], pair.value[1]) for pair in pairs]
            mapping = MappingNode(_CORE + "map", entries, node.start_mark, node.end_mark)
            _check_keys(mapping)
            return mapping
    raise ConstructorError(
        problem="expected an OrderedDict as RL-Zoo saves it, a list of keys with their values",
        problem_mark=node.start_mark,
    )


def _construct_int(loader: _Loader, node: ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)).replace("_", ""))


def _construct_bool(loader: _Loader, node: ScalarNode) -> bool:
    return {"true": True, "false": False}[str(loader.construct_scalar(node)).lower()]


def _refuse_tag(loader: _Loader, node: Node) -> None:
    raise ConstructorError(
        problem=f"the tag {node.tag.replace(_CORE, '!!')[:60]} is not read: expected plain values",
        problem_mark=node.start_mark,
    )


_SAFE = SafeConstructor.yaml_constructors
_Loader.yaml_constructors = {
    **{_CORE + kind: _SAFE[_CORE + kind] for kind in ("null", "float", "str", "seq", "map")},
    _CORE + "int": _construct_int,
    _CORE + "bool": _construct_bool,
    _CORE + "python/tuple": _SAFE[_CORE + "seq"],
    None: _refuse_tag,
}
_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_CORE + _kind, re.compile(rf"^(?:{_pattern})$"), list(_first))
