"""Agents of Stable-Baselines3, in and out: equal values, equal games, nothing foreign is run."""

import base64
import contextlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from support.children import run_python

from dqn_zoo import load_agent
from dqn_zoo.cli.commands import main as commands
from dqn_zoo.cli.enjoy import main as enjoy
from dqn_zoo.cli.export_sb3 import main as export_command
from dqn_zoo.cli.import_sb3 import main as import_command
from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.exchange.sb3_export import COUNTERPARTS, export_sb3
from dqn_zoo.exchange.sb3_import import import_sb3, zip_of_training
from dqn_zoo.exchange.sb3_zip import read_sb3_zip
from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.network import build_network
from dqn_zoo.play.agent import build_agent
from dqn_zoo.play.evaluation import evaluate
from dqn_zoo.play.given import NETWORK_KEYS
from dqn_zoo.play.session import Weights, read_weights
from dqn_zoo.play.weights import load_weights, weights_bytes, weights_note
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import PROTOCOLS
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.push import training_record

ENV_ID = "SpaceInvadersNoFrameskip-v4"
NUM_ACTIONS = 6
MARKER = "it-ran"
Members = dict[str, bytes]
State = OrderedDict[str, torch.Tensor]

# --- Files, good and bad


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a network whose best action changes with what it sees."""
    network = build_network(network_settings(Config()), num_actions=NUM_ACTIONS, seed=3)
    generator = np.random.default_rng(3)
    rules = EnvSettings(protocol=PROTOCOLS["sb3"])
    with make_envs("SpaceInvaders", 2, settings=rules) as environments, torch.no_grad():
        seen = [environments.reset()]
        for _ in range(100):
            seen.append(environments.step(generator.integers(0, NUM_ACTIONS, 2)).observation)
        observation = torch.from_numpy(np.concatenate(seen[::5]))
        bias = network.get_parameter("head.layers.stream.output.bias")
        bias.sub_(network.q_values(observation).mean(dim=0))
        spread = network.q_values(observation).std(dim=0)
        bias.div_(spread)
        network.get_parameter("head.layers.stream.output.weight").div_(spread[:, None])
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    file.write_bytes(weights_bytes(network.state_dict(), {"steps": 777}))
    return file


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return export_sb3(read_weights(weights, "model"), Config(seed=5), folder=folder)


@pytest.fixture(scope="module")
def good(exported: Path) -> Members:
    with zipfile.ZipFile(exported) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def state(good: Members) -> State:
    loaded: State = torch.load(io.BytesIO(good["policy.pth"]), weights_only=True)
    return loaded


class Evil:
    """Makes a folder in the working folder of whoever unpickles it."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (MARKER,)


