"""The card: what somebody else wrote means nothing in it."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn_zoo.runs.manifest import Training, write_origin_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import PROTOCOLS
from dqn_zoo.sharing.card import write_card
from dqn_zoo.sharing.push import training_record
from dqn_zoo.system.documents import DocumentError, checked

RESULTS = {
    "mean_reward": 1.0, "std_reward": 0.5, "mean_minus_std": 0.5, "n_eval_episodes": 10, "seed": 0,
    "confidence_95": [0.5, 1.5], "min_reward": 0.0, "median_reward": 1.0, "max_reward": 2.0,
    "random_score": -20.0, "human_score": 9.0, "protocol": asdict(PROTOCOLS["zoo"]),
    "epsilon": 0.01, "weights": {"name": "best model", "sha256": "ab" * 32},
    "eval_datetime": "2026-11-26T12:00:00", "cpu": "x", "precision": "float32",
}  # fmt: skip


def card(training: dict, *, has_film: bool = False, **results: object) -> str:
    config, results = Config(env="Pong"), RESULTS | results
    return write_card("ann/x", config, results, training, has_film=has_film, has_curve=False)


@settings(max_examples=40, deadline=None)
@given(cpu=st.text(min_size=1), version=st.text(min_size=1), seed=st.text(min_size=1))
def test_cpu_versions_and_seed_of_others_stay_in_a_code_span(cpu, version, seed):
    training = {"cpu": cpu, "versions": {"torch": version}, "seed": seed, "device": "cpu"}
    lines = card(training).splitlines()
    start = lines.index("## Training")
    rows = {}
    for line in lines[start + 4 :]:
        if not line:
            break
        _, name, value, _ = line.replace("\\|", "").split("|")
        rows[name.strip()] = value.strip()
    for name in ("hardware", "versions"):
        assert rows[name][0] == rows[name][-1] == "`"
        assert "`" not in rows[name][1:-1]
        assert rows[name].isprintable()
    assert rows["seed"] == "unknown" or rows["seed"].strip("`") != rows["seed"]


def test_a_link_or_markup_in_a_cpu_is_only_text():
    text = card({"cpu": "<img src=x onerror=y>` [click](http://x) \x1b[2J", "cores": 2})
    assert "| hardware | `<img src=x onerror=y> [click](http://x) [2J, 2 cores` |" in text


def test_an_agent_of_others_says_whose_it_is(tmp_path):
    def told(**origin: object) -> str:
        run = Run(tmp_path)
        write_origin_manifest(run, command=[], seed=1, protocol={}, steps=5, origin=origin)
        record = training_record(run, 5)
        return checked(record, Training, "it")["came_from"]

    repo = {"repo": "bob/x", "commit": "c0ffee" * 6, "score": None}
    assert told(library="sb3", version=None) == "sb3 of an unknown version"
    assert told(repo="bob/x") == "bob/x at an unknown commit"
    chain = told(**repo, training={"came_from": "sb3 2.9.2"})
    assert chain == "bob/x at c0ffeec, before that sb3 2.9.2"
    assert len(told(**repo, training={"came_from": "x" * 200})) == 200
    assert told(**repo, training={"cpu": "x"}) == "bob/x at c0ffeec"
    assert "| came from | `bob/x at c0ffeec` |" in card({"came_from": told(**repo)})
    assert "came from" not in card({"cpu": "x"})


def test_a_run_that_went_on_elsewhere_says_so_and_a_film_when_its_games_are_others():
    text = card({"cpu": "x", "later": ["cpu: x before, y now", "cores: 2 before, `8` now"]})
    assert "| resumed with | `cpu: x before, y now; cores: 2 before, 8 now` |" in text
    assert "resumed with" not in card({"cpu": "x"})
    assert "another emulator backend" in card({}, has_film=True, backend="vector")
    own = card({}, has_film=True, backend="gymnasium")
    assert "with the same rules" in own
    assert "another emulator backend" not in own


@pytest.mark.parametrize(
    "training",
    [
        {"cpu": "\x1b[2J"},
        {"seed": "x"},
        {"versions": {"torch": 7}},
        {"cpu": "x" * 201},
        {"later": "x"},
        {"later": [3]},
    ],
)
def test_a_published_record_holds_plain_words(training):
    with pytest.raises(DocumentError):
        checked(training, Training, "config.json")
