"""Two games of one seed: where they part, and a person's score that anybody can play again."""

import csv
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.watched import Page, served, untrained_run, wait_until

from dqn_zoo.cli.leaderboard import main as leaderboard
from dqn_zoo.cli.verify import main as verify
from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.errors import UserError
from dqn_zoo.play.by_hand import (
    HumanGame,
    Opponent,
    files_of,
    folder_of,
    human_scores,
    read_game,
    seeds_begun,
    write_game,
)
from dqn_zoo.play.evaluation import enjoy_seeds, evaluate
from dqn_zoo.play.weights import load_weights, weights_bytes
from dqn_zoo.settings.protocols import PROTOCOLS
from dqn_zoo.watching.agents import Gallery, of_package, of_run
from dqn_zoo.watching.duel import Duel
from dqn_zoo.watching.messages import OpenDuel

ONE, OTHER = "dqn/Breakout_1", "dqn/Breakout_2"
FIRE, LEFT = 1, 3


@pytest.fixture(scope="module")
def agents(tmp_path_factory) -> Gallery:
    """Two agents of Breakout who know nothing, each in its way, and one of Pong."""
    folder = tmp_path_factory.mktemp("agents")
    short = {"max_frames": 160, "eval_epsilon": 0.1}  # 40 steps, no-ops included
    own = {"noop_max": 3, "eval_epsilon": 0.9}
    runs = [untrained_run(folder, seed=1, **short | own), untrained_run(folder, seed=2, **short)]
    return Gallery(None, [*map(of_run, runs), of_package("Pong")])


@pytest.fixture
def duel(agents, tmp_path):
    opened = []

    def open_duel(left: str | None, right: str = OTHER, **more: Any) -> Duel:
        asked = OpenDuel(do="duel", left=left, right=right, **more)
        opened.append(Duel(agents, asked, log_folder=tmp_path))
        return opened[-1]

    yield open_duel
    for each in opened:
        each.close()


def play_out(duel: Duel, by_hand: int = LEFT) -> list[dict[str, Any]]:
    notices = []
    while not duel.is_over:
        notices += duel.step(by_hand)
    return notices


def kept(folder: Path) -> list[Path]:
    return files_of(folder_of(folder, "Breakout"))


@pytest.fixture(scope="module")
def game(agents, tmp_path_factory) -> HumanGame:
    """A game of a person who leans to the left, and the agent's of the same seed."""
    folder = tmp_path_factory.mktemp("game")
    asked = OpenDuel(do="duel", left=None, right=OTHER, seed=7)
    duel = Duel(agents, asked, log_folder=folder)
    play_out(duel)
    duel.close()
    [file] = kept(folder)
    return read_game(file)


def test_two_agents_play_one_game_by_the_right_ones_rules_until_they_part(agents, duel, tmp_path):
    watched = duel(ONE, seed=3)
    moments, notices = [], []
    while not watched.is_over:
        notices += watched.step(0)
        moments.append([side.moment for side in watched._sides])
    parted, over = notices
    step = parted["parted"]
    assert step > 1, "the first step is FIRE, by the rules"
    for left, right in moments[: step - 1]:
        assert left.action == right.action
    for left, right in moments[:step]:
        assert left.observation.tobytes() == right.observation.tobytes()
    assert parted["actions"] == [watched.action_meanings[each.action] for each in moments[step - 1]]
    assert len(set(parted["actions"])) == 2
    assert over["file"] is None
    assert kept(tmp_path) == []
    rules = EnvSettings.from_config(agents.open(OTHER).agent.config)
    for side in watched._sides:
        [alone] = evaluate(
            agents.open(side.name).agent.q_values,
            game="Breakout",
            settings=replace(rules, backend="gymnasium"),
            seeds=enjoy_seeds(3, 1),
        )
        assert side.record.result == alone
    assert over["over"] == [side.record.result.score for side in watched._sides]


def test_an_agent_never_parts_from_itself_by_other_rules_either(duel):
    watched = duel(ONE, ONE, protocol="machado")
    told = watched.describe()
    assert (told["protocol"], told["sticky"]) == ("machado with noop_max 3, max_frames 160", 0.25)
    [last] = play_out(watched)
    assert last["over"][0] == last["over"][1]


