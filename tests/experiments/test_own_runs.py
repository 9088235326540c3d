"""One's own runs beside published scores."""

import json
from pathlib import Path

import pytest
from support.run_makers import make_run

from dqn_zoo.cli.bench import main
from dqn_zoo.settings.protocols import PROTOCOLS


def play(folder: Path, mean: float, *, protocol: str = "zoo", **settings) -> Path:
    """Make a run as training and a hundred games leave it."""
    run = make_run(folder, **settings)
    rules = PROTOCOLS[protocol]
    content = {
        "mean_reward": mean, "std_reward": 2.5, "n_eval_episodes": 100,
        "epsilon": rules.eval_epsilon, "protocol": rules.as_json(),
        "weights": {"sha256": "0" * 64, "steps": 600_000},
    }  # fmt: skip
    run.results_file.write_text(json.dumps(content))
    return run.path


def test_runs_stand_beside_random_play_the_human_and_rl_zoo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    logs = Path("logs")
    play(logs, 2_500.25, game="Seaquest")
    play(logs, -3.05, game="Pong")
    play(logs, 7.4, game="Pong", protocol="machado")
    make_run(logs, game="Qbert")  # not played
    assert main(["--reference", "rl-zoo"]) == 0
    head, _, first, second, third, _, mark, _, source = capsys.readouterr().out.splitlines()
    assert head == (
        "| game | run | steps | games | score | human = 1 | random | human "
        "| rl-zoo dqn | rl-zoo qrdqn | protocol |"
    )
    # (-3.05 + 20.7) / (14.6 + 20.7) is a half; (2,500.25 - 68.4) / (42,054.7 - 68.4) is 0.058.
    assert first == (
        "| Pong | logs/dqn/Pong_1 | 600,000 | 100 | -3.0 +/- 2.5 | 0.50 | -20.7 | 14.6 "
        "| 20.6 | 20.5 | zoo, epsilon 0.01 |"
    )
    assert second.startswith("| Pong | logs/dqn/Pong_2 | 600,000 | 100 | 7.4 +/- 2.5 | 0.80 |")
    assert second.endswith("| 20.6 * | 20.5 * | machado, epsilon 0.001 |")
    assert third == (
        "| Seaquest | logs/dqn/Seaquest_1 | 600,000 | 100 | 2,500.2 +/- 2.5 | 0.06 | 68.4 "
        "| 42,054.7 | 2,000.3 | 2,557.6 | zoo, epsilon 0.01 |"
    )
    assert mark == "\\* played by other rules than the run in this row: they do not compare"
    assert source.startswith("rl-zoo: protocol zoo, 10,000,000 steps")


def test_of_two_references_only_the_one_of_other_rules_is_marked(tmp_path, capsys):
    play(tmp_path, 7.4, game="Pong")
    flags = ["--reference", "rl-zoo", "--reference", "dopamine-1m"]
    assert main(["-f", str(tmp_path), "--table", *flags]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| Pong"))
    assert "| 20.6 | 20.5 | " in row
    assert row.endswith(" * | zoo, epsilon 0.01 |")


def test_a_damaged_run_costs_itself_and_an_agent_of_others_is_none_of_ones_own(tmp_path, capsys):
    play(tmp_path, 1.0)
    (play(tmp_path, 2.0) / "results.json").write_text("{")
    pulled = play(tmp_path, 3.0) / "manifest.json"
    pulled.write_text(json.dumps(json.loads(pulled.read_text()) | {"origin": {"pretrained": "x"}}))
    assert main(["-f", str(tmp_path), "--table", "--reference", "dopamine"]) == 0
    printed = capsys.readouterr()
    rows = [line for line in printed.out.splitlines() if line.startswith("| Breakout")]
    assert len(rows) == 1
    assert "Breakout_1" in rows[0]
    assert f"{tmp_path / 'dqn' / 'Breakout_2'} is left out" in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reference", "rl-zoo"], "logs holds no run; start one with `dqn-train --env "),
        (
            ["-f", "played", "--reference", "rl-zoo"],
            "no run in played was played yet",
        ),
        (["--algos", "dqn", "--games", "pong"], "a sweep has a folder of its own: name it"),
        ([], "logs holds no plan"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    make_run(Path("played"))
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["played"]
