"""What waits to be sent to a page: of pictures the newest, and the end of every game."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.watched import untrained_run

from dqn_zoo import load_agent
from dqn_zoo.play.agent import Outlook
from dqn_zoo.watching.game import Moment, WatchedGame
from dqn_zoo.watching.messages import picture, read_picture
from dqn_zoo.watching.outlet import Outlet


@pytest.fixture(scope="module")
def moment(tmp_path_factory) -> Moment:
    agent = load_agent(untrained_run(tmp_path_factory.mktemp("watch")).path)
    game = WatchedGame(agent, agent.config, seed=3)
    first = game.step(None)
    game.close()
    return first


def test_the_end_of_a_game_is_told_although_its_picture_is_left_out(moment):
    async def taken() -> list[str | bytes]:
        outlet = Outlet(asyncio.get_running_loop())
        ended = moment._replace(step=70, result=SimpleNamespace(score=5.0))
        outlet.put_moment(ended, 16.0, {})
        outlet.put_moment(moment._replace(game=1, step=1), 16.0, {})
        return [await outlet.take() for _ in range(2)]

    told, shown = asyncio.run(taken())
    assert json.loads(told) == {"ended": {"game": 0, "step": 70, "result": 5.0}}
    assert read_picture(shown)[0]["game"] == 1


def test_the_best_action_is_that_of_the_values_before_they_are_rounded(moment):
    outlook = Outlook(np.array([0.1231, 0.1234, 0.1, 0.1], np.float32))
    head, _ = read_picture(picture(moment._replace(outlook=outlook), moment.screens))
    assert head["q"][0] == head["q"][1]
    assert head["best"] == 1


def test_what_the_line_shows_is_sent_although_a_picture_of_the_past_takes_its_place(moment):
    async def taken() -> list[str | bytes]:
        outlet = Outlet(asyncio.get_running_loop())
        for step in (1, 2, 3):
            outlet.put_moment(moment._replace(step=step), 16.0, {})
        outlet.put_picture(b"the past")
        return [await outlet.take() for _ in range(2)]

    told, shown = asyncio.run(taken())
    assert [step for _, step, _, _ in json.loads(told)["trail"]] == [1, 2, 3]
    assert shown == b"the past"
