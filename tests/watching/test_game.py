"""A game on a page: the same game as anywhere, until a person changes its course."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from support.films import pictures
from support.watched import untrained_run

from dqn_zoo import load_agent
from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.errors import UserError
from dqn_zoo.play.agent import Agent
from dqn_zoo.play.evaluation import Game, enjoy_seeds, evaluate
from dqn_zoo.play.film import SCALE_X, SCALE_Y, STRIP_HEIGHT, check_film
from dqn_zoo.play.weights import load_weights, weights_bytes
from dqn_zoo.watching.game import SeededGames, WatchedGame, film_game


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Agent:
    run = untrained_run(tmp_path_factory.mktemp("watch"), max_frames=400)  # 100 steps
    return load_agent(run.path)


def test_an_agent_whose_values_are_not_finite_is_said_and_makes_no_step(tmp_path):
    run = untrained_run(tmp_path)
    weights = load_weights(run.model_file)
    huge = {name: torch.full_like(each, 1e38) for name, each in weights.items()}
    run.model_file.write_bytes(weights_bytes(huge, {}))
    agent = load_agent(run.path)
    game = WatchedGame(agent, agent.config, seed=3)
    for by_hand in (None, 1):
        with pytest.raises(UserError, match="not finite, as after a training that diverged"):
            game.step(by_hand)
    assert not game.records[-1].actions
    game.close()


@pytest.fixture
def game(agent):
    game = WatchedGame(agent, agent.config, seed=3)
    yield game
    game.close()


def test_a_page_plays_the_games_that_dqn_enjoy_shows(agent, game):
    expected = evaluate(
        agent.q_values,
        game="Breakout",
        settings=replace(EnvSettings.from_config(agent.config), backend="gymnasium"),
        seeds=enjoy_seeds(3, 2),
    )
    results: list[Game] = []
    moments = []
    while len(results) < 2:
        moments.append(game.step(None))
        results += [moments[-1].result] if moments[-1].result else []
    assert results == expected
    assert sum(moment.reward for moment in moments) == sum(each.score for each in expected)
    assert [moment.game for moment in moments] == sorted(moment.game for moment in moments)
    assert moments[0].lives == 5
    assert moments[-1].lives == 0
    inner = [each for each in moments if each.step > 1 and each.result is None]
    assert {len(moment.screens) for moment in inner} == {4}
    assert moments[0].screens[0].shape == (210, 160, 3)


def test_the_end_of_a_game_shows_its_own_pictures_and_the_next_one_its_opening(agent, monkeypatch):
    shown, opened = [], []
    show, begins = SeededGames._show, SeededGames._begins

    def note_screen(games, environment, screen):
        shown.append(screen)
        show(games, environment, screen)

    def note_opening(games, index):
        opened.append(len(shown))
        return begins(games, index)

    monkeypatch.setattr(SeededGames, "_show", note_screen)
    monkeypatch.setattr(SeededGames, "_begins", note_opening)
    game = WatchedGame(agent, agent.config, seed=3)
    in_moments = 0
    while True:
        moment = game.step(None)
        if moment.step > 1:
            in_moments += len(moment.screens)
        else:
            after_first = len(shown)  # with the opening before it
        if moment.result is not None:
            break
    assert after_first + in_moments == opened[1], "no picture of the next game, and none is lost"
    assert np.array_equal(moment.screens[-1], shown[opened[1] - 1])
    following = game.step(None)
    assert np.array_equal(following.screens[-1], shown[-1])
    game.close()


def test_a_person_acts_in_the_agents_place_and_it_still_says_what_it_would_do(game):
    for _ in range(5):
        game.step(None)
    before = game.step(None)
    game.epsilon = 0.0
    moments = [game.step(3) for _ in range(6)]
    assert {moment.action for moment in moments} == {3}
    assert all(moment.by_hand for moment in moments)
    assert not before.by_hand
    assert game.records[-1].by_hand == 6
    for moment in moments:
        assert moment.choice == int(moment.outlook.q_values.argmax())
    assert not game.step(None).by_hand


def test_epsilon_is_the_chance_of_a_random_action_from_now_on(game):
    game.epsilon = 0.0
    moments = [game.step(None) for _ in range(30)]
    assert all(moment.choice == moment.outlook.q_values.argmax() for moment in moments)
    game.epsilon = 1.0
    moments = [game.step(None) for _ in range(30)]
    assert len({moment.choice for moment in moments}) == 4


def test_what_the_network_gets_is_shown_as_it_gets_it(agent, game):
    for _ in range(4):
        moment = game.step(None)
        assert moment.observation.shape == (4, 84, 84)
        np.testing.assert_array_equal(moment.outlook.q_values, agent.q_values(moment.observation))


def go_on(done: int, in_all: int) -> bool:
    return True


def played(game: WatchedGame, num_steps: int) -> list[tuple]:
    moments = [game.step(None) for _ in range(num_steps)]
    return [(each.game, each.step, each.action, each.score, each.lives) for each in moments]


@pytest.mark.parametrize("rules", ["zoo", "machado", "sb3"])
def test_a_game_that_goes_back_goes_on_as_it_did(rules, tmp_path):
    run = untrained_run(tmp_path, protocol=rules, eval_epsilon=0.5, max_frames=400)
    agent = load_agent(run.path)
    game = WatchedGame(agent, agent.config, seed=1)
    played(game, 60)
    moment = game.step(None)
    future = played(game, 70)  # beyond the end of the game
    assert game.go_back(moment.place, go_on)
    assert [record.index for record in game.records] == [moment.place.game]
    assert future[-1][0] == 1
    assert played(game, 70) == future
    assert game.step(None).screens[-1].any()
    game.close()


def test_a_branch_has_the_same_past_and_another_future(game):
    played(game, 20)
    place = game.step(None).place
    past = bytes(game.records[-1].actions)
    future = played(game, 20)
    assert game.go_back(place, go_on)
    branch = [game.step(3) for _ in range(20)]
    assert game.records[-1].actions[:21] == past
    assert game.records[-1].actions.count(3) >= 18  # FIRE is pressed after a lost life
    assert game.records[-1].by_hand == 20
    assert [each.action for each in branch] != [action for _, _, action, _, _ in future]


def test_going_back_can_lead_into_an_earlier_game_and_be_given_up(game):
    moments = [game.step(None)]
    while moments[-1].result is None:
        moments.append(game.step(None))
    played(game, 10)
    assert not game.go_back(moments[-5].place, lambda done, in_all: False)
    assert game.step(None).game == 1
    assert game.go_back(moments[-5].place, go_on)
    again = [game.step(None) for _ in range(4)]
    assert again[-1].result == moments[-1].result
    assert game.go_back(again[-1].place, go_on)  # the beginning of the next game
    assert game.step(None).game == 1


def test_a_place_that_is_not_come_to_again_is_refused_and_the_game_goes_on(game):
    played(game, 5)
    place = game.step(None).place
    with pytest.raises(UserError, match="did not come to the same place"):
        game.go_back(place._replace(check=place.check ^ 1), go_on)
    with pytest.raises(UserError, match="game 10 is not kept"):
        game.go_back(place._replace(game=9), go_on)
    assert game.step(None).step == 7


def test_a_film_shows_a_game_again_from_any_step(agent, game, tmp_path):
    shown = []
    for _ in range(12):
        shown += game.step(None).screens[-4:]
    [record] = game.records
    film = partial(film_game, record=record, config=agent.config, seed=3, proceed=go_on)
    assert film(tmp_path / "all.mp4", first_step=0)
    assert film(tmp_path / "end.mp4", first_step=4)
    check_film(tmp_path / "end.mp4")
    filmed = pictures(tmp_path / "end.mp4")
    assert len(filmed) == 8 * 4
    assert len(pictures(tmp_path / "all.mp4")) >= 12 * 4
    enlarged = shown[-1].repeat(SCALE_Y, 0).repeat(SCALE_X, 1).astype(int)
    assert abs(filmed[-1][STRIP_HEIGHT:].astype(int) - enlarged).mean() < 3


def test_a_film_of_a_game_that_has_ended_ends_with_it(agent, game, tmp_path):
    moments = [game.step(None)]
    while moments[-1].result is None:
        moments.append(game.step(None))
    record = game.record(0)
    path, first_step = tmp_path / "end.mp4", len(record.actions) - 4
    assert film_game(path, record, agent.config, seed=3, first_step=first_step, proceed=go_on)
    last = [screen for moment in moments[-4:] for screen in moment.screens]
    assert len(pictures(path)) == len(last)


def test_the_last_ten_games_can_be_filmed_beside_the_one_that_is_played(agent, tmp_path):
    short = agent.config.model_copy(update={"max_frames": 8})
    game = WatchedGame(agent, short, seed=3)
    while game.step(None).game < 10:  # so ten have ended
        pass
    assert game.record(0).result is not None
    while game.step(None).game < 11:
        pass
    with pytest.raises(UserError, match="game 1 is not kept any more"):
        game.record(0)
    game.close()


def test_a_film_that_is_given_up_leaves_nothing(agent, game, tmp_path):
    played(game, 40)
    [record] = game.records
    path = tmp_path / "film.mp4"
    begun = []

    def proceed(done: int, in_all: int) -> bool:
        begun.append((done, in_all))
        return done < 20

    assert not film_game(path, record, agent.config, seed=3, first_step=0, proceed=proceed)
    assert begun[-1] == (32, 40)
    assert list(tmp_path.iterdir()) == []
