import re

import pytest

from dqn_zoo.errors import UserError
from dqn_zoo.settings.games import GAMES, SCORES, human_normalized_score, parse_game, random_score


def test_every_game_that_ale_py_registers_is_known_by_its_rom():
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    registered = {
        match[1]: spec.kwargs["game"]
        for name, spec in gymnasium.registry.items()
        if (match := re.fullmatch(r"ALE/(\w+)-v5", name))
    }
    assert registered == GAMES
    assert len(GAMES) == 104


@pytest.mark.parametrize(
    ("spelling", "game", "rom", "protocol"),
    [
        ("SpaceInvaders", "SpaceInvaders", "space_invaders", None),
        ("space_invaders", "SpaceInvaders", "space_invaders", None),
        ("spaceinvaders", "SpaceInvaders", "space_invaders", None),
        ("SPACE-INVADERS", "SpaceInvaders", "space_invaders", None),
        ("SpaceInvadersNoFrameskip-v4", "SpaceInvaders", "space_invaders", "zoo"),
        ("BreakoutDeterministic-v4", "Breakout", "breakout", "zoo"),
        ("Breakout-v4", "Breakout", "breakout", "zoo"),
        ("ALE/SpaceInvaders-v5", "SpaceInvaders", "space_invaders", "machado"),
        ("ALE-SpaceInvaders-v5", "SpaceInvaders", "space_invaders", "machado"),
        ("Pong-v5", "Pong", "pong", "machado"),
        ("Pong-v0", "Pong", "pong", "machado"),
        ("PongNoFrameskip-v0", "Pong", "pong", "machado"),
        ("up_n_down", "UpNDown", "up_n_down", None),
        ("TicTacToe3D", "TicTacToe3D", "tic_tac_toe_3d", None),
        ("ALE/tic_tac_toe_3d-v5", "TicTacToe3D", "tic_tac_toe_3d", "machado"),
        ("Atlantis2", "Atlantis2", "atlantis2", None),
        ("Atlantis-v4", "Atlantis", "atlantis", "zoo"),
    ],
)
def test_every_spelling_in_use_names_the_game_and_implies_its_protocol(
    spelling, game, rom, protocol
):
    name = parse_game(spelling)
    assert (name.game, name.rom, name.implied_protocol) == (game, rom, protocol)


def test_every_game_is_found_by_its_name_and_by_its_rom():
    for game, rom in GAMES.items():
        assert parse_game(game).game == game
        assert parse_game(rom).game == game
        assert parse_game(f"{game}NoFrameskip-v4").rom == rom


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("SpaceInvadrs", "did you mean SpaceInvaders?"),
        ("ALE/Brakout-v5", "did you mean Breakout?"),
        ("CartPole-v1", "expected one of the 104 Atari games"),
        ("", "try SpaceInvaders"),
        ("Pong-ram-v4", "agents here see the screen: use Pong"),
        ("Pong-v3", "use Pong, PongNoFrameskip-v4 or ALE/Pong-v5"),
        ("PongNoFrameskip-v5", "use Pong, PongNoFrameskip-v4 or ALE/Pong-v5"),
    ],
)
def test_a_name_that_is_no_game_gets_the_nearest_one(wrong, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_game(wrong)


def test_random_play_scores_0_and_the_human_scores_1():
    assert len(SCORES) == 57
    assert sum(each.random for each in SCORES.values()) == pytest.approx(50_864.9)
    assert sum(each.human for each in SCORES.values()) == pytest.approx(606_494.2)
    assert SCORES.keys() <= GAMES.keys()
    for game, scores in SCORES.items():
        assert human_normalized_score(game, scores.random) == 0.0
        assert human_normalized_score(game, scores.human) == 1.0
    assert human_normalized_score("SpaceInvaders", 908.35) == pytest.approx(0.5)
    assert random_score("SpaceInvaders") == 148.0


def test_a_game_outside_the_table_has_no_normalized_score():
    assert human_normalized_score("Adventure", 1.0) is None
    assert random_score("Adventure") is None
