"""The benchmarks: order, table and file of the measurements, and peers that fail."""

import argparse
import json
import sys
import sysconfig
from pathlib import Path

import pytest
from benchmark_envs import Span as EnvSpan
from benchmark_envs import measure_steps, thread_counts
from benchmark_replay import main as benchmark_replay
from benchmark_training import learning_span, measure_run
from benchmarking import Benchmark, Contender, Measurement, Result, alternate, run, table
from peers import environment
from peers.environment import PeerError, run_peer
from peers.span import Span

ROOT = Path(__file__).parents[2]
SPEED = Benchmark(name="speed", unit="steps/s", baseline="peer", settings={"seconds": 2.5})


def contender(name: str, values: list[float], **traits: str | int) -> Contender:
    """Return one that measures the given values, and then fails."""
    remaining = iter(values)

    def measure() -> Measurement:
        for value in remaining:
            return Measurement(value, {"steps": int(10 * value)})
        raise RuntimeError("out of values")

    return Contender(name, traits, measure)


def interrupted() -> Measurement:
    raise KeyboardInterrupt


# --- Order, table, file


def test_repetitions_alternate():
    lines: list[str] = []
    results = [Result(contender(name, [1.0, 2.0, 3.0], envs=8)) for name in ("own", "peer")]
    assert not alternate(results, 3, unit="s", say=lines.append)
    assert lines == [
        "1/3 own (envs 8): 1.00 s", "1/3 peer (envs 8): 1.00 s",
        "2/3 own (envs 8): 2.00 s", "2/3 peer (envs 8): 2.00 s",
        "3/3 own (envs 8): 3.00 s", "3/3 peer (envs 8): 3.00 s",
    ]  # fmt: skip
    assert [result.values for result in results] == [[1.0, 2.0, 3.0]] * 2


def test_the_table_shows_median_spread_and_ratio_of_medians():
    results = [
        Result(contender("own", [4200.0, 300.0, 363.0], envs=8, precision="bfloat16")),
        Result(contender("peer", [120.04, 99.0, 130.0], envs=1_000)),
    ]
    alternate(results, 3, unit="steps/s", say=lambda line: None)
    assert table(SPEED, results).splitlines() == [
        "      envs   precision  steps/s median (min - max)  / peer",
        "own   8      bfloat16   363 (300 - 4,200)           3.02",
        "peer  1,000  -          120 (99.0 - 130)            1.00",
    ]


def test_without_a_baseline_there_is_no_ratio():
    results = [Result(contender("own", [0.01234], envs=8))]
    alternate(results, 1, unit="ms", say=lambda line: None)
    shown = table(Benchmark(name="speed", unit="ms"), results)
    assert shown.splitlines() == [
        "     envs  ms median (min - max)",
        "own  8     0.0123 (0.0123 - 0.0123)",
    ]


def test_the_file_holds_every_repetition_and_the_machine(tmp_path):
    file = tmp_path / "speed.json"
    contenders = [contender("own", [5.0, 7.0], envs=8), contender("peer", [2.0, 4.5], envs=1)]
    assert run(SPEED, contenders, repetitions=2, json_file=file, say=lambda line: None) == 0
    report = json.loads(file.read_text())
    assert report["results"] == [
        {
            "name": "own", "envs": 8, "median": 6.0, "min": 5.0, "max": 7.0, "error": None,
            "repetitions": [{"value": 5.0, "steps": 50}, {"value": 7.0, "steps": 70}],
        },
        {
            "name": "peer", "envs": 1, "median": 3.25, "min": 2.0, "max": 4.5, "error": None,
            "repetitions": [{"value": 2.0, "steps": 20}, {"value": 4.5, "steps": 45}],
        },
    ]  # fmt: skip
    assert (report["benchmark"], report["unit"], report["baseline"]) == ("speed", "steps/s", "peer")
    assert report["settings"] == {"seconds": 2.5}
    assert {"cpu", "cores", "versions", "git"} <= set(report["machine"])


# --- What goes wrong


