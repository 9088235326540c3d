"""JSON that others wrote: any bytes give a document that can be relied on, or one line."""

import json
import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import ANY_JSON, damaged, outcome

from dqn_zoo.errors import UserError, short
from dqn_zoo.play.results_file import Results, read_results, rules_of, sample_of
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.manifest import Manifest, goal_steps, has_finished, read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.system.documents import DocumentError, checked, parse_json, read_document
from dqn_zoo.system.saved import Saved

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

MANIFEST = {
    "format": 1,
    "seed": 3,
    "protocol": {"name": "zoo"},
    "tensorboard": None,
    "device": "cpu",
    "num_threads": 2,
    "versions": {"torch": "2.10", "numpy": None},
    "git": {"revision": "abc", "dirty": False},
    "origin": {"score": "1.00 +/- 2.00", "training": {"steps": 5, "cpu": "x"}, "results": {}},
    "invocations": [
        {
            "command": "dqn-train",
            "until_steps": 1_000,
            "changes": ["torch: 1 before, 2 now"],
            "end_reason": "finished",
            "end_step": 1_000,
        }
    ],
}
RESULTS = {
    "mean_reward": 20.5,
    "std_reward": 1,
    "n_eval_episodes": 10,
    "eval_datetime": "2026-11-26T12:00:00+00:00",
    "confidence_95": [19.0, 22.0],
    "env": "Pong",
    "weights": {"name": "best model", "sha256": "ab", "steps": None},
    "protocol": {
        "name": "zoo", "action_repeat_probability": 0.0, "noop_max": 30,
        "terminal_on_life_loss": True, "fire": True, "eval_epsilon": 0.01,
    },
    "epsilon": 0.01,
    "seed": 0,
}  # fmt: skip


def one_line(error: UserError) -> bool:
    return len(str(error).splitlines()) == 1 and len(str(error)) < 1_000


def test_a_key_that_a_terminal_would_act_on_is_escaped():
    with pytest.raises(DocumentError, match=r"x is damaged: .*x1b..key: expected") as caught:
        checked({"\r\x1b": {"key": "x"}}, dict[str, dict[str, int]], "x")
    assert one_line(caught.value)

    class Part(Saved):
        counts: dict[str, int]

    with pytest.raises(ValueError, match=r"^counts\..\\r.: Input should be a valid integer$"):
        Part.read({"counts": {"\r": "x"}})


@FEW
@given(st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_value_that_can_be_written_again_or_one_line(content):
    value = outcome(lambda: parse_json(content, "x.json"))
    if isinstance(value, DocumentError):
        assert one_line(value)
    else:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@FEW
@given(document=damaged(MANIFEST))
def test_a_manifest_can_be_relied_on_or_is_one_line(document, tmp_path):
    run = Run(tmp_path / "Pong_1")
    run.path.mkdir(exist_ok=True)
    run.config_file.touch()
    run.manifest_file.write_text(json.dumps(document))
    for use in (
        lambda: find_run(tmp_path.parent, run=run.path),
        lambda: has_finished(read_manifest(run)) and goal_steps(read_manifest(run)),
        lambda: (read_manifest(run).get("origin") or {}).get("training", {}),
    ):
        found = outcome(use)
        assert not isinstance(found, UserError) or one_line(found)


@FEW
@given(document=damaged(RESULTS))
def test_results_can_be_relied_on_or_are_one_line(document, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(document))
    for use in (
        lambda: f"{sample_of(read_results(file), where='x').mean:.2f}",
        lambda: rules_of(read_results(file), where="x"),
        lambda: sample_of(document, where="x"),
    ):
        found = outcome(use)
        assert not isinstance(found, UserError) or one_line(found)


def test_good_documents_come_through_as_they_are():
    assert checked(MANIFEST, Manifest, "x") == MANIFEST
    assert checked(RESULTS, Results, "x") == RESULTS
    assert checked(RESULTS | {"more": [1]}, Results, "x")["more"] == [1]  # of a later version


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b"[" * 70 + b"]" * 70, "nested too deeply"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands there twice"),
        (b'{"a": Infinity}', "Infinity is no finite number"),
        (b"[1e999]", "1e999 is no finite number"),
        (b"[NaN]", "NaN is no finite number"),
        (b'["\\ud800"]', "not text in UTF-8"),
        (b'["\xed\xa0\x80"]', "not text in UTF-8"),
        (b"1" * 5_000, "a number of 5,000 digits"),
        (b"[" + b"1," * 1_000_001 + b"1]", "more than 1,000,000 values"),
        (b"", "no JSON"),
    ],
)
def test_what_is_not_read_is_said(content, said):
    began = time.process_time()
    with pytest.raises(DocumentError, match=said) as caught:
        parse_json(content, "x.json")
    assert one_line(caught.value)
    assert time.process_time() - began < 1.0


def test_a_pair_of_surrogates_is_a_character():
    assert parse_json(b'["\\ud83d\\ude00"]', "x") == ["\U0001f600"]


def test_a_large_file_is_not_read_at_all(tmp_path: Path):
    file = tmp_path / "x.json"
    with file.open("wb") as stream:
        stream.truncate(2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DocumentError, match="has more than the 16,777,216 bytes"):
        read_document(file, Results)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_value_that_unfolds_is_shown_briefly():
    bomb: list = [1]
    for _ in range(60):
        bomb = [bomb, bomb]
    assert len(short(bomb)) < 200
    with pytest.raises(DocumentError, match=r"mean_reward: expected a valid number, got \[\[") as e:
        checked(RESULTS | {"mean_reward": bomb}, Results, "x")
    assert one_line(e.value)
