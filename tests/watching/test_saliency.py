"""Maps of saliency: what counts is where it is, and the game does not wait for them."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.watched import Page, served, untrained_run, wait_until

from dqn_zoo import load_agent
from dqn_zoo.play.agent import Agent
from dqn_zoo.watching.agents import of_run
from dqn_zoo.watching.messages import read_message
from dqn_zoo.watching.outlet import MOST_UNDRAWN
from dqn_zoo.watching.saliency import SIDE, Onlooker, Seen, saliency


class LooksAtOnePatch(torch.nn.Module):
    """Action 0 is worth what lies in rows 57 to 61, columns 22 to 26 of the newest frame."""

    def q_values(self, frames: torch.Tensor) -> torch.Tensor:
        here = frames[:, -1, 57:62, 22:27].float().square().mean(dim=(1, 2)) / 255
        there = frames[:, 0, 5:10, 71:76].float().square().mean(dim=(1, 2)) / 255
        return torch.stack([here, there], dim=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Agent:
    return load_agent(untrained_run(tmp_path_factory.mktemp("saliency")).path)


def seen_by(network: torch.nn.Module, agent: Agent, action: int, step: int = 1) -> Seen:
    frames = np.zeros((4, 84, 84), np.uint8)
    for row, column in ((57, 22), (5, 71), (30, 50)):  # and one that no action is worth anything
        frames[:, row : row + 5, column : column + 5] = 255
    looking = Agent(network, agent.config, num_actions=2, device=torch.device("cpu"))  # type: ignore[arg-type]
    return Seen(looking, frames, action, game=0, step=step)


@pytest.mark.parametrize(("action", "row", "column"), [(0, 8, 3), (1, 1, 10)])
def test_the_patch_that_an_action_is_worth_is_found_and_no_other(trained, action, row, column):
    found = saliency(seen_by(LooksAtOnePatch(), trained, action))
    assert found.shape == (SIDE, SIDE)
    assert np.unravel_index(found.argmax(), found.shape) == (row, column)
    assert found.max() > 5
    rows, columns = np.indices(found.shape)
    is_far = np.maximum(abs(rows - row), abs(columns - column)) > 3
    assert found[is_far].max() < 0.01 * found.max()


def test_a_real_network_is_asked_once_and_gives_the_difference_that_one_patch_makes(trained):
    seen = Seen(trained, seen_by(LooksAtOnePatch(), trained, 0).observation, 2, game=0, step=1)
    asked = []

    class Asked(Agent):
        def q_values(self, observation):
            asked.append(observation)
            return super().q_values(observation)

    network = Asked(trained.network, trained.config, trained.num_actions, trained.device)
    found = saliency(seen._replace(agent=network))
    [batch] = asked
    assert batch.shape == (1 + SIDE**2, 4, 84, 84)
    np.testing.assert_array_equal(batch[0], seen.observation)
    patch = 5 * SIDE + 7  # its middle is row 38, column 52
    changed = abs(batch[1 + patch].astype(int) - seen.observation).sum(axis=0)
    assert changed[30:35, 50:55].sum() > 0.5 * changed.sum()
    values = trained.q_values(batch)[:, 2]
    assert found[5, 7] == pytest.approx(abs(values[1 + patch] - values[0]), abs=1e-5)


class Slow(LooksAtOnePatch):
    """Takes its time, and knows how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.go_on = threading.Event()

    def q_values(self, frames: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        assert self.go_on.wait(30)
        return super().q_values(frames)


def test_moments_for_which_there_is_no_time_go_by_and_nothing_is_made_unasked(trained):
    network, shown = Slow(), []
    onlooker = Onlooker(shown.append, threading.Lock())
    seen = seen_by(network, trained, 0)
    onlooker.see(seen)
    assert network.asked == 0
    onlooker.want(True)
    wait_until(lambda: network.asked == 1)
    begun = time.monotonic()
    for step in range(2, 50):
        onlooker.see(seen._replace(step=step))
    assert time.monotonic() - begun < 1, "the game does not wait"
    network.go_on.set()
    wait_until(lambda: len(shown) == 2)
    assert [each["at"] for each in shown] == [[0, 1], [0, 49]]
    onlooker.want(False)
    wait_until(lambda: onlooker._thread is None)
    onlooker.see(seen)
    assert network.asked == 2


def test_two_pages_make_maps_in_turn_at_most_half_of_the_time(trained):
    lasts_s, spans, seen = 0.03, [], [0, 0]

    class Lasts(LooksAtOnePatch):
        def q_values(self, frames: torch.Tensor) -> torch.Tensor:
            begun = time.monotonic()
            time.sleep(lasts_s)
            spans.append((begun, time.monotonic()))
            return super().q_values(frames)

    def count(page: int) -> Callable[[object], None]:
        def show(_: object) -> None:
            seen[page] += 1
            pages[page].see(moment._replace(step=seen[page] + 1))

        return show

    turn, moment = threading.Lock(), seen_by(Lasts(), trained, 0)
    pages = [Onlooker(count(page), turn) for page in (0, 1)]
    for page in pages:
        page.see(moment)
        page.want(True)
    wait_until(lambda: min(seen) >= 4)
    made = list(spans)
    for page in pages:
        page.want(False)
    wait_until(lambda: all(page._thread is None for page in pages))
    for (_, end), (begin, _) in itertools.pairwise(made):
        assert begin - end > 0.9 * lasts_s, "it rests as long as it worked"


def test_what_fails_is_said_and_asking_again_tries_again(trained, capsys):
    shown: list[dict] = []
    onlooker = Onlooker(shown.append, threading.Lock())
    onlooker.see(seen_by(LooksAtOnePatch(), trained, 7))  # which has two actions
    onlooker.want(True)
    wait_until(lambda: shown)
    assert shown[0]["saliency"] is None
    assert shown[0]["error"].startswith("no map can be made: ")
    onlooker.see(seen_by(LooksAtOnePatch(), trained, 0))
    wait_until(lambda: len(shown) == 2)
    assert len(shown[1]["saliency"]) == SIDE**2
    onlooker.want(False)
    wait_until(lambda: onlooker._thread is None)
    assert "IndexError" in capsys.readouterr().err


def test_a_map_of_an_agent_that_has_left_is_not_shown(trained):
    network, shown = Slow(), []
    onlooker = Onlooker(shown.append, threading.Lock())
    onlooker.see(seen_by(network, trained, 0))
    onlooker.want(True)
    wait_until(lambda: network.asked == 1)
    onlooker.see(None)
    network.go_on.set()
    onlooker.want(False)
    wait_until(lambda: onlooker._thread is None)
    assert shown == []


def test_a_page_gets_maps_from_when_it_asks_also_of_the_past_and_one_that_stalls_none(tmp_path):
    run = untrained_run(tmp_path)
    with served(tmp_path, of_run(run)) as place, Page(place.port) as page:
        assert page.open("dqn/Breakout_1")["crop"] == [0, 0, 0, 0]
        page.tell("pause")
        for _ in range(6):
            page.tell("step")
        step = page.last_picture()["step"]
        page.tell("saliency", on=True)  # while it stands still
        found = page.notice("saliency")
        assert found["at"] == [0, step]
        assert len(found["saliency"]) == SIDE**2
        page.tell("look", back=3)
        assert page.picture()["step"] == step - 3
        assert page.notice("saliency")["at"] == [0, step - 3]
        page.tell("play")
        num_pictures = 0
        while num_pictures < MOST_UNDRAWN:  # which are never drawn
            num_pictures += isinstance(page.socket.recv(timeout=10), bytes)
        with contextlib.suppress(TimeoutError):  # what was on its way
            page.socket.recv(timeout=0.3)
        with pytest.raises(TimeoutError):
            page.socket.recv(timeout=0.4)


def test_the_message_is_on_or_off():
    assert read_message('{"do": "saliency", "on": true}').on  # type: ignore[union-attr]
    for wrong in ('"yes"', "1", "null"):
        with pytest.raises(ValueError, match="not a message of this page"):
            read_message(f'{{"do": "saliency", "on": {wrong}}}')
