"""Every random stream of a run has a seed of its own, the same as in runs that go on."""

from dqn_zoo.envs.env_settings import ReseedPlan
from dqn_zoo.play.evaluation import enjoy_seeds, evaluation_seeds
from dqn_zoo.seeding import STREAMS, stream_generator, stream_seed

PINNED = [1878776328, 336614359, 1620722436, 1842996703, 608273276, 1039430863]
PINNED_GAMES = ([1377878462, 2047676021], [170371680, 948149380])


def test_seeds_are_what_they_were_when_runs_began_and_scores_were_published():
    assert [stream_seed(0, stream) for stream in STREAMS] == PINNED
    assert (list(enjoy_seeds(0, 2)), evaluation_seeds(0, 3, 2)) == PINNED_GAMES


def test_each_stream_of_each_seed_draws_for_itself():
    draws = {stream_generator(seed, stream).random() for seed in (0, 1) for stream in STREAMS}
    assert len(draws) == 2 * len(STREAMS)
    assert enjoy_seeds(5, 3) != enjoy_seeds(6, 3)


def test_environments_are_seeded_apart_each_time():
    plan = ReseedPlan.for_training(5)
    assert len({plan.seed_of(row, count) for row in range(8) for count in range(8)}) == 64
    assert plan.seed_of(0, 0) != ReseedPlan.for_training(6).seed_of(0, 0)
