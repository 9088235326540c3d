"""dqn-pull and `load_agent("hf://...")`: what is taken, and all that is refused."""

import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from safetensors.numpy import save
from support.children import run_python
from support.hub_commands import Computer
from support.hub_standin import Files, running_hub
from support.run_makers import make_run, weights_of

from dqn_zoo import load_agent
from dqn_zoo.errors import UserError
from dqn_zoo.exchange.sb3_export import export_sb3
from dqn_zoo.play.session import read_weights
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.push import training_record

REPO = "ann/dqn-Breakout"
MARKER = "code_was_run"
QUICK = ("--num-threads", "1", "--n-envs", "1", "--no-render")  # each emulator takes its time


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Files:
    """The files of a pushed agent."""
    computer = Computer(tmp_path_factory.mktemp("author"), hub=None)
    run = make_run(computer.logs, network="small", max_frames=200)
    run.model_file.write_bytes(weights_of(1, 3_000, load_config(run.config_file)))
    ended = computer.run("push", "--episodes", "3", *QUICK, "--dry-run")
    assert ended.code == 0, ended.output
    folder = run.path / "hub" / "dqn-Breakout"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def computer(tmp_path, hub) -> Computer:
    return Computer(tmp_path, hub)


def pulled(computer: Computer) -> Run:
    return find_run(computer.logs)


def test_a_pull_makes_a_run_like_any_other(computer, hub, published):
    commit = hub.add(REPO, published)
    ended = computer.run("pull", REPO)
    assert ended.code == 0, ended.output
    run = pulled(computer)
    assert f"{REPO} at commit {commit}" in ended.output
    assert f"next: dqn-enjoy --run {run.path}" in ended.output
    assert run.path == computer.logs / "dqn" / "Breakout_1"
    assert run.model_file.read_bytes() == published["model.safetensors"]
    assert run.results_file.read_bytes() == published["results.json"]
    assert load_config(run.config_file).network == "small"
    origin = read_manifest(run)["origin"]
    assert (origin["repo"], origin["commit"]) == (REPO, commit)
    record = training_record(run, 3_000)
    assert record.pop("came_from") == f"{REPO} at {commit[:7]}"
    assert record == json.loads(published["config.json"])["training"]
    # safetensors and JSON, and nothing else, was even downloaded
    assert computer.cached_files() == {"config.json", "model.safetensors", "results.json"}
    ended = computer.run("enjoy", "--episodes", "2", *QUICK)
    assert "last model (3,000 steps of training)" in ended.output


def test_what_was_pulled_before_is_found_again_and_a_newer_commit_is_not(computer, hub, published):
    hub.add(REPO, published)
    assert computer.run("pull", REPO).code == 0
    ended = computer.run("pull", f"https://huggingface.co/{REPO}")
    assert f"{computer.logs / 'dqn' / 'Breakout_1'} is that commit already" in ended.output
    first = hub.repositories[REPO].branches["main"]
    hub.add(REPO, published | {"notes.md": b"newer"})
    assert "Breakout_2" in computer.run("pull", REPO).output
    ended = computer.run("pull", f"{REPO}@{first}")
    assert "Breakout_1 is that commit already" in ended.output


def test_enjoy_takes_an_agent_of_the_hub(computer, hub, published):
    hub.add(REPO, published)
    ended = computer.run("enjoy", "--hub", REPO, "--episodes", "2", *QUICK)
    assert ended.code == 0, ended.output
    assert "2 games of Breakout from seed 0" in ended.output
    ended = computer.run("enjoy", "--hub", REPO, "--env", "Breakout")
    assert (ended.code, "leave out --env" in ended.output) == (2, True)


def test_without_a_connection_the_copy_in_the_cache_is_taken(computer, hub, published):
    commit = hub.add(REPO, published)
    hub.fail(f"HEAD /{REPO}/resolve/main/", 403)  # the commit that was checked is asked for alone
    ended = computer.run("pull", REPO)
    assert ended.code == 0, ended.output
    shutil.rmtree(computer.logs)
    for variables in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        ended = computer.run("pull", REPO, **variables)
        assert ended.code == 0, ended.output
        assert f"{REPO} at commit {commit}, from the cache" in ended.output
    ended = computer.run("pull", "ann/other", HF_HUB_OFFLINE="1")
    assert (ended.code, len(ended.output.splitlines())) == (2, 1)
    assert "there is no copy of ann/other in the cache" in ended.output