def zipped(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def torch_bytes(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def unzipped(content: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def patched(content: bytes, name: str, at: int, value: bytes) -> bytes:
    """Overwrite bytes of the entry of a member in a zip's table of contents."""
    entry = content.rindex(name.encode()) - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    return content[: entry + at] + value + content[entry + at + len(value) :]


Refused = Callable[..., None]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Return a function that wants the command to refuse a file and leave nothing behind."""
    monkeypatch.chdir(tmp_path)

    def check(content: bytes, *expected: str) -> None:
        file = tmp_path / "model.zip"
        file.write_bytes(content)
        assert import_command([str(file), "--env", "SpaceInvaders"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        [line] = said.err.splitlines()
        assert line.startswith("error: ")
        assert len(line) < 400
        for text in expected:
            assert text in line
        assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]

    return check


def test_the_evil_pickle_of_these_tests_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / MARKER).exists()


def test_pickles_in_data_stay_closed(
    good: Members,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    blob = base64.b64encode(pickle.dumps(Evil())).decode()
    data = json.loads(good["data"])
    names = ("policy_class", "observation_space", "learning_rate", "train_freq", "exploration_rate")
    for name in names:
        data[name] = {":type:": "int", ":serialized:": blob}
    (tmp_path / "a.zip").write_bytes(zipped(good | {"data": json.dumps(data).encode()}))
    run = import_sb3(tmp_path / "a.zip", log_folder=tmp_path / "logs", env=ENV_ID)
    said = capsys.readouterr().out
    assert not (tmp_path / MARKER).exists()
    assert load_config(run.config_file).eval_epsilon is None
    assert "learning_rate is a pickle" in said
    assert "eval_epsilon is no number" in said


def test_a_pickle_in_the_weights_is_not_run(good: Members, refused: Refused) -> None:
    content = unzipped(good["policy.pth"])
    for protocol in (0, 2, 4):  # they name what they call by different opcodes
        evil = content | {"archive/data.pkl": pickle.dumps(Evil(), protocol)}
        refused(zipped(good | {"policy.pth": zipped(evil)}), "policy.pth", "nothing was run")


def test_the_older_format_of_pytorch_is_refused_unread(good: Members, refused: Refused) -> None:
    file = io.BytesIO()
    torch.save({"q_net": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    for content in (pickle.dumps(Evil()), file.getvalue()):
        refused(zipped(good | {"policy.pth": content}), "bare pickle", "save the agent again")


def test_what_torch_alone_would_build_is_refused(good: Members, refused: Refused) -> None:
    for value in (torch.nn.Parameter(torch.zeros(1)), torch.zeros(1, dtype=torch.float64)):
        changed = good | {"policy.pth": torch_bytes({"q_net.q_net.0.bias": value})}
        refused(zipped(changed), "asks for 'torch", "nothing was run")


def test_bombs_are_not_unpacked(good: Members, refused: Refused) -> None:
    large = zipped(good | {"policy.pth": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    refused(large, "would unpack to")
    policy = unzipped(good["policy.pth"])
    large = zipped(policy | {"archive/data/6": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    refused(zipped(good | {"policy.pth": large}), "would unpack")
    deflated = zipped(policy, zipfile.ZIP_DEFLATED)
    refused(zipped(good | {"policy.pth": deflated}), "is compressed, which PyTorch never does")
    refused(zipped(good | {"policy.pth": bytes(2**26 + 1)}), "more than 67,108,864 bytes")
    policy["archive/data.pkl"] += bytes(2**16)
    refused(zipped(good | {"policy.pth": zipped(policy)}), "more than 65,536 bytes")


def test_a_key_that_would_take_for_ever_to_be_made_is_refused(
    good: Members, refused: Refused
) -> None:
    doubled: tuple[object, ...] = ()
    for _ in range(8):
        doubled = (doubled, doubled)
    policy = unzipped(torch_bytes({doubled: 1}))
    refused(zipped(good | {"policy.pth": zipped(policy)}), "uses a tuple twice")


def test_a_size_that_is_not_true_is_refused(good: Members, refused: Refused) -> None:
    bomb = zipped(good | {"policy.pth": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    refused(patched(bomb, "policy.pth", 24, (1000).to_bytes(4, "little")), "damaged", "CRC")


def test_a_storage_larger_than_its_bytes_is_refused(good: Members, refused: Refused) -> None:
    policy = unzipped(good["policy.pth"])
    policy["archive/data/6"] = bytes(64)
    refused(zipped(good | {"policy.pth": zipped(policy)}), "cannot be loaded", "record size")


def test_a_file_or_a_list_of_members_that_is_too_long_is_refused(
    good: Members, refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = {f"member-{number}-{'x' * 60}": b"" for number in range(700)}
    refused(zipped(good | many), "more members than an agent has")
    policy = unzipped(good["policy.pth"]) | many
    refused(zipped(good | {"policy.pth": zipped(policy)}), "more members than an agent has")
    whole = zipped(good)
    large_zip_records = (
        b"PK\6\6" + bytes(36) + (2**17).to_bytes(8, "little") + bytes(8),  # size of the list
        b"PK\6\7" + bytes(16),
    )
    refused(whole[:-22] + b"".join(large_zip_records) + whole[-22:], "more members than an agent")
    with (tmp_path / "model.zip").open("wb") as file:
        file.truncate(2**28 + 1)
    assert import_command([str(tmp_path / "model.zip")]) == 2
    assert "has 268,435,457 bytes, more than" in capsys.readouterr().err


def test_paths_that_lead_elsewhere_are_refused(good: Members, refused: Refused) -> None:
    for name in ("../data", "/data", "a/../../data", "..\\data", "C:data"):
        refused(zipped(good | {name: b""}), "leads elsewhere")
        policy = unzipped(good["policy.pth"]) | {name: b""}
        refused(zipped(good | {"policy.pth": zipped(policy)}), "leads elsewhere")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_and_encrypted_members_are_refused(good: Members, refused: Refused) -> None:
    packed = io.BytesIO(zipped(good))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("data", b"{}")
    refused(packed.getvalue(), "'data' more than once")
    for name in ("policy.pth", "system_info.txt"):  # the second is not even read
        refused(patched(zipped(good), name, 8, b"\1"), f"'{name}' is encrypted: not loaded")


def test_files_that_are_no_zip_or_were_cut_off_are_refused(
    good: Members, refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = zipped(good)
    refused(b"", "not a zip, or was cut off")
    refused(b"PK\3\4 and no more", "not a zip, or was cut off")
    refused(os.urandom(5000), "not a zip, or was cut off")
    for length in (100, len(whole) // 2, len(whole) - 1):
        refused(whole[:length], "not a zip, or was cut off")
    refused(whole[len(whole) // 2 :], "damaged")
    refused(zipped(good | {"policy.pth": good["policy.pth"][:-1000]}), "cut off")
    assert import_command([str(tmp_path / "none.zip")]) == 2
    assert "does not exist, or is no file" in capsys.readouterr().err
    assert import_command([str(tmp_path)]) == 2
    assert "should hold the zips of one training, found none" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["policy.pth", "data"])
def test_a_flipped_bit_is_found(good: Members, refused: Refused, name: str) -> None:
    whole = bytearray(zipped(good))
    whole[whole.index(good[name]) + len(good[name]) // 2] ^= 16
    refused(bytes(whole), "damaged", name)


def test_a_compressed_member_that_cannot_be_unpacked_is_refused(
    good: Members, refused: Refused
) -> None:
    whole = zipped({"data": good["data"]} | good, zipfile.ZIP_DEFLATED)
    begin = 30 + len("data")  # behind the header of the first member
    refused(whole[:begin] + b"\xff" * 8 + whole[begin + 8 :], "damaged", "decompressing")


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_members_that_every_agent_has_are_missed(
    good: Members, refused: Refused, name: str
) -> None:
    refused(zipped({key: value for key, value in good.items() if key != name}), f"no '{name}'")


def test_json_that_no_agent_has_is_refused(good: Members, refused: Refused) -> None:
    refused(zipped(good | {"data": b" " * (2**24 + 1)}), "'data' has more than 16,777,216 bytes")
    refused(zipped(good | {"data": b"[" * 10**5}), "nested too deeply")
    refused(zipped(good | {"data": b"[1, 2]"}), "expected an object, got [1, 2]")
    refused(zipped(good | {"data": pickle.dumps(Evil())}), "is damaged: it is not text in UTF-8")
    refused(zipped(good | {"data": b'{"a": 1' + b"0" * 9999 + b"}"}), "a number of 10,000 digits")
    refused(zipped(good | {"data": b'{"a": 1, "a": 2}'}), "the key 'a' stands there twice")


BIAS, HIDDEN = "q_net.q_net.0.bias", "q_net.features_extractor.linear.0.weight"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (HIDDEN, torch.zeros(1, 1).expand(512, 3136), "does not hold as many bytes"),
        (HIDDEN, torch.zeros(3136, 512).T, "does not hold as many bytes"),
        (BIAS, torch.zeros(1000)[:NUM_ACTIONS], "does not hold as many bytes"),
        (HIDDEN, torch.zeros(1, 1).expand(10**6, 10**6), "expected torch.float32 [512, 3136]"),
        (HIDDEN, torch.zeros(512, 3135), "expected torch.float32 [512, 3136]"),
        (BIAS, torch.zeros(NUM_ACTIONS - 1), "[6, 512], expected torch.float32 [5, 512]"),
        (BIAS, torch.tensor(1.0), "[6, 512], expected torch.float32 [1, 512]"),
        (BIAS, torch.tensor([1, 2, 3, 4, 5, float("nan")]), "not finite: the training diverged"),
        ("q_net_target.q_net.0.bias", torch.full((NUM_ACTIONS,), float("inf")), "not finite"),
        (HIDDEN, OrderedDict(), "is no plain tensor"),
        (HIDDEN, 3, "is no plain tensor"),
        (7, torch.zeros(1), "'7' is not one of CnnPolicy's"),
        ("q_net.q_net.2.weight", torch.zeros(1), "further layers (net_arch)"),
        ("q_net.extra.weight", torch.zeros(1), "'q_net.extra.weight' is not one of CnnPolicy's"),
    ],
)
def test_weights_that_are_not_those_of_the_network_are_refused(
    good: Members, state: State, refused: Refused, name: str, value: object, expected: str
) -> None:
    changed = {**state, name: value}
    refused(zipped(good | {"policy.pth": torch_bytes(changed)}), expected)


@pytest.mark.parametrize(
    ("replace", "expected"),
    [
        (("q_net.", "quantile_net."), "an agent of QR-DQN"),
        (("features_extractor.", "features_extractor.mlp."), "no network that sees pixels"),
        (("q_net.q_net.0.", "action_net."), "an algorithm other than DQN"),
        (("q_net_target.", "unused."), "'q_net_target.features_extractor.cnn.0.bias' is missing"),
    ],
)
def test_agents_of_other_kinds_are_named(
    good: Members, state: State, refused: Refused, replace: tuple[str, str], expected: str
) -> None:
    renamed = {name.replace(*replace): value for name, value in state.items()}
    refused(zipped(good | {"policy.pth": torch_bytes(renamed)}), expected, "CnnPolicy")


def test_an_mlp_policy_is_named(good: Members, refused: Refused) -> None:
    layers = {f"q_net.q_net.{layer}.bias": torch.zeros(64) for layer in (0, 2, 4)}
    refused(zipped(good | {"policy.pth": torch_bytes(layers)}), "further layers (net_arch)")
    refused(zipped(good | {"policy.pth": torch_bytes([1])}), "holds list, expected weights by name")
    refused(zipped(good | {"policy.pth": torch_bytes({})}), "no network that sees pixels")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"normalize_images": False}, "does not divide pixels by 255"),
        ({"features_extractor_class": "<class 'mine.Net'>"}, "a network of its own, \"<class 'mi"),
        ({"features_extractor_class": "<class 'mine.EluNatureCNN'>"}, "a network of its own"),
    ],
)
def test_a_network_that_computes_otherwise_is_refused(
    good: Members, refused: Refused, arguments: dict[str, Any], expected: str
) -> None:
    for extra in ({}, {":serialized:": "gAWV", ":type:": "<class 'dict'>"}):
        data = json.loads(good["data"]) | {"policy_kwargs": arguments | extra}
        refused(zipped(good | {"data": json.dumps(data).encode()}), expected)


def test_names_that_a_pickle_gives_a_dict_are_not_called(
    good: Members, state: State, tmp_path: Path
) -> None:
    state.__dict__["itemz"] = "shadow"
    policy = unzipped(torch_bytes(state))
    policy["archive/data.pkl"] = policy["archive/data.pkl"].replace(b"itemz", b"items")
    file = tmp_path / "a.zip"
    file.write_bytes(zipped(good | {"policy.pth": zipped(policy)}))
    assert read_sb3_zip(file).num_actions == NUM_ACTIONS


def test_a_zip_packed_again_with_compression_is_read(good: Members, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(zipped(good, zipfile.ZIP_DEFLATED))
    assert read_sb3_zip(file).version == "2.9.2"


# --- Import


def import_changed(good: Members, folder: Path, **attributes: object) -> tuple[Config, list[str]]:
    data = json.loads(good["data"]) | attributes
    file = folder / "a.zip"
    file.write_bytes(zipped(good | {"data": json.dumps(data).encode()}))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run = import_sb3(file, log_folder=folder / "logs", env="SpaceInvaders")
    return load_config(run.config_file), said.getvalue().splitlines()


def test_what_data_says_of_the_training_is_taken_over(good: Members, tmp_path: Path) -> None:
    theirs = {
        "_total_timesteps": 2_000_000, "n_envs": 3, "buffer_size": 12_345, "batch_size": 17,
        "learning_starts": 1_234, "gamma": 0.97, "gradient_steps": 5, "n_steps": 2,
        "target_update_interval": 321, "exploration_initial_eps": 0.9, "train_freq": 8,
        "exploration_final_eps": 0.02, "exploration_fraction": 0.3, "max_grad_norm": 11,
        "seed": 77,
    }  # fmt: skip
    schedule = {":serialized:": "gAWV", ":type:": "ConstantSchedule", "val": 3e-4}
    kwargs = {"optimizer_class": "<class 'Adam'>", "optimizer_kwargs": {"eps": 1.5e-4}}
    config, said = import_changed(
        good, tmp_path, exploration_rate=0.03, learning_rate=schedule, num_timesteps=1_500_000,
        policy_kwargs={":serialized:": "gAWV", **kwargs}, **theirs,
    )  # fmt: skip
    for name, value in theirs.items():
        key = {"_total_timesteps": "n_timesteps"}.get(name, name)
        expected = 8 * 3 if key == "train_freq" else value  # calls of three environments
        assert getattr(config, key) == expected, key
    assert (config.learning_rate, config.optimizer_eps) == (3e-4, 1.5e-4)
    assert (config.eval_epsilon, config.protocol) == (0.03, "sb3")
    assert (config.network, config.loss, config.bootstrap) == ("nature", "huber", "greedy")
    assert "1,500,000 steps of training" in said[0]
    [calls, epsilon] = [line for line in said if line.startswith("note")]
    assert calls.startswith("note: train_freq 8 counts calls of 3 environments")
    assert epsilon == (
        "note: it plays with epsilon 0.03, the exploration rate that was saved; "
        "--epsilon of dqn-enjoy sets another"
    )


def test_another_optimizer_is_told(good: Members, tmp_path: Path) -> None:
    kwargs = {"optimizer_class": "<class 'torch.optim.radam.RAdam\x1b'>"}
    config, said = import_changed(good, tmp_path, policy_kwargs={":serialized:": "gAWV", **kwargs})
    assert config.optimizer == "adam"
    [line] = [line for line in said if "optimizer_class" in line]
    assert "RAdam\\x1b'>\" is not read: a training that starts from it has adam" in line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such name")
def test_the_name_of_a_zip_is_printed_as_plain_text(good: Members, tmp_path: Path) -> None:
    file = tmp_path / "\x1b[2J.zip"
    file.write_bytes(zipped(good))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        import_sb3(file, log_folder=tmp_path / "logs", env="SpaceInvaders")
    assert "\\x1b[2J.zip: DQN of Stable-Baselines3" in said.getvalue()


def test_a_falling_learning_rate_of_rl_zoo_is_read(good: Members, tmp_path: Path) -> None:
    schedule = {":serialized:": "gAWV", "initial_value": 2.5e-5}
    config, _ = import_changed(good, tmp_path, learning_rate=schedule)
    assert config.learning_rate == "lin_2.5e-05"


@pytest.mark.parametrize(
    ("attribute", "value", "note"),
    [
        ("gradient_steps", -1, "gradient_steps must be a whole number of at least 1, got -1"),
        ("gamma", 1.5, "gamma must be a number from 0 to 1, got 1.5"),
        ("gamma", float("nan"), "gamma must be a number"),
        ("batch_size", [32], "batch_size is no number"),
        ("n_envs", True, "n_envs must be a whole number"),
        ("buffer_size", 10**39, "buffer_size must be a whole number"),
        ("tau", 0.005, "tau: the target network is copied whole here"),
        ("train_freq", {":serialized:": "gAWV"}, "train_freq is a pickle"),
        ("learning_rate", {":serialized:": "gAWV"}, "learning_rate is a pickle"),
        ("learning_rate", "lin_", "learning_rate is a pickle"),
        ("learning_starts", 20_000_000, "learning_starts 20000000 is left at its default"),
        ("batch_size", 2_000, "batch_size 2000 is left at its default: batch_size must be at most"),
    ],
)
def test_a_setting_that_has_no_meaning_here_is_left_out_with_a_note(
    good: Members, tmp_path: Path, attribute: str, value: object, note: str
) -> None:
    config, said = import_changed(good, tmp_path, **{attribute: value})
    assert any(line.startswith(f"note: {note}") for line in said), said
    if attribute in Config.model_fields:
        assert getattr(config, attribute) == Config.model_fields[attribute].default


def test_every_door_names_the_command_that_takes_a_zip_or_a_folder_of_rl_zoo(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    zoo = Path("zoo", "dqn", f"{ENV_ID}_1")
    zoo.mkdir(parents=True)
    file = zoo / f"{ENV_ID}.zip"
    file.write_bytes(exported.read_bytes())
    for program, *flags in (
        ("train", "-i"),
        ("train", "--resume"),
        ("train", "-c"),
        ("enjoy", "--run"),
        ("enjoy", "--hub"),
        ("enjoy",),
        ("push", "--run"),
        ("pull",),
        ("verify",),
    ):
        for agent in [file] if flags == ["-c"] else [file, zoo]:
            assert commands([program, *flags, str(agent)]) == 2
            [line] = capsys.readouterr().err.splitlines()
            assert re.search(r"dqn-import|-m dqn_zoo import", line), line
            assert f" {agent} " in f"{line} ", line
    for folder in (zoo, zoo.parent, zoo.parents[1]):
        assert commands(["enjoy", "-f", str(folder)]) == 2
        assert "an agent of Stable-Baselines3 is there" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no run, but an agent of Stable-Baselines3"):
        load_agent(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zoo"]


def test_the_folder_of_a_training_is_imported_as_rl_zoo_plays_it(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    zoo = Path("zoo", "dqn", f"{ENV_ID}_1")
    zoo.mkdir(parents=True)
    content = exported.read_bytes()
    for name, taken in (
        ("rl_model_9000_steps", "rl_model_9000_steps"),
        ("rl_model_10000_steps", "rl_model_10000_steps"),
        ("best_model", "best_model"),
        (ENV_ID, ENV_ID),
    ):
        (zoo / f"{name}.zip").write_bytes(content)
        assert zip_of_training(zoo.parents[1]) == zoo / f"{taken}.zip"
    assert import_command([str(zoo)]) == 0
    assert capsys.readouterr().out.startswith(f"{zoo / ENV_ID}.zip: DQN of Stable-Baselines3")
    second = Path("zoo", "dqn", f"{ENV_ID}_2")
    second.mkdir()
    (second / "best_model.zip").write_bytes(content)
    assert import_command(["zoo"]) == 2
    assert f"zips of one training, found {zoo}, {second}" in capsys.readouterr().err
    assert import_command(["logs"]) == 2
    assert "found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("dqn-SpaceInvadersNoFrameskip-v4.zip", "SpaceInvaders"),
        ("SpaceInvadersNoFrameskip-v4.zip", "SpaceInvaders"),
        ("SpaceInvadersNoFrameskip-v4_12/best_model.zip", "SpaceInvaders"),
        ("SpaceInvadersNoFrameskip-v4_1/rl_model_500_steps.zip", "SpaceInvaders"),
        ("ALE-SpaceInvaders-v5_1/best_model.zip", "SpaceInvaders"),
        ("dqn_pong.zip", "Pong"),
    ],
)
def test_the_name_of_the_file_or_of_its_folder_names_the_game(
    exported: Path, tmp_path: Path, name: str, game: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(exported.read_bytes())
    run = import_sb3(file, log_folder=tmp_path / "logs")
    assert run.name == f"{game}_1"
    assert ("sticky actions" in capsys.readouterr().out) == ("ALE" in name)


def test_a_file_that_names_no_game_needs_one_and_the_right_one(
    exported: Path, tmp_path: Path
) -> None:
    file = tmp_path / "best_model.zip"
    file.write_bytes(exported.read_bytes())
    logs = tmp_path / "logs"
    with pytest.raises(UserError, match="add --env"):
        import_sb3(file, log_folder=logs)
    with pytest.raises(UserError, match="among 6 actions and Breakout has 4"):
        import_sb3(file, log_folder=logs, env="Breakout")
    with pytest.raises(UserError, match="unknown game"):
        import_sb3(file, log_folder=logs, env="Bronkout")
    assert not logs.exists()


def test_an_imported_agent_is_a_run_like_any_other(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    origin = {"repo": "ann/dqn", "commit": "0" * 40}
    run = import_sb3(exported, log_folder=Path("logs"), origin=origin)
    assert find_run("logs", game="SpaceInvaders") == run
    manifest = read_manifest(run)
    assert manifest["origin"] | origin == manifest["origin"]
    assert manifest["origin"]["file"] == f"{ENV_ID}.zip"
    assert len(manifest["origin"]["sha256"]) == 64
    version = manifest["origin"]["version"]
    assert training_record(run, 777) == {
        "steps": 777,
        "came_from": f"ann/dqn at 0000000, before that stable-baselines3 {version}",
    }
    assert manifest["protocol"] == PROTOCOLS["sb3"].as_json()
    note = weights_note(run.model_file)
    assert len(note.pop("sha256")) == 64
    assert note == {"env": "SpaceInvaders", "algo": "dqn", "protocol": "sb3", "steps": 777}
    assert load_agent(run.path).num_actions == NUM_ACTIONS
    flags = ["--run", str(run.path), "--num-threads", "1", "-n", "20", "--episodes", "1"]
    assert enjoy([*flags, "--no-render", "--epsilon", "1"]) == 0


def test_a_full_disk_leaves_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_sb3(exported, log_folder=tmp_path / "logs")
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import resource, sys\n"
        "from dqn_zoo.cli import export_sb3, import_sb3\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "print(import_sb3.main([sys.argv[1], '-f', 'logs']), export_sb3.main(['-o', 'logs']))"
    )
    monkeypatch.chdir(tmp_path)
    *_, codes = printed = run_python(code, exported).splitlines()
    assert codes == "2 2"
    errors = [line for line in printed if line.startswith("error")]
    assert [line.split()[1].split("/")[-1] for line in errors] == ["dqn", f"{ENV_ID}_1"]
    assert all("cannot be written (File too large)" in line for line in errors)
    assert sorted(tmp_path.rglob("*")) == before


# --- Export


def test_weights_survive_the_way_there_and_back(
    weights: Path, exported: Path, tmp_path: Path
) -> None:
    run = import_sb3(exported, log_folder=tmp_path)
    original = load_weights(weights)
    back = load_weights(run.model_file)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)
    config = load_config(run.config_file)
    changed = {"protocol": "sb3", "eval_epsilon": 0.01, "buffer_size": 1_000}
    assert config == Config(**changed, env="SpaceInvaders")


def test_an_export_is_laid_out_as_rl_zoo_finds_it(weights: Path, tmp_path: Path) -> None:
    config = Config(learning_rate="lin_3e-4", optimizer_eps=1e-3, max_grad_norm=None, seed=8)
    chosen = read_weights(weights, "model")
    files = [export_sb3(chosen, config, folder=tmp_path / "out") for _ in range(2)]
    assert files == [tmp_path / f"out/dqn/{ENV_ID}_{n}/{ENV_ID}.zip" for n in (1, 2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    names = sorted(str(path.relative_to(files[0].parent)) for path in files[0].parent.rglob("*"))
    assert names == [ENV_ID, f"{ENV_ID}.zip", f"{ENV_ID}/args.yml", f"{ENV_ID}/config.yml"]
    settings = yaml.safe_load((files[0].with_suffix("") / "config.yml").read_text())
    assert settings["env_wrapper"] == ["stable_baselines3.common.atari_wrappers.AtariWrapper"]
    assert (settings["learning_rate"], settings["frame_stack"]) == (3e-4, 4)
    assert settings["policy_kwargs"] == {"optimizer_kwargs": {"eps": 1e-3}}
    assert (settings["buffer_size"], settings["max_grad_norm"]) == (100_000, 1e10)
    arguments = yaml.safe_load((files[0].with_suffix("") / "args.yml").read_text())
    assert arguments == {"algo": "dqn", "env": ENV_ID, "seed": 8, "env_kwargs": None}


def test_weights_that_a_training_replaces_meanwhile_are_not_exported(
    weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(weights.read_bytes())
    chosen = read_weights(file, "model")
    file.write_bytes(weights_bytes(load_weights(weights), {"steps": 778}))
    with pytest.raises(UserError, match="was replaced while it was read"):
        export_sb3(chosen, Config(), folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rules_that_are_not_the_default_ones_reach_rl_zoo(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(protocol="machado", clip_reward=False, max_frames=5_000)
    file = export_sb3(read_weights(weights, "model"), config, folder=tmp_path)
    settings = yaml.safe_load((file.with_suffix("") / "config.yml").read_text())
    assert settings["env_wrapper"] == [
        {
            "stable_baselines3.common.atari_wrappers.AtariWrapper": {
                "noop_max": 0, "terminal_on_life_loss": False, "clip_reward": False,
                "action_repeat_probability": 0.25,
            }
        }
    ]  # fmt: skip
    arguments = yaml.safe_load((file.with_suffix("") / "args.yml").read_text())
    assert arguments["env_kwargs"] == {"max_num_frames_per_episode": 5_000}
    [line] = capsys.readouterr().out.splitlines()
    assert "protocol machado" in line
    assert read_sb3_zip(file).settings["exploration_rate"] == 0.001


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"protocol": "sb3"}, []),
        ({"protocol": "sb3", "precision": "bfloat16"}, ["bfloat16"]),
        ({"protocol": "sb3", "loss": "squared"}, ["train on"]),
        ({"protocol": "sb3", "bootstrap": "double"}, ["train on"]),
        ({"optimizer": "rmsprop"}, ["protocol zoo", "train on"]),
    ],
)
def test_what_is_not_the_same_in_sb3_is_said(
    weights: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    export_sb3(read_weights(weights, "model"), Config(**changes), folder=tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(lines)
    assert all(text in line for text, line in zip(lines, said, strict=True))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", "small"),
        ("network", "impala"),
        ("dueling", True),
        ("mean_expansion", True),
        ("layer_norm", True),
        ("channel_norm", True),
        ("noisy_sigma", 0.5),
        ("loss", "qrdqn"),
        ("bootstrap", "soft"),
        ("crop", (0, 0, 8, 8)),
    ],
)
def test_agents_that_sb3_has_no_counterpart_for_are_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    none = Weights(tmp_path / "none", "model", steps=None, sha256="")
    with pytest.raises(UserError, match=f"{key} .* has no counterpart in SB3's DQN"):
        export_sb3(none, Config(**{key: value}), folder=tmp_path / "out")
    with pytest.raises(UserError, match="ale-py has no environment TetrisNoFrameskip-v4"):
        export_sb3(none, Config(env="Tetris"), folder=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_export_knows_all_that_shapes_a_network() -> None:
    of_impala = {"network_width", "network_pool", "spectral_norm"}
    of_distributions = {"num_atoms", "v_min", "v_max", "num_cosines"}
    others = set(NETWORK_KEYS) - of_impala - of_distributions - {"frame_stack"}
    assert others <= COUNTERPARTS.keys()


def test_the_commands_go_there_and_back(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert import_command([str(exported)]) == 0
    assert capsys.readouterr().out.endswith("next: dqn-enjoy --run logs/dqn/SpaceInvaders_1\n")
    for whom in ([], ["SpaceInvaders_1"], ["--run", "logs/dqn/SpaceInvaders_1", "-o", "sb3"]):
        assert export_command(whom) == 0
    file = f"sb3/dqn/{ENV_ID}_3/{ENV_ID}.zip"
    assert f"DQN.load({file!r})" in capsys.readouterr().out
    assert import_command([file, "-f", "again"]) == 0
    again = find_run("again").model_file.read_bytes()
    assert again == find_run("logs").model_file.read_bytes()


@pytest.mark.parametrize(
    ("command", "flags", "expected"),
    [
        (import_command, [], "MODEL"),
        (import_command, ["none.zip"], "none.zip does not exist"),
        (import_command, ["none.zip", "--revision", "main"], "--revision belongs to USER/REPO"),
        (export_command, ["a", "--run", "b"], "give a run once"),
        (export_command, ["nosuch"], "no run 'nosuch' in logs"),
        (export_command, ["--load-checkpoint", "many"], "expected a whole number"),
    ],
)
def test_mistakes_are_one_line(
    command: Callable[[list[str]], int],
    flags: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(flags) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize("command", ["import_sb3", "export_sb3"])
def test_help_needs_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; from dqn_zoo.cli.{command} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'gymnasium', 'pydantic'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


# --- Beside Stable-Baselines3


def import_sb3_library() -> Any:
    library = pytest.importorskip("stable_baselines3", reason="needs the extra sb3")
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    return library


def sb3_env(seed: int = 0, max_frames: int = 108_000) -> Any:
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    cap = {"max_num_frames_per_episode": max_frames}
    return VecFrameStack(make_atari_env(ENV_ID, n_envs=1, seed=seed, env_kwargs=cap), n_stack=4)


def sb3_model(seed: int = 0, **options: Any) -> Any:
    """Return a model of SB3 that has trained a little, with values that tell actions apart."""
    library = import_sb3_library()
    arguments = {"buffer_size": 200, "learning_starts": 20, "batch_size": 8}
    model = library.DQN("CnnPolicy", sb3_env(), seed=seed, **arguments | options)
    model.learn(60)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.q_net.parameters():
            parameter.mul_(2.0).add_(torch.randn(parameter.shape, generator=generator) * 0.01)
    return model


def observations(env: Any, count: int = 40) -> NDArray[np.uint8]:
    """Play at random and return what was seen, [count, 4, 84, 84]."""
    generator = np.random.default_rng(1)
    seen = [env.reset()]
    for _ in range(count - 1):
        seen.append(env.step(generator.integers(0, NUM_ACTIONS, 1))[0])
    return np.concatenate(seen)


def sb3_values(model: Any, seen: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        values: NDArray[np.float32] = model.q_net(torch.from_numpy(seen)).numpy()
    return values


def same_values(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    return np.allclose(first, second, rtol=1e-5, atol=1e-5 * float(np.abs(first).max()))


@pytest.mark.sb3
def test_an_agent_from_sb3_has_the_values_it_had_there(tmp_path: Path) -> None:
    model = sb3_model()
    seen = observations(model.get_env())
    file = tmp_path / f"{ENV_ID}.zip"
    model.save(file)
    run = import_sb3(file, log_folder=tmp_path)
    theirs, ours = sb3_values(model, seen), load_agent(run.path).q_values(seen)
    assert np.ptp(theirs, axis=1).min() > 0.01
    assert np.unique(theirs.argmax(axis=1)).size > 1
    assert same_values(theirs, ours)
    assert np.array_equal(theirs.argmax(axis=1), ours.argmax(axis=1))
    assert not same_values(theirs, sb3_values_of_target(model, seen))

    weights = load_weights(run.model_file)
    for name in ("head.layers.stream.output.bias", "torso.layers.2.weight"):
        wrong = weights | {name: weights[name].flip(0)}
        (tmp_path / "wrong.safetensors").write_bytes(weights_bytes(wrong, {}))
        config = load_config(run.config_file)
        decoy = build_agent(tmp_path / "wrong.safetensors", config, device="cpu")
        assert not same_values(theirs, decoy.q_values(seen)), name


def sb3_values_of_target(model: Any, seen: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        values: NDArray[np.float32] = model.q_net_target(torch.from_numpy(seen)).numpy()
    return values


@pytest.mark.sb3
def test_settings_of_a_real_zip_are_read(tmp_path: Path) -> None:
    from stable_baselines3.common.utils import ConstantSchedule

    kwargs = {"optimizer_class": torch.optim.Adam, "optimizer_kwargs": {"eps": 1e-5}}
    model = sb3_model(
        learning_rate=ConstantSchedule(3e-4), gamma=0.97, n_steps=3, seed=4, policy_kwargs=kwargs
    )
    model.save(tmp_path / "pong.zip")
    run = import_sb3(tmp_path / "pong.zip", log_folder=tmp_path, env=ENV_ID)
    config = load_config(run.config_file)
    assert (config.learning_rate, config.optimizer_eps) == (3e-4, 1e-5)
    assert (config.gamma, config.n_steps, config.seed) == (0.97, 3, 4)
    assert (config.n_timesteps, config.eval_epsilon) == (60, 0.05)
    assert weights_note(run.model_file)["steps"] == 60


@pytest.mark.sb3
def test_zips_of_other_policies_of_sb3_are_refused_by_name(tmp_path: Path) -> None:
    library = import_sb3_library()
    file = tmp_path / "model.zip"
    library.DQN("MlpPolicy", "CartPole-v1", buffer_size=10).save(file)
    with pytest.raises(UserError, match=r"further layers \(net_arch\)|no network that sees pixels"):
        read_sb3_zip(file)
    wide = {"net_arch": [32]}
    library.DQN("CnnPolicy", sb3_env(), buffer_size=10, policy_kwargs=wide).save(file)
    with pytest.raises(UserError, match="further layers"):
        read_sb3_zip(file)
    raw = {"normalize_images": False}
    library.DQN("CnnPolicy", sb3_env(), buffer_size=10, policy_kwargs=raw).save(file)
    with pytest.raises(UserError, match="does not divide pixels by 255"):
        read_sb3_zip(file)
    library.PPO("CnnPolicy", sb3_env(), n_steps=8).save(file)
    with pytest.raises(UserError, match="an algorithm other than DQN"):
        read_sb3_zip(file)


@pytest.mark.sb3
def test_an_exported_agent_has_its_values_in_sb3_and_survives_the_way_back(
    exported: Path, weights: Path, tmp_path: Path
) -> None:
    library = import_sb3_library()
    model = library.DQN.load(exported)
    assert (model.exploration_rate, model.num_timesteps) == (0.01, 777)
    seen = observations(sb3_env()).transpose(0, 3, 1, 2).copy()
    ours = build_agent(weights, Config(), device="cpu").q_values(seen)
    assert np.ptp(ours, axis=1).min() > 0.01
    assert same_values(ours, sb3_values(model, seen))
    assert same_values(ours, sb3_values_of_target(model, seen))
    model.save(tmp_path / f"{ENV_ID}.zip")
    run = import_sb3(tmp_path / f"{ENV_ID}.zip", log_folder=tmp_path)
    back = load_weights(run.model_file)
    assert all(torch.equal(back[name], value) for name, value in load_weights(weights).items())


@pytest.mark.sb3
def test_sb3_trains_an_exported_agent_on(exported: Path) -> None:
    library = import_sb3_library()
    model = library.DQN.load(exported, env=sb3_env(), learning_starts=10, batch_size=4)
    before = {name: value.clone() for name, value in model.q_net.state_dict().items()}
    model.learn(40, reset_num_timesteps=False)
    assert model.num_timesteps == 777 + 40
    assert any(not torch.equal(value, before[n]) for n, value in model.q_net.state_dict().items())
    assert all(torch.isfinite(value).all() for value in model.q_net.state_dict().values())


@pytest.mark.sb3
def test_the_same_agent_plays_the_same_games_here_and_in_sb3(exported: Path, weights: Path) -> None:
    library = import_sb3_library()
    from stable_baselines3.common.evaluation import evaluate_policy

    model = library.DQN.load(exported)
    agent = build_agent(weights, Config(), device="cpu")
    seeds, max_frames = [11, 14], 2_000
    theirs = [
        evaluate_policy(model, sb3_env(seed, max_frames), 1, return_episode_rewards=True)
        for seed in seeds
    ]
    rules = replace(PROTOCOLS["sb3"], eval_epsilon=0.0, max_frames=max_frames)
    settings = EnvSettings(protocol=rules)
    games = evaluate(agent.q_values, game="SpaceInvaders", settings=settings, seeds=seeds)
    assert [[game.score] for game in games] == [scores for scores, _ in theirs]
    assert len({game.score for game in games}) > 1