def test_where_one_agent_cannot_go_on_the_other_does_not_go_on_alone(tmp_path):
    whole, broken = (untrained_run(tmp_path, seed=seed) for seed in (1, 2))
    weights = load_weights(broken.model_file)
    huge = {name: torch.full_like(each, 1e38) for name, each in weights.items()}
    broken.model_file.write_bytes(weights_bytes(huge, {}))
    gallery = Gallery(None, [of_run(whole), of_run(broken)])
    duel = Duel(gallery, OpenDuel(do="duel", left=ONE, right=OTHER), log_folder=tmp_path)
    for _ in range(3):
        with pytest.raises(UserError, match="values of this agent are not finite"):
            duel.step(0)
    assert [len(side.record.actions) for side in duel._sides] == [1, 0]
    duel.close()


def test_two_of_different_games_do_not_meet(duel):
    with pytest.raises(UserError, match="plays Breakout and pretrained/Pong Pong: choose two"):
        duel(ONE, "pretrained/Pong")
    with pytest.raises(UserError, match="is not on the list"):
        duel("../dqn/Breakout_1")


def test_a_person_hears_of_a_seed_begun_before_and_nothing_of_what_the_agent_would_do(
    game, duel, tmp_path
):
    write_game(folder_of(tmp_path, "Breakout") / "game.json", game)
    watched = duel(None, seed=7)
    assert watched.describe()["is_known"]
    for _ in range(3):
        watched.step(LEFT)
    mine, theirs = (side.moment for side in watched._sides)
    assert mine.by_hand
    assert not theirs.by_hand
    assert not mine.outlook.q_values.any()
    assert theirs.outlook.q_values.any()
    assert mine.choice == mine.action == LEFT


def test_you_first_and_then_the_agent(duel, tmp_path):
    watched = duel(None, seed=7, order="you first")
    mine, theirs = watched._sides
    assert not watched.describe()["is_known"]
    assert kept(tmp_path) == [], "whoever only looks has begun nothing"
    watched.step(FIRE)
    [file] = kept(tmp_path)
    assert read_game(file)["played"] is None
    watched.pause()
    while watched.is_by_hand:
        watched.step(FIRE)
        assert theirs.moment is None
    half = read_game(file)
    assert half["played"] is not None
    assert half["agent"]["played"] is None
    last = play_out(watched)[-1]
    whole = read_game(file)
    assert last["file"] == str(file)
    assert last["over"] == [whole["played"]["score"], whole["agent"]["played"]["score"]]
    assert (whole["seed"], whole["order"], whole["pauses"]) == (7, "you first", 1)
    assert mine.record.result.length_steps == len(whole["played"]["actions"])


def test_a_persons_game_is_kept_with_all_that_it_takes_to_play_it_again(game, tmp_path, capsys):
    mine, theirs = game["played"], game["agent"]
    assert (game["env"], game["seed"], game["order"]) == ("Breakout", 7, "side by side")
    assert game["protocol"]["eval_epsilon"] == 0.0
    assert (theirs["name"], theirs["epsilon"], theirs["steps"]) == (OTHER, 0.1, 10)
    assert mine["length_steps"] == len(mine["actions"]) > 20
    assert mine["truncated"]
    assert set(mine["actions"]) == {"b", "d"}, "FIRE by the rules, and to the left"
    file = folder_of(tmp_path, "Breakout") / "game.json"
    write_game(file, game)
    assert verify([str(file.parent)]) == 0
    assert capsys.readouterr().out.count("holds, its actions lead there") == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda mine: {"score": mine["score"] + 1.0},
        lambda mine: {"length_steps": mine["length_steps"] + 1},
        lambda mine: {"actions": mine["actions"][:-1]},
        lambda mine: {"actions": mine["actions"] + "a"},
        lambda mine: {"truncated": False},
    ],
)
def test_a_score_that_was_made_up_does_not_hold(game, tmp_path, capsys, change):
    file = tmp_path / "game.json"
    mine = game["played"]
    write_game(file, {**game, "played": mine | change(mine), "agent": unplayed(game)})
    assert verify([str(file)]) == 1
    assert capsys.readouterr().out.count("does not hold") == 1


def unplayed(game: HumanGame) -> Opponent:
    return {**game["agent"], "played": None}


