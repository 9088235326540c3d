"""What was measured of a run is kept, and the best of it is what the run is known by."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.run_makers import make_run, weights_of

from dqn_zoo.cli import push, verify
from dqn_zoo.cli.play_session import MOST_EPISODES
from dqn_zoo.play.evaluation import Game
from dqn_zoo.play.measurements import largest, measured, record
from dqn_zoo.play.results import results
from dqn_zoo.play.results_file import MOST_GAMES
from dqn_zoo.play.session import Session, choose_weights
from dqn_zoo.play.statistics import summarize
from dqn_zoo.runs.manifest import write_origin_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.leaderboard import own_rows, ranked
from dqn_zoo.sharing.push import measured_results, played_results


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path / "logs", network="small", max_frames=120)
    config = load_config(run.config_file)
    run.best_model_file.write_bytes(weights_of(2, 2_000, config))
    run.model_file.write_bytes(weights_of(1, 3_000, config))
    return run


def session_of(run: Run, *, weights: str = "best", num_games: int = 10, **changes) -> Session:
    return Session(
        run=run,
        weights=choose_weights(run, weights),
        config=load_config(run.config_file).model_copy(update=changes),
        seed=0,
        num_games=num_games,
        max_steps=None,
        num_envs=1,
        num_threads=1,
        device="cpu",
        has_window=False,
        is_filmed=False,
    )


def keep(run: Run, num_games: int, score: float, *, seed=0, max_steps=None, **changes):
    """Record games of one score as if they had been played."""
    session = session_of(run, num_games=num_games, **changes)
    session = replace(session, seed=seed, max_steps=max_steps)
    if max_steps is not None:
        session = replace(session, num_games=None)
    content = results(session, games_of(num_games, score), summarize([score] * num_games))
    return record(run, load_config(run.config_file), content)


def games_of(num_games: int, score: float) -> list[Game]:
    return [
        Game(index=index, seed=index, score=score, length_steps=10, truncated=False)
        for index in range(num_games)
    ]


def known(run: Run) -> tuple[int, float]:
    content = json.loads(run.results_file.read_text())
    return content["n_eval_episodes"], content["mean_reward"]


def samples(run: Run) -> set[tuple[int, float]]:
    return {(sample.num_games, sample.mean) for sample in measured(run)}


def test_what_is_worse_does_not_replace_what_a_run_is_known_by(run):
    keep(run, 100, 5.0)
    one = keep(run, 1, 99.0, eval_epsilon=0.0)  # watched without exploration
    assert known(run) == (100, 5.0)
    assert one.file.parent == run.path / "results"
    assert one.file.name.endswith("-zoo-with-max_frames-120-epsilon-0.json")
    keep(run, 3, 98.0, protocol="machado")
    keep(run, 2, 97.0, weights="last")
    keep(run, 200, 1.0, eval_epsilon=0.5)
    assert known(run) == (100, 5.0)
    assert samples(run) == {(100, 5.0), (1, 99.0), (3, 98.0), (2, 97.0), (200, 1.0)}


def test_what_is_better_replaces_it_and_nothing_is_lost(run):
    keep(run, 1, 99.0, eval_epsilon=0.0)
    assert known(run) == (1, 99.0)
    keep(run, 2, 4.0)  # by the run's own rules
    assert known(run) == (2, 4.0)
    keep(run, 7, 3.0, weights="last")  # the larger sample
    assert known(run) == (7, 3.0)
    assert samples(run) == {(1, 99.0), (2, 4.0), (7, 3.0)}
    keep(run, 8, 2.0)
    assert known(run) == (8, 2.0)
    assert samples(run) == {(1, 99.0), (8, 2.0), (7, 3.0)}
    keep(run, 8, 6.0)  # of equal ones the newest
    assert known(run) == (8, 6.0)


def test_of_the_same_weights_and_rules_the_larger_sample_is_kept(run):
    keep(run, 100, 5.0)
    kept = keep(run, 10, 7.0)
    assert (kept.num_games, kept.file) == (100, run.results_file)
    keep(run, 4, 3.0, eval_epsilon=0.0)
    kept = keep(run, 3, 2.0, eval_epsilon=0.0)
    assert (kept.num_games, kept.mean, kept.file.parent.name) == (4, 3.0, "results")
    assert samples(run) == {(100, 5.0), (4, 3.0)}


def test_weights_that_a_run_no_longer_has_do_not_stand_for_it(run):
    keep(run, 100, 5.0)
    run.best_model_file.write_bytes(weights_of(9, 4_000, load_config(run.config_file)))
    keep(run, 2, 6.0)
    assert known(run) == (2, 6.0)
    assert samples(run) == {(100, 5.0), (2, 6.0)}
    [row] = own_rows("Breakout", "zoo", run.path.parents[1], pytest.fail)
    assert (row.mean, row.num_games) == (6.0, 2)


def test_damaged_results_are_named_and_the_others_count(run):
    keep(run, 10, 5.0)
    keep(run, 4, 3.0, eval_epsilon=0.0)
    run.results_file.write_text("[" * 100_000)
    reasons: list[str] = []
    assert [sample.num_games for sample in measured(run, reasons.append)] == [4]
    assert len(reasons) == 1
    assert "results.json is damaged: it is nested too deeply" in reasons[0]


def test_results_that_cannot_be_read_are_kept_beside_those_of_the_next_games(run):
    keep(run, 1_000, 5.0)
    edited = run.results_file.read_text().replace("{", "{,", 1)
    for number in (1, 2):
        run.results_file.write_text(edited)
        with pytest.warns(UserWarning, match=rf"could not be read and is .*damaged-{number}\.txt"):
            keep(run, 1, 4.0)
        assert (run.path / "results" / f"damaged-{number}.txt").read_text() == edited
    assert known(run) == (1, 4.0)


def test_a_push_takes_the_most_games_that_were_played_of_its_weights_and_rules(run):
    keep(run, 30, 5.0, seed=4)
    keep(run, 100, 9.0, eval_epsilon=0.0)
    keep(run, 50, 7.0, weights="last")
    known_samples = measured(run)

    def found(**changes) -> int | None:
        seed = changes.pop("seed", None)
        sample = measured_results(session_of(run, **changes), known_samples, seed=seed)
        return None if sample is None else sample.num_games

    assert found() == 30
    assert found(num_games=31) is None
    assert found(seed=4) == 30
    assert found(seed=5) is None
    assert found(weights="last") == 50
    assert found(eval_epsilon=0.0) == 100
    assert found(eval_epsilon=0.05) is None
    assert largest(known_samples, sha256="0", rules=session_of(run).protocol) is None


def test_a_sample_that_is_incomplete_or_cut_by_steps_is_not_published(run):
    keep(run, 30, 5.0)
    content = json.loads(run.results_file.read_text())
    for change in ({"n_timesteps": 500}, {"games": []}, {"cpu": ...}):
        changed = {key: value for key, value in (content | change).items() if value is not ...}
        run.results_file.write_text(json.dumps(changed))
        assert len(measured(run)) == 1
        assert measured_results(session_of(run), measured(run), seed=None) is None


def test_games_cut_by_steps_lie_beside_those_that_can_be_published(run):
    keep(run, 50, 9.0, max_steps=500)
    assert known(run) == (50, 9.0)
    keep(run, 30, 5.0)
    assert known(run) == (30, 5.0)
    kept = keep(run, 150, 7.0, max_steps=1_500)
    assert kept.file.name.endswith("-epsilon-0.01-by-steps.json")
    assert known(run) == (30, 5.0)
    assert samples(run) == {(30, 5.0), (150, 7.0)}
    assert measured_results(session_of(run), measured(run), seed=None).num_games == 30


def test_a_publishers_claim_is_not_what_was_measured_here(run):
    keep(run, 100, 500.0)
    claim = json.loads(run.results_file.read_text())
    write_origin_manifest(
        run, command=["dqn-pull"], seed=1, protocol={}, steps=1, origin={"results": claim}
    )
    assert measured(run) == []
    keep(run, 10, 4.0, eval_epsilon=0.5)
    assert known(run) == (100, 500.0)
    assert samples(run) == {(10, 4.0)}
    assert keep(run, 50, 3.0).num_games == 50  # by the same rules, and fewer than are claimed
    assert known(run) == (100, 500.0)
    assert samples(run) == {(10, 4.0), (50, 3.0)}


def test_steps_that_leave_no_game_out_make_no_sample_by_steps(run):
    session = replace(session_of(run, num_games=10), max_steps=10_000)
    for number, by_steps in ((10, None), (9, 10_000)):
        content = results(session, games_of(number, 5.0), summarize([5.0] * number))
        assert content["n_timesteps"] == by_steps


def test_no_more_games_are_asked_for_than_results_may_have():
    assert MOST_EPISODES == MOST_GAMES


def test_a_leaderboard_ranks_the_largest_sample_and_none_of_two_games(run):
    logs = run.path.parents[1]
    keep(run, 2, 275.0)
    staged = run.path / "hub" / "dqn-Breakout" / "results.json"
    [watched] = ranked(own_rows("Breakout", "zoo", logs, pytest.fail))
    assert (watched.mean, watched.num_games, watched.rank) == (275.0, 2, None)
    staged.parent.mkdir(parents=True)  # as a push leaves it
    staged.write_text(json.dumps(played_results(session_of(run), games_of(10, 169.0))))
    [pushed] = ranked(own_rows("Breakout", "zoo", logs, pytest.fail))
    assert (pushed.mean, pushed.num_games, pushed.rank) == (169.0, 10, 1)
    both = [replace(watched, name="a"), replace(pushed, name="b"), replace(pushed, name="c")]
    assert [(row.name, row.rank) for row in ranked(both)] == [("b", 1), ("c", 1), ("a", None)]
    sb3 = replace(pushed, name="d", num_games=None)  # its card does not say
    assert [row.rank for row in ranked([sb3])] == [1]


def test_the_commands_use_what_was_measured(run, monkeypatch, capsys):
    monkeypatch.chdir(run.path.parents[2])
    keep(run, 100, 5.0)
    assert push.main(["--dry-run", "--no-render", "--num-threads", "1"]) == 0
    said = capsys.readouterr().out
    assert (
        "already played: 100 games of best model, logs/dqn/Breakout_1/results.json (--fresh" in said
    )
    card = Path("logs/dqn/Breakout_1/hub/dqn-Breakout/README.md").read_text()
    assert "**5.00 +/- 0.00** points over 100 full games" in card
    keep(run, 100, 0.0)  # what the agent scores in two games of 120 frames
    assert verify.main(["Breakout_1", "--episodes", "2", "--seed", "3", "--num-threads", "1"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("too few games to say: ")
    assert "holds" not in last