def test_a_private_repository_is_for_those_who_may_see_it(computer, hub, published):
    hub.add(REPO, published, private=True)
    ended = computer.run("pull", REPO)
    assert (ended.code, len(ended.output.splitlines())) == (2, 1)
    assert f"the Hub has no repository {REPO} that you may see" in ended.output
    computer.token = "hf_write"
    assert computer.run("pull", REPO).code == 0


def test_a_pulled_run_is_not_resumed_but_a_new_one_starts_from_it(computer, hub, published):
    hub.add(REPO, published)
    assert computer.run("pull", REPO).code == 0
    run = pulled(computer)
    ended = computer.run("train", "--resume", str(run.path), "--no-progress")
    assert ended.code == 2
    assert f"a new run can start from them: dqn-train -i {run.path}" in ended.last_line
    assert run.model_file.read_bytes() == published["model.safetensors"]


def test_an_interrupted_download_is_completed_by_the_same_command(computer, hub, published):
    hub.add(REPO, published)
    hub.fail("GET /.*/model.safetensors", 404)
    ended = computer.run("pull", REPO)
    assert ended.code == 2
    assert not list(computer.logs.glob("*/*"))
    hub.failures.clear()
    assert computer.run("pull", REPO).code == 0


def test_an_agent_is_loaded_in_python(computer, hub, published):
    hub.add(REPO, published)
    code = (
        "import numpy as np, dqn_zoo; "
        f"agent = dqn_zoo.load_agent('hf://{REPO}'); "
        "print(agent.q_values(np.full((1, 4, 84, 84), 7, np.uint8)).tolist())"
    )
    printed = run_python(code, environment=computer.environment())
    assert computer.run("pull", REPO).code == 0
    observation = np.full((1, 4, 84, 84), 7, np.uint8)
    here = load_agent(pulled(computer).path).q_values(observation)
    np.testing.assert_allclose(json.loads(printed.splitlines()[-1]), here, rtol=1e-5)
    with pytest.raises(UserError, match="holds one set of weights"):
        load_agent(f"hf://{REPO}", which="last")


# --- What is refused


class Bomb:
    """A pickle that leaves a marker behind when it is loaded."""

    def __reduce__(self):
        return os.mkdir, (MARKER,)


