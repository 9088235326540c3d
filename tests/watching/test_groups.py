"""Curves over each other by a setting: which differ, means of groups, and who may ask."""

import json

import pytest
from support.run_makers import make_run
from support.watched import TOKEN, get, served

from dqn_zoo.errors import UserError
from dqn_zoo.runs.learning_curve import columns
from dqn_zoo.watching.agents import of_package
from dqn_zoo.watching.groups import Groups, read_groups, settings_that_differ
from dqn_zoo.watching.runs import PROGRESS


def run_of(folder, *, level: float, rows: int = 200, game: str = "Breakout", **settings):
    """Make a run whose scores lie at a level, rising by a hundredth in each of its rows."""
    run = make_run(folder, game=game, **settings)
    lines = [
        f"{10 * row},{row},{level + row / 100},0.5,1,0.1,100,512" for row in range(1, rows + 1)
    ]
    run.progress_file.write_text("\n".join([",".join(PROGRESS), *lines]) + "\n")
    return run


@pytest.fixture
def runs(tmp_path):
    return {
        "a": run_of(tmp_path, level=1, gamma=0.9),
        "b": run_of(tmp_path, level=3, gamma=0.9, rows=100),
        "c": run_of(tmp_path, level=7, gamma=0.5, learning_rate=0.001),
    }


def test_settings_that_differ_are_offered_and_no_others(runs):
    assert settings_that_differ(runs) == ["gamma", "learning_rate"]
    assert settings_that_differ({"a": runs["a"], "b": runs["b"]}) == []
    (runs["c"].path / "config.yml").write_text("gamma: [")
    assert settings_that_differ(runs) == []


def test_a_group_has_the_mean_of_its_runs_as_far_as_each_goes(runs):
    runs["a"].evaluations_file.write_text("steps,mean\n500,2.5\n")
    found = read_groups(runs, "gamma", "")
    assert found["groups"] == ["gamma 0.9", "gamma 0.5"]
    panel = found["panels"]["return_mean"]
    assert panel["at"][-1] == 2_000
    both, alone = panel["groups"]
    assert [len(each["runs"]) for each in (both, alone)] == [2, 1]
    place = panel["at"].index(400)  # rows 39 and 40 of each
    assert both["runs"][0][place] == pytest.approx(1.395)
    assert both["mean"][place] == pytest.approx(2.395)
    assert both["low"][place] < 2.395 < both["high"][place]
    assert alone["mean"][place] == alone["low"][place] == pytest.approx(7.395)
    assert both["runs"][1][-1] is None
    assert both["mean"][-1] == pytest.approx(2.995)  # of the run that goes so far
    [evaluated] = found["panels"]["mean"]["groups"]
    assert evaluated["name"] == "gamma 0.9"
    assert 2.5 in evaluated["mean"]
    assert found["panels"]["loss"]["groups"][0]["mean"][place] == 0.5
    json.dumps(found, allow_nan=False)


def test_nothing_is_sent_twice_and_a_new_row_is(runs):
    stamp = read_groups(runs, "gamma", "")["stamp"]
    assert read_groups(runs, "gamma", stamp) == {"stamp": stamp}
    with runs["b"].progress_file.open("a") as file:
        file.write("1010,101,9,0.5,1,0.1,100,512\n")
    assert "panels" in read_groups(runs, "gamma", stamp)


def test_what_was_costly_rests_and_who_has_no_answer_gets_one(runs, monkeypatch):
    now = 100.0

    def read(*_):
        nonlocal now
        now += 2.0  # seconds of work
        return {"stamp": f"{now}", "panels": {}}

    monkeypatch.setattr("dqn_zoo.watching.groups.read_groups", read)
    monkeypatch.setattr("dqn_zoo.watching.groups.time.monotonic", lambda: now)
    groups = Groups()
    assert groups.read(runs, "gamma", "")["stamp"] == "102.0"
    now = 121.9
    assert groups.read(runs, "gamma", "102.0") == {"stamp": "102.0"}
    assert "panels" in groups.read(runs, "gamma", "")
    now = 123.9 + 20.1
    assert "panels" in groups.read(runs, "gamma", "102.0")


def test_files_that_did_not_change_are_not_read_again(runs, monkeypatch):
    read_groups(runs, "gamma", "")
    read = []

    def columns_of(file, *names):
        read.append(file)
        return columns(file, *names)

    monkeypatch.setattr("dqn_zoo.watching.groups.columns", columns_of)
    monkeypatch.setattr("dqn_zoo.watching.groups.load_config", pytest.fail)
    with runs["b"].progress_file.open("a") as file:
        file.write("1010,101,9,0.5,1,0.1,100,512\n")
    assert read_groups(runs, "gamma", "")["panels"]["return_mean"]["groups"][0]["mean"]
    assert read == [runs["b"].progress_file]


def test_games_are_kept_apart_and_what_has_no_rows_or_settings_left_out(runs, tmp_path):
    runs |= {"d": run_of(tmp_path, level=0, game="Pong", gamma=0.9), "e": make_run(tmp_path)}
    found = read_groups(runs, "gamma", "")
    names = [group["name"] for group in found["panels"]["return_mean"]["groups"]]
    assert names == ["Breakout, gamma 0.9", "Breakout, gamma 0.5", "Pong, gamma 0.9"]
    assert "Pong" in read_groups(runs, "env", "")["groups"][1]
    with pytest.raises(UserError, match="have no key 'gama'"):
        read_groups(runs, "gama", "")
    assert read_groups({}, "gamma", "")["groups"] == []


def test_who_knows_the_token_may_ask_of_runs_on_the_list(runs, tmp_path):
    with served(tmp_path, of_package("Pong")) as place:
        for path in ("/settings?run=dqn/Breakout_1", "/groups?by=gamma&run=dqn/Breakout_1"):
            assert get(place.port, path).status == 403
        known = f"token={TOKEN}&run=dqn/Breakout_1&run=dqn/Breakout_3&run=../dqn/Breakout_2&run="
        answer = json.loads(get(place.port, f"/settings?{known}").content)
        assert answer == {"settings": ["gamma", "learning_rate"]}
        answer = json.loads(get(place.port, f"/groups?by=gamma&{known}").content)
        assert answer["groups"] == ["gamma 0.9", "gamma 0.5"]
        assert [len(group["runs"]) for group in answer["panels"]["loss"]["groups"]] == [1, 1]
        assert get(place.port, f"/groups?by=__class__&{known}").status == 404