def test_a_contender_that_fails_keeps_what_it_has_and_the_others_go_on(tmp_path):
    lines: list[str] = []
    file = tmp_path / "speed.json"
    contenders = [contender("peer", [2.0], envs=1), contender("own", [3.0, 5.0, 4.0], envs=8)]
    assert run(SPEED, contenders, repetitions=3, json_file=file, say=lines.append) == 1
    peer, own = json.loads(file.read_text())["results"]
    assert (peer["median"], peer["error"]) == (2.0, "RuntimeError: out of values")
    assert (own["median"], len(own["repetitions"]), own["error"]) == (4.0, 3, None)
    assert sum("peer (envs 1): failed" in line for line in lines) == 1  # not tried again
    assert lines[-1].endswith("\npeer (envs 1) failed: RuntimeError: out of values")
    assert "own   8     4.00 (3.00 - 5.00)          2.00" in lines[-1]


def test_a_baseline_that_fails_at_once_leaves_a_dash(tmp_path):
    results = [Result(contender("peer", [])), Result(contender("own", [3.0]))]
    alternate(results, 1, unit="steps/s", say=lambda line: None)
    assert [line.split()[1:] for line in table(SPEED, results).splitlines()[1:3]] == [
        ["-", "-"],
        ["3.00", "(3.00", "-", "3.00)", "-"],
    ]


def test_an_interruption_keeps_what_was_measured(tmp_path):
    lines: list[str] = []
    file = tmp_path / "speed.json"
    contenders = [contender("own", [6.0], envs=8), Contender("peer", {"envs": 1}, interrupted)]
    assert run(SPEED, contenders, repetitions=3, json_file=file, say=lines.append) == 130
    assert lines[1] == "interrupted; so far:"
    assert "own   8     6.00 (6.00 - 6.00)" in lines[2]
    own, peer = json.loads(file.read_text())["results"]
    assert (own["median"], peer["median"], peer["repetitions"]) == (6.0, None, [])


# --- Peers


def write_program(folder: Path, text: str) -> Path:
    program = folder / "peer.py"
    program.write_text(text)
    return program


def test_the_last_line_of_a_peer_is_its_result(tmp_path):
    program = write_program(
        tmp_path, "import sys, json\nprint('hello')\nprint(json.dumps({'steps': sys.argv[1:]}))\n"
    )
    result = run_peer(Path(sys.executable), program, ["--a=1", "b"], timeout_s=60)
    assert result == {"steps": ["--a=1", "b"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit('no emulator')", "exit code 1: no emulator"),
        ("print('hello')", "peer.py printed no line of JSON: 'hello"),
        ("", "peer.py printed no line of JSON: ''"),
        ("import time; time.sleep(60)", "timed out after 0.5 seconds"),
    ],
)
def test_a_peer_that_fails_says_how(tmp_path, text, message):
    program = write_program(tmp_path, text)
    timeout_s = 0.5 if "sleep" in text else 60
    with pytest.raises(PeerError) as error:
        run_peer(Path(sys.executable), program, [], timeout_s=timeout_s)
    assert message in str(error.value)


def test_a_python_that_is_not_there_is_only_a_warning(tmp_path, capsys):
    arguments = argparse.Namespace(no_peers=False, peers_python=tmp_path / "nowhere")
    assert environment.find_python(arguments) is None
    assert "nowhere" in capsys.readouterr().out.split("warning: without peers")[1]


def test_peers_have_the_versions_of_the_constraints():
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    pinned = dict(line.split("==") for line in environment.required())
    shared = set(pinned) & set(constraints)
    assert shared == {"torch", "numpy", "gymnasium", "ale-py", "opencv-python", "stable_baselines3"}
    assert {name: pinned[name] for name in shared} == {name: constraints[name] for name in shared}