def signed(description: dict) -> bytes:
    """Return a config.json whose own digest is right: an attacker can compute it, too."""
    content = {key: value for key, value in description.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True)
    return json.dumps(content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def described(files: Files, **changes: object) -> Files:
    """Return the files with a config.json that is changed and fits the other files again."""
    content = json.loads(files["config.json"]) | changes
    names = [name for name in files if name not in ("config.json", "README.md")]
    content["files"] = {
        name: {"size": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
        for name in names
    }
    return files | {"config.json": signed(content)}


def with_setting(**settings: object) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        config = json.loads(files["config.json"])["config"] | settings
        return described(files, config=config)

    return change


def with_score(**numbers: object) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        results = json.loads(files["results.json"]) | numbers
        return described(files | {"results.json": json.dumps(results).encode()})

    return change


def with_weights(content: bytes) -> Callable[[Files], Files]:
    return lambda files: described(files | {"model.safetensors": content})


def flipped(name: str) -> Callable[[Files], Files]:
    def flip(files: Files) -> Files:
        data = bytearray(files[name])
        data[len(data) // 2] ^= 1
        return files | {name: bytes(data)}

    return flip


def zip_bomb() -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    return content.getvalue()


def lies_about_its_header(files: Files) -> Files:
    data = files["model.safetensors"]
    return described(files | {"model.safetensors": (2**40).to_bytes(8, "little") + data[8:]})


def one_wrong_shape() -> bytes:
    return save({"head.layers.stream.output.bias": np.zeros(4, np.float32)})


REFUSED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a pickle": (lambda f: f | {"model.pkl": pickle.dumps(Bomb())}, r"holds 'model.pkl'.*may run"),
    "a pickle in the place of the weights": (
        with_weights(pickle.dumps(Bomb())),
        r"not a readable safetensors file",
    ),
    "python code": (lambda f: f | {"modeling.py": b"import os"}, r"holds 'modeling.py'"),
    "a torch file": (lambda f: f | {"pytorch_model.bin": b"x"}, r"holds 'pytorch_model.bin'"),
    "a zip bomb": (lambda f: f | {"model.zip": zip_bomb()}, r"holds 'model.zip'"),
    "a path that leads elsewhere": (lambda f: f | {"../x.json": b"{}"}, r"'../x.json', which le"),
    "an absolute path": (lambda f: f | {"/etc/x.json": b"{}"}, r"'/etc/x.json', which leads"),
    "no weights": (
        lambda f: {name: data for name, data in f.items() if name != "model.safetensors"},
        r"has no model.safetensors.*dqn-import",
    ),
    "a tensor of another shape": (with_weights(one_wrong_shape()), r"does not fit the network"),
    "weights of another network": (
        lambda f: described(f | {"model.safetensors": weights_of(1, 3_000)}),
        r"does not fit the network",
    ),
    "another number of actions": (
        lambda f: described(f, num_actions=18),
        r"decides among 4 actions, config.json says 18",
    ),
    "a header of a terabyte": (lies_about_its_header, r"not a readable safetensors file"),
    "a network of a petabyte": (
        with_setting(network_width=10**12, network="impala"),
        r"network_width must be a whole number from 1 to 64",
    ),
    "a bit flipped in the weights": (flipped("model.safetensors"), r"SHA-256 differs"),
    "a bit flipped in the results": (flipped("results.json"), r"SHA-256 differs"),
    "a bit flipped in the settings": (flipped("config.json"), r"config.json"),
    "an unknown setting": (with_setting(learning_rat=0.1), r"unknown key 'learning_rat'"),
    "a setting of another type": (with_setting(gamma="os.system"), r"gamma must be a number"),
    "an unknown key": (lambda f: described(f, script="x"), r"other keys than it should \(script\)"),
    "a recipe that is a path": (with_setting(algo="../../x"), r"names the game .* not loaded"),
    "a game that is a path": (with_setting(env="../../x"), r"names the game .* not loaded"),
    "a newer format": (lambda f: described(f, format=99), r"reads up to 1: update dqn_zoo"),
    "something else": (lambda f: described(f, library="x"), r"does not describe an agent"),
    "a list": (lambda f: f | {"config.json": b"[]"}, r"is damaged: expected an? object, got \[\]"),
    "deeply nested JSON": (lambda f: f | {"config.json": b"[" * 500_000}, r"nested too deeply"),
    "a huge config.json": (lambda f: f | {"config.json": b" " * 2**21}, r"more than the 1,048,576"),
    "results without a score": (
        lambda f: described(f | {"results.json": b'{"mean_reward": "high"}'}),
        r"mean_reward: expected a valid number, got 'high'",
    ),
    "more games than anybody plays": (with_score(n_eval_episodes=10**9), r"n_eval_episodes: exp"),
    "a score without end": (with_score(mean_reward=10**400), r"a number of 401 digits"),
    "a deviation without end": (with_score(std_reward=1e300), r"std_reward: expected less than"),
    "weights that are a list": (with_score(weights=[1]), r"weights: expected .* object, got \[1\]"),
    "steps in words": (
        lambda f: described(f, training={"steps": "x"}),
        r"training.steps: expected a valid integer, got .x.",
    ),
    "quantiles that fill the memory": (
        with_setting(num_acting_quantiles=10**9),
        r"num_acting_quantiles must be a whole number from 1 to 10,000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_as_it_was_pushed_is_refused_and_nothing_is_left(
    case, computer, hub, published, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    change, said = REFUSED[case]
    hub.add(REPO, change(published))
    ended = computer.run("pull", REPO)
    assert ended.code == 2, ended.output
    assert ended.last_line.startswith("error: ")
    assert re.search(said, ended.last_line), ended.last_line
    assert "Traceback" not in ended.output
    assert not list(computer.logs.glob("*/*"))
    assert computer.cached_files() == set()
    assert not list(tmp_path.rglob(MARKER))


def test_what_was_refused_once_is_taken_when_its_owner_has_mended_it(computer, hub, published):
    hub.add(REPO, flipped("model.safetensors")(published))
    assert computer.run("pull", REPO).code == 2
    hub.add(REPO, published)
    assert computer.run("pull", REPO).code == 0


def test_a_file_that_is_larger_than_described_is_not_downloaded(computer, hub, published):
    hub.add(REPO, published | {"model.safetensors": bytes(3_000_000)})
    ended = computer.run("pull", REPO)
    assert "model.safetensors has 3,000,000 bytes, config.json says" in ended.last_line
    assert not any("GET" in line and "model.safetensors" in line for line in hub.requests)


def test_the_cache_is_not_believed_either(computer, hub, published):
    hub.add(REPO, published)
    assert computer.run("pull", REPO).code == 0
    shutil.rmtree(computer.logs)
    (blob,) = (path for path in computer.cache.rglob("model.safetensors"))
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.resolve().write_bytes(bytes(data))
    ended = computer.run("pull", REPO, HF_HUB_OFFLINE="1")
    assert (ended.code, "SHA-256 differs" in ended.output) == (2, True)
    assert computer.run("pull", REPO).code == 0  # downloaded anew


# --- Agents of Stable-Baselines3


@pytest.fixture(scope="module")
def sb3_files(tmp_path_factory) -> Files:
    """A repository as RL-Zoo pushes it, with an agent of ours in its zip."""
    folder = tmp_path_factory.mktemp("sb3")
    run = make_run(folder / "logs", protocol="sb3", max_frames=500)
    run.model_file.write_bytes(weights_of(1, 3_000))
    config = load_config(run.config_file)
    file = export_sb3(read_weights(run.model_file, "last model"), config, folder=folder)
    results = {"mean_reward": 50.0, "std_reward": 1.0, "n_eval_episodes": 10}
    return {
        "README.md": b"---\ntags:\n- BreakoutNoFrameskip-v4\n---\n",
        "dqn-BreakoutNoFrameskip-v4.zip": file.read_bytes(),
        "dqn-BreakoutNoFrameskip-v4/policy.pth": b"x",
        "config.yml": b"!!python/object/apply:os.mkdir [code_was_run]",
        "train_eval_metrics.zip": zip_bomb(),
        "results.json": json.dumps(results).encode(),
    }


def test_an_agent_of_rl_zoo_is_imported_from_the_hub_and_its_score_verified(
    computer, hub, sb3_files
):
    commit = hub.add("sb3/dqn", sb3_files)
    for *flags, repo in (
        ["pull", "https://huggingface.co/sb3/dqn"],
        ["enjoy", "--hub", "hf://sb3/dqn@main"],
        ["verify", "sb3/dqn"],
    ):
        ended = computer.run(*flags, repo)
        assert ended.code == 2
        said = f"sb3/dqn holds an agent of Stable-Baselines3: dqn-import {repo} takes it"
        assert said in ended.output
    for repo in ("https://huggingface.co/sb3/dqn/", "hf://sb3/dqn"):
        ended = computer.run("import_sb3", repo, "--revision", "none")
        assert (ended.code, ended.last_line[:40]) == (2, "error: sb3/dqn has no such branch or com")
    ended = computer.run("import_sb3", "https://huggingface.co/sb3/dqn")
    assert ended.code == 0, ended.output
    run = pulled(computer)
    assert (run.name, load_config(run.config_file).protocol) == ("Breakout_1", "sb3")
    origin = read_manifest(run)["origin"]
    assert (origin["repo"], origin["commit"]) == ("sb3/dqn", commit)
    assert computer.cached_files() == {"dqn-BreakoutNoFrameskip-v4.zip", "results.json"}
    settings = run.config_file.read_text()
    assert "max_frames: null" in settings
    run.config_file.write_text(settings.replace("max_frames: null", "max_frames: 100"))
    ended = computer.run("verify", "Breakout_1", "--num-threads", "1", "--n-envs", "2")
    assert ended.code == 1, ended.output  # 50 points are made up
    assert "claimed     50.00 +/- 1.00 in 10 games" in ended.output
    assert "protocol sb3 with max_frames 100," in ended.output
    assert not list(computer.home.rglob(MARKER))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"README.md": b"x"}, r"should hold one zip of Stable-Baselines3, found none"),
        ({"a.zip": b"x", "b.zip": b"y"}, r"should hold one zip of Stable-Baselines3, found a.zip"),
        ({"dqn-PongNoFrameskip-v4.zip": zip_bomb()}, r"error: "),
        ({"dqn-PongNoFrameskip-v4.zip": b"x", "results.json": b"[" * 99}, r"damaged"),
        (None, r"has no repository sb3/dqn"),
    ],
)
def test_what_cannot_be_imported_is_one_line(files, said, computer, hub):
    if files is not None:
        hub.add("sb3/dqn", files)
    ended = computer.run("import_sb3", "sb3/dqn")
    assert (ended.code, len(ended.output.splitlines())) == (2, 1), ended.output
    assert re.search(said, ended.output)
    assert not list(computer.logs.glob("*/*"))
    assert not computer.cached_files()