def rules(**changes: Any) -> dict[str, Any]:
    return {"protocol": asdict(PROTOCOLS["zoo"]) | changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "../Breakout"}, "a game that does not exist here"),
        ({"protocol": {"name": "zoo"}}, "protocol is damaged"),
        (rules(name="../zoo"), "no rules that can be played: protocol must be"),
        (rules(frame_skip=0), "rules that cannot be played here"),
        (rules(fire=False), "rules that cannot be played here"),
        (rules(action_repeat_probability=7.0), "action_repeat_probability must be"),
        (rules(noop_max=10**12), "noop_max must be"),
        (rules(mode=3), "Breakout has no mode 3"),
        ({"seed": -1}, "seed: expected"),
        ({"played": {"score": 1.0, "length_steps": 1, "truncated": True, "actions": "z"}}, "actio"),
        ({"played": {"score": 1.0, "length_steps": 1, "truncated": True, "actions": "r"}},
         "an action 17, and Breakout only 4"),
    ],
)  # fmt: skip
def test_a_damaged_game_is_refused_in_words(game, tmp_path, capsys, change, message):
    file = tmp_path / "game.json"
    write_game(file, game | change)
    assert verify([str(file)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_is_verified_as_far_as_it_goes_and_nothing_is_no_proof(
    game, tmp_path, capsys, monkeypatch
):
    folder = folder_of(tmp_path, "Breakout")
    folder.mkdir(parents=True)
    assert verify([str(folder)]) == 2
    assert "holds no games" in capsys.readouterr().err
    write_game(folder / "1.json", {**game, "played": None, "agent": unplayed(game)})
    assert verify([str(folder)]) == 1
    assert "no full game: there is no score to hold" in capsys.readouterr().out
    write_game(folder / "0.json", game | {"env": "Pong"})
    write_game(folder / "2.json", game)
    monkeypatch.chdir(folder.parent)
    assert verify(["Breakout"]) == 2
    said = capsys.readouterr()
    assert "is of another game than its folder: Pong" in said.err
    assert "1 of 3 games cannot be played again" in said.err
    assert said.out.count("holds, its actions lead there") == 2


def test_flags_that_choose_other_games_are_refused_beside_those_of_a_person(tmp_path, capsys):
    file = tmp_path / "game.json"
    file.write_text("{}")
    assert verify([str(file), "--seed", "3"]) == 2
    assert "holds games of their own: leave out --seed" in capsys.readouterr().err


def test_a_seed_counts_once_and_what_was_given_up_is_told(game, tmp_path, capsys):
    folder = folder_of(tmp_path, "Breakout")
    sticky = game["protocol"] | {"action_repeat_probability": 0.25, "noop_max": 0}
    given_up = {"played": None}
    for number, change in enumerate(
        [
            {"seed": 1, "pauses": 2},
            {"seed": 2, "pauses": 3},
            {"seed": 1, "pauses": 9},  # again
            {"seed": 3} | given_up,
            {"seed": 3},  # too late
            {"seed": 1, "protocol": sticky},  # another game
        ]
    ):
        write_game(folder / f"{number}.json", game | change)
    (folder / "damaged.json").write_text("{")
    write_game(folder / "foreign.json", game | {"env": "Pong", "seed": 9})
    write_game(folder / "unknown.json", game | rules(name="unknown"))
    warned: list[str] = []
    ours, theirs = human_scores(folder, warned.append)
    assert (len(ours.scores), ours.given_up, ours.known) == (2, 1, 2)
    assert (len(theirs.scores), theirs.given_up, theirs.known) == (1, 0, 0)
    assert len(warned) == 3
    assert any("foreign.json is of another game than its folder: Pong" in each for each in warned)
    assert seeds_begun(folder, ours.rules) == {1, 2, 3}

    rows = tmp_path / "rows.csv"
    asked = ["--env", "Breakout", "--offline", "-f", str(tmp_path), "--csv", str(rows)]
    assert leaderboard(asked) == 0
    said = capsys.readouterr()
    assert "damaged.json" in said.err
    assert "human/Breakout (yours)" in said.out
    found = {row["protocol"]: row for row in csv.DictReader(rows.read_text().splitlines())}
    words = (
        "zoo with max_frames 160 by hand, sticky actions 0, no-ops up to 30; 1 given up; "
        "paused 5 times"
    )
    row = found.pop(words)
    assert (row["library"], row["num_games"], row["is_own"]) == ("human", "2", "True")
    assert float(row["mean"]) == game["played"]["score"]
    [other] = found
    assert other.startswith("zoo with action_repeat_probability 0.25, noop_max 0, max_frames 160")
    assert "by hand, sticky actions 0.25, no-ops up to 0" in other


def test_a_game_that_cannot_be_kept_is_not_begun(duel, tmp_path):
    (tmp_path / "human").write_text("in the way")
    watched = duel(None)
    with pytest.raises(UserError, match="the score cannot be kept"):
        watched.step(LEFT)
    assert [side.moment for side in watched._sides] == [None, None]


def test_a_page_gets_both_games_in_one_picture_and_cannot_help_the_person(tmp_path):
    first = of_run(untrained_run(tmp_path, max_frames=160))
    with served(tmp_path, first) as place, Page(place.port) as page:
        page.tell("duel", left=None, right=ONE, seed=3)
        told = page.notice("opened")
        assert [side["name"] for side in told["sides"]] == [None, ONE]
        page.tell("speed", times=16.0)
        for do, more, why in (
            ("step", {}, "not step by step"),
            ("film", {"game": 0}, "not in a duel"),
            ("look", {"back": 3}, "not in a duel"),
            ("branch", {}, "not in a duel"),
            ("epsilon", {"chance": 0.0}, "not in a duel"),
            ("press", {"action": 4, "press": 0}, "no action 4"),
        ):
            page.tell(do, **more)
            assert why in page.notice("error")["error"]
        assert kept(tmp_path) == []
        page.tell("play")
        page.tell("press", action=LEFT, press=0)
        assert page.notice("parted")["parted"] > 1
        picture = page.picture()
        assert (picture["side"], picture["ms"]) == (0, 66.67), "at the speed of the console"
        assert b'"side":1' in picture["pixels"]
        assert page.notice("over")["file"] == str(kept(tmp_path)[0])
        page.open(ONE)  # and a game follows
        assert page.picture()["game"] == 0


def test_pausing_gains_a_person_no_time_and_what_is_refused_is_a_pause(tmp_path):
    first = of_run(untrained_run(tmp_path))
    with served(tmp_path, first) as place, Page(place.port) as page:
        page.tell("duel", left=None, right=ONE, seed=3)
        page.notice("opened")
        page.tell("play")
        wait_for_picture(page)
        begun = time.monotonic()
        for press in range(8):
            page.tell("pause")
            page.tell("play")
            page.tell("press", action=press % 2, press=press)  # which may not hurry it either
            wait_for_picture(page)
        assert time.monotonic() - begun > 6 / 15, "8 steps of 1/15 s, the first of them early"
        page.tell("step")
        assert "not step by step" in page.notice("error")["error"]
        [player] = place.watch._players
        assert player._duel is not None
        assert player._duel._kept is not None
        assert player._duel._kept["pauses"] == 9


def wait_for_picture(page: Page) -> None:
    while isinstance(page.socket.recv(timeout=30), str):  # they part
        continue
    page.tell("drawn")


def test_a_seed_that_another_page_began_meanwhile_does_not_count(game, duel, tmp_path):
    watched = duel(None, seed=7)
    assert not watched.describe()["is_known"]
    write_game(folder_of(tmp_path, "Breakout") / "2020-game.json", game)
    over = play_out(watched)[-1]
    assert over["is_known"]
    assert f"-f {tmp_path}" in over["leaderboard"]


def test_a_game_that_cannot_be_written_stands_still_and_says_so(tmp_path):
    first = of_run(untrained_run(tmp_path, max_frames=160))
    with served(tmp_path, first) as place, Page(place.port) as page:
        page.tell("duel", left=None, right=ONE, seed=3, order="you first")
        page.notice("opened")
        page.tell("play")
        page.picture()
        wait_until(lambda: len(kept(tmp_path)) == 1)
        for file in kept(tmp_path):
            file.unlink()
        (tmp_path / "human" / "Breakout").rmdir()
        (tmp_path / "human" / "Breakout").write_text("in the way")
        assert "the score cannot be kept" in page.notice("error")["error"]
        [player] = place.watch._players
        wait_until(lambda: not player._plays)