def test_an_environment_is_built_once_and_a_failure_is_only_a_warning(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    requirements = tmp_path / "requirements.txt"
    monkeypatch.setattr(environment, "REQUIREMENTS", requirements)
    arguments = argparse.Namespace(no_peers=False, peers_python=None)
    output, made = environment._output, []

    def without_own_pip(command: list[str]) -> str:
        """Run what builds an environment, with the pip of this one: its own takes 8 s to write."""
        if command[1:3] != ["-m", "venv"]:
            return output(command)
        made.append(Path(command[-1]))
        printed = output([*command, "--without-pip"])
        [packages] = made[-1].rglob("site-packages")
        (packages / "pip.pth").write_text(sysconfig.get_path("purelib"))
        return printed

    monkeypatch.setattr(environment, "_output", without_own_pip)
    requirements.write_text("--no-index\nno-such-distribution==1.0\n")
    assert environment.find_python(arguments) is None
    assert "no-such-distribution" in capsys.readouterr().out.split("warning: without peers")[1]
    assert not (environment.cache_folder() / "complete").exists()

    requirements.write_text("--no-index\n")
    python = environment.find_python(arguments)
    assert python is not None
    assert environment.versions(python) == {}
    assert "installing" in capsys.readouterr().out
    assert environment.find_python(arguments) == python
    assert "installing" not in capsys.readouterr().out
    assert len(made) == 2


def test_a_span_counts_from_its_first_step(capsys):
    span = Span(1_200, 0.0)
    assert [span.is_over(steps) for steps in (0, 1_192, 1_204, 1_212)] == [False] * 3 + [True]
    assert json.loads(capsys.readouterr().out)["steps"] == 8


# --- Spans of dqn_zoo


PROGRESS = """steps,time_s,updates
1000,0.5,0
1200,2.0,50
1400,3.0,100
1600,4.5,150
1800,5.0,200
"""


def test_speed_is_taken_between_rows_of_the_learning_phase():
    assert learning_span(PROGRESS, first_step=1_200, seconds=100.0) == (600, 3.0)
    assert learning_span(PROGRESS, first_step=1_100, seconds=2.5) == (400, 2.5)
    with pytest.raises(RuntimeError, match="1 times; more --seconds"):
        learning_span(PROGRESS, first_step=1_800, seconds=100.0)
    with pytest.raises(RuntimeError, match="0 times"):
        learning_span(PROGRESS, first_step=2_000, seconds=100.0)


def test_steps_of_the_warm_up_do_not_count():
    calls: list[int] = []
    measurement = measure_steps(lambda actions: calls.append(len(actions)), 3, EnvSpan(10, 0.01))
    assert set(calls) == {3}
    assert measurement.details["steps"] == sum(calls) - 12
    assert measurement.value == pytest.approx(
        measurement.details["steps"] / measurement.details["seconds"]
    )


@pytest.mark.parametrize(
    ("num_envs", "cores", "expected"),
    [(1, 16, [1]), (8, 2, [1, 2]), (8, 6, [1, 2, 4, 6]), (32, 16, [1, 2, 4, 8, 16])],
)
def test_threads_double_up_to_the_cores_or_the_environments(num_envs, cores, expected):
    assert thread_counts(num_envs, cores) == expected


def test_the_replay_benchmark_writes_its_file(tmp_path, monkeypatch, capsys):
    file = tmp_path / "replay.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["benchmark_replay.py", "--sizes", "2_000", "--draws", "5", "--json", str(file)],
    )
    assert benchmark_replay() == 0
    (result,) = json.loads(file.read_text())["results"]
    assert (result["name"], result["buffer_size"]) == ("uniform", 2_000)
    (repetition,) = result["repetitions"]
    assert repetition["transitions"] == 2_000
    assert 0 < repetition["quantile_5_ms"] <= repetition["value"] <= repetition["quantile_95_ms"]
    assert "uniform  2,000" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_is_measured_while_it_learns():
    settings = {
        "network": "small", "device": "cpu", "num_threads": 1, "learning_starts": 100,
        "buffer_size": 2_000, "eval_freq": 0, "save_freq": 0, "log_interval": 40, "seed": 1,
    }  # fmt: skip
    measurement = measure_run("dqn", settings, first_step=120, seconds=2.0)
    assert 0 < measurement.details["seconds"] <= 2.0
    assert measurement.details["steps"] % 40 == 0
