"""dqn-verify: a score that holds, one that was made up, a card that says something else."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hub_commands import Computer
from support.hub_standin import Files, running_hub
from support.run_makers import make_run, weights_of
from test_pull import described

from dqn_zoo.play.statistics import Sample, summarize
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.verify import Claim, _as_claimed, judge, verdict_lines

REPO = "ann/dqn-Breakout"
FAST = ("--num-threads", "1", "--n-envs", "1")  # an emulator takes as long to start as 300 steps
# An interval of 95 % misses one time in twenty: what a verdict is asked of has fixed games.
GAMES = (*FAST, "--seed", "3")


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> tuple[Run, Files]:
    """A run whose games depend on their seeds, and its published files."""
    computer = Computer(tmp_path_factory.mktemp("author"), hub=None)
    run = make_run(computer.logs, network="small", max_frames=200, eval_epsilon=0.9)
    run.model_file.write_bytes(weights_of(1, 3_000, load_config(run.config_file)))
    ended = computer.run("push", *FAST, "--episodes", "10", "--no-render", "--dry-run")
    assert ended.code == 0, ended.output
    folder = run.path / "hub" / "dqn-Breakout"
    return run, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def computer(tmp_path):
    with running_hub() as hub:
        yield Computer(tmp_path, hub)


def with_results(files: Files, change: Callable[[dict], None], *, card: bool = True) -> Files:
    """Change results.json, and the card with it, so that only play can find it out."""
    results = json.loads(files["results.json"])
    change(results)
    score = f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    readme = re.sub(r"value: .*", f"value: {score}", files["README.md"].decode())
    changed = files | ({"README.md": readme.encode()} if card else {})
    return described(changed | {"results.json": json.dumps(results).encode()})


def numbers(output: str, line: str) -> list[float]:
    (found,) = (text for text in output.splitlines() if text.startswith(line))
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", found)]


def test_a_true_score_holds_in_other_games(computer, master):
    _, files = master
    computer.hub.add(REPO, files)
    ended = computer.run("verify", REPO, *GAMES)
    assert ended.code == 0, ended.output
    results = json.loads(files["results.json"])
    claimed, now = numbers(ended.output, "claimed"), numbers(ended.output, "now")
    assert claimed[:3] == [round(results["mean_reward"], 2), round(results["std_reward"], 2), 10]
    assert now[2] == 10
    low, high = numbers(ended.output, "interval")[:2]
    assert low <= 0 <= high
    assert (low + high) / 2 == pytest.approx(now[0] - claimed[0], abs=0.1)
    assert ended.last_line == "the score holds: the interval contains 0"


def test_the_games_of_a_verdict_are_fresh_each_time(computer, master):
    computer.hub.add(REPO, master[1])
    outputs = [computer.run("verify", REPO, *FAST, "--episodes", "2").output for _ in range(2)]
    seeds = [re.findall(r"from seed (\d+)", output) for output in outputs]
    assert [len(found) for found in seeds] == [1, 1]
    claimed = str(json.loads(master[1]["results.json"])["seed"])
    assert len({seeds[0][0], seeds[1][0], claimed}) == 3


@pytest.mark.parametrize(("claimed", "played"), [(9, 100), (100, 9), (2, 2)])
def test_of_few_games_no_score_holds_but_one_may_not_hold(claimed, played, master):
    claim = Claim(
        sample=Sample(claimed, 5.0, 2.0),
        config=load_config(master[0].config_file),
        weights=master[0].model_file,
        seed=None,
        card=None,
    )
    near, far = (summarize([mean - 2, mean + 2] * (played // 2) + [mean]) for mean in (5.0, 500.0))
    verdict = judge(claim, near)
    assert (verdict.is_told, verdict.holds) == (False, False)
    last = verdict_lines(claim, near, verdict)[-1]
    assert last.startswith("too few games to say: the interval contains 0, and of ")
    verdict = judge(claim, far)
    assert (verdict.is_told, verdict.holds) == (True, False)
    assert verdict_lines(claim, far, verdict)[-1].startswith("the score does not hold")


def test_of_ten_games_on_both_sides_a_score_holds(master):
    sample = Sample(10, 5.0, 2.0)
    claim = Claim(sample, load_config(master[0].config_file), master[0].model_file, None, None)
    assert judge(claim, summarize([3.0, 7.0] * 5)).holds


def test_a_made_up_score_does_not_hold(computer, master):
    def boast(results: dict) -> None:
        results["mean_reward"] += 10

    computer.hub.add(REPO, with_results(master[1], boast))
    ended = computer.run("verify", REPO, *GAMES)
    assert (ended.code, ended.last_line) == (
        1,
        "the score does not hold: the interval does not contain 0",
    )


def test_a_card_that_says_more_than_its_results_does_not_hold(computer, master):
    files = dict(master[1])
    files["README.md"] = re.sub(rb"value: .*", b"value: 30.00 +/- 1.00", files["README.md"])
    computer.hub.add(REPO, files)
    ended = computer.run("verify", REPO, *FAST, "--episodes", "2")
    assert ended.code == 1
    assert "the card says 30.00 +/- 1.00, which is not what its own results.json" in ended.output


def test_the_card_is_compared_although_somebody_played_since(computer, master):
    computer.hub.add(REPO, master[1])
    assert computer.run("enjoy", "--hub", REPO, "--episodes", "1", *FAST, "--no-render").code == 0
    ended = computer.run("verify", REPO, *GAMES, "--episodes", "11")
    assert ended.code == 0, ended.output
    assert numbers(ended.output, "claimed")[2] == 10
    assert numbers(ended.output, "now")[2] == 11


def test_what_a_card_says_is_not_obeyed_by_the_terminal(computer, master):
    def forge(results: dict) -> None:
        results["seed"] = "1\nnow         999.00 +/- 1.00 in 100 games\x1b]0;x\x07"

    computer.hub.add(REPO, with_results(master[1], forge))
    ended = computer.run("verify", REPO, *GAMES)
    assert ended.code == 2
    assert "seed: expected a valid integer" in ended.last_line
    assert "\x1b" not in ended.output
    assert "now         999.00" not in ended.output


def test_the_rules_of_the_card_are_played_not_those_of_the_settings(computer, master):
    def deterministic(results: dict) -> None:
        results["epsilon"] = results["protocol"]["eval_epsilon"] = 0.0

    computer.hub.add(REPO, with_results(master[1], deterministic))
    assert "epsilon 0, 2 games" in computer.run("verify", REPO, *FAST, "--episodes", "2").output


def test_a_run_of_ones_own_is_verified_by_its_name(computer, master):
    run, files = master
    (computer.logs / "dqn").mkdir(parents=True)
    copy = Run(computer.logs / "dqn" / "Breakout_1")
    copy.path.mkdir()
    for file in (run.config_file, run.manifest_file, run.model_file):
        (copy.path / file.name).write_bytes(file.read_bytes())
    ended = computer.run("verify", "Breakout_1", *FAST)
    assert (ended.code, "has no results.json to verify" in ended.output) == (2, True)
    copy.results_file.write_bytes(files["results.json"])
    assert computer.run("verify", "dqn/Breakout_1", *GAMES).code == 0
    copy.model_file.write_bytes(weights_of(5, 4_000, load_config(copy.config_file)))
    ended = computer.run("verify", "Breakout_1", *FAST)
    assert (ended.code, "weights that it no longer has" in ended.output) == (2, True)


def one_game(results: dict) -> None:
    results["n_eval_episodes"] = 1


def other_rules(results: dict) -> None:
    results["protocol"]["frame_skip"] = 2


def no_rules(results: dict) -> None:
    results["protocol"] = {"name": "easy"}


@pytest.mark.parametrize(
    ("change", "flags", "said"),
    [
        (lambda results: None, ("--seed", "0"), "--seed 0 plays the very games of the card"),
        (lambda results: None, ("--episodes", "1"), "at least 2"),
        (one_game, (), "is of one game; a comparison needs two"),
        (other_rules, (), "names rules that cannot be played here"),
        (no_rules, (), "names no rules that can be played"),
    ],
)
def test_what_cannot_be_compared_is_one_line(change, flags, said, computer, master):
    computer.hub.add(REPO, with_results(master[1], change))
    ended = computer.run("verify", REPO, *FAST, *flags)
    assert ended.code == 2
    assert said in ended.last_line
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(("said", "epsilon"), [(True, 0.0), (False, 0.05), (None, 0.05)])
def test_a_claim_without_rules_is_played_greedily_where_it_was_made_so(said, epsilon):
    config = Config(env="Pong", eval_epsilon=0.05)
    claim = {} if said is None else {"is_deterministic": said}
    assert _as_claimed(config, claim, Path("results.json")).eval_epsilon == epsilon


def test_the_weights_of_the_claim_are_named_by_their_content(master):
    run, files = master
    results = json.loads(files["results.json"])
    assert results["weights"]["sha256"] == hashlib.sha256(run.model_file.read_bytes()).hexdigest()
