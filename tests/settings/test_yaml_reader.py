"""YAML that others wrote: any text gives entries of limited size, or one line, and soon."""

import itertools
import re
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import outcome

from dqn_zoo.cli.train import main
from dqn_zoo.errors import UserError
from dqn_zoo.experiments.plan import read_plan
from dqn_zoo.experiments.search import read_space
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.settings.yaml_reader import MOST_BYTES, Entry, parse_value, read_entries

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def bomb(last: str) -> str:
    """Return 340 bytes of YAML that come to ten to the twelfth values under a last key."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    for before, name in itertools.pairwise("abcdefghijkl"):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]")
    return "\n".join([*lines, f"{last}: *l", ""])


ORDERED = "!!python/object/apply:collections.OrderedDict"

BOMBS = {
    "lists": bomb("gamma"),
    "mappings": "a: &a {x: 1, y: 1}\n"
    + "".join(
        f"{b}: &{b} {{x: *{a}, y: *{a}}}\n" for a, b in itertools.pairwise("abcdefghijklmnop")
    ),
    "merged keys": "a: &a {x: 1}\n"
    + "".join(
        f"{b}: &{b}\n  <<: [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in itertools.pairwise("abcdefghijklm")
    ),
    "a long text, many times": f"a: &a '{'x' * 60_000}'\nb: [{'*a,' * 2_000}]\n",
    "a long text as a key": f"? '{'x' * 100_000}'\n: 1\n",
    "itself": "a: &a [*a]\n",
    "itself in a mapping": "a: &a {b: *a}\n",
    "an ordered mapping of itself": f"a: &a {ORDERED}\n- - - k\n    - *a\n",
    "ordered mappings": f"a: &a {ORDERED}\n- - [x, 1]\n  - [y, 1]\n"
    + "".join(
        f"{b}: &{b} {ORDERED}\n- - [x, [{f'*{a},' * 9}]]\n"
        for a, b in itertools.pairwise("abcdefghijklm")
    ),
    "deep": "[" * 60_000,
    "deep blocks": "- " * 60_000,
    "deep keys": "? " * 60_000,
    "deep braces": "{a: " * 20_000,
    "many values": "a: [" + "1," * 60_000 + "1]\n",
    "many keys": "".join(f"k{number}: 1\n" for number in range(11_000)),
    "a number of 100,000 digits": "gamma: " + "1" * 100_000 + "\n",
    "a float of 100,000 digits": "gamma: 1." + "1" * 100_000 + "\n",
    "a tag without end": f"gamma: !{'x' * 100_000} 1\n",
    "3 MB": "k: 1\n" * 600_000,
}  # fmt: skip


def readers(file: Path):
    """Return everything that reads a user's YAML."""
    return (
        lambda: load_config(file),
        lambda: resolve(conf_file=file),
        lambda: read_plan(file),
        lambda: read_space(file),
    )


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_line_and_soon(name, tmp_path, capsys):
    file = tmp_path / "x.yml"
    file.write_text(BOMBS[name])
    for read in readers(file)[:2]:
        began = time.process_time()
        found = outcome(read)
        assert isinstance(found, UserError)
        assert len(str(found)) < 1_000
        assert time.process_time() - began < 1.5
    file.write_text("atari:\n  gamma: [1]\n" + BOMBS[name])
    assert main(["-c", str(file), "--print-config"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_large_file_says_how_large_it_may_be(tmp_path):
    file = tmp_path / "x.yml"
    file.write_text("#" * (MOST_BYTES + 1))
    with pytest.raises(UserError, match="has more than the 131,072 bytes that are read"):
        read_entries(file, name="x.yml")


def test_aliases_and_merged_keys_are_read_as_before(tmp_path):
    file = tmp_path / "x.yml"
    file.write_text("atari: &all\n  gamma: 0.9\nPong:\n  <<: *all\n  n_envs: 2\n")
    entries = read_entries(file, name="x.yml")
    assert {key: entry.value for key, entry in entries["Pong"].value.items()} == {
        "gamma": 0.9,
        "n_envs": 2,
    }
    file.write_text("a: &a [1, 2]\nb: *a\nc: [*a, *a]\n")
    assert read_entries(file, name="x.yml")["c"].value == [[1, 2], [1, 2]]


def test_what_rl_zoo_saves_is_read_as_what_it_holds_and_nothing_is_called(tmp_path):
    saved = OrderedDict(batch_size=32, env_kwargs=OrderedDict(mode=1), train_freq=(4, "step"))
    file = tmp_path / "config.yml"
    file.write_text(yaml.dump(saved))
    assert ORDERED in file.read_text()
    entries = read_entries(file, name="config.yml")
    assert entries["batch_size"] == Entry(32, "config.yml, line 2")
    assert entries["env_kwargs"].value["mode"].value == 1
    assert entries["train_freq"].value == [4, "step"]


def test_what_rl_zoo_saves_twice_is_an_alias_and_is_read(tmp_path):
    shared = OrderedDict(mode=1)
    file = tmp_path / "config.yml"
    file.write_text(yaml.dump(OrderedDict(env_kwargs=shared, eval_env_kwargs=shared)))
    assert "*id001" in file.read_text()
    entries = read_entries(file, name="config.yml")
    assert [entry.value["mode"].value for entry in entries.values()] == [1, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ORDERED}\n- - - a\n    - 1\n  - - a\n    - 2\n", "line 4: a is given twice"),
        (f"a: {ORDERED}\n- - - a\n", "line 1: expected an OrderedDict as RL-Zoo saves it"),
        (f"a: {ORDERED} {{x: 1}}\n", "line 1: expected an OrderedDict as RL-Zoo saves it"),
        ("a: !!python/object/apply:os.mkdir [it-ran]\n", "the tag !!python/object/apply:os.mkdir"),
        ("a: !!python/object/apply:collections.Counter [[x]]\n", "collections.Counter is not read"),
    ],
)
def test_what_only_looks_like_it_is_refused(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yml").write_text(text)
    with pytest.raises(UserError, match=re.escape(expected)):
        read_entries(Path("x.yml"), name="x.yml")
    assert [path.name for path in tmp_path.iterdir()] == ["x.yml"]


YAML_LIKE = st.lists(
    st.sampled_from(
        ["a", "b: ", "- ", "&x ", "*x", "[", "]", "{", "}", ", ", "\n", "  ", "<<: ", "? ",
         "!!int ", ORDERED, "'", '"', "|\n", ">", "#", "1e-4", "null", "atari:\n", "gamma: ",
         "%YAML 1.2\n", "---\n", "\t", "\x00", "\ufeff", "\ud7ff", "!", "0x", "1_0",
         ".inf", "~", "="]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@FEW
@given(text=YAML_LIKE | st.text(max_size=30))
def test_any_text_is_settings_or_one_line(text, tmp_path):
    file = tmp_path / "x.yml"
    file.write_text(text, encoding="utf-8")
    for read in (*readers(file), lambda: parse_value(text)):
        found = outcome(read)
        assert not isinstance(found, UserError) or len(str(found)) < 1_000


@FEW
@given(content=st.binary(max_size=30))
def test_any_bytes_are_settings_or_one_line(content, tmp_path):
    file = tmp_path / "x.yml"
    file.write_bytes(content)
    for read in readers(file):
        found = outcome(read)
        assert not isinstance(found, UserError) or len(str(found)) < 1_000


def test_what_was_read_before_is_given_anew_and_a_changed_file_is_read(tmp_path):
    file = tmp_path / "a.yml"
    file.write_text("atari:\n  crop: [0, 0, 8, 8]\n")
    first = read_entries(file, name="a.yml")
    first["atari"].value["crop"].value[0] = 9
    del first["atari"].value["crop"]
    again = read_entries(file, name="a.yml")
    assert again["atari"].value == {"crop": Entry([0, 0, 8, 8], "a.yml, line 2")}
    assert read_entries(file, name="b.yml")["atari"].origin == "b.yml, line 1"
    file.write_text("atari:\n  gamma: 0.9\n")
    assert list(read_entries(file, name="a.yml")["atari"].value) == ["gamma"]
