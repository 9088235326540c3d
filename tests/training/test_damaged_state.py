"""A checkpoint whose files were changed and signed again ends in one line; nothing hangs."""

import copy
import errno
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dqn_zoo.cli.train import main
from dqn_zoo.envs.guard import Phase
from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import MANIFEST, DamagedError, newest_checkpoint, write_checkpoint
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config, build_config
from dqn_zoo.settings.recipes import dump_config, load_config, resolve
from dqn_zoo.settings.yaml_reader import as_yaml
from dqn_zoo.system import machine
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.kept_settings import (
    MAY_CHANGE,
    NAMED_BY_THE_MANIFEST,
    WITHOUT_EFFECT,
    changed_settings,
)
from dqn_zoo.training.snapshot import restore
from dqn_zoo.training.starting import resume, train
from dqn_zoo.training.trainer import Trainer

STEPS = 96
COMMON = {"n_timesteps": STEPS, "network": "small", "n_envs": 2, "eval_freq": 0, "seed": 3}
COMMON |= {"num_threads": 1, "log_interval": 20, "device": "cpu", "precision": "float32"}
REPLAY = {"learning_starts": 20, "buffer_size": 60, "batch_size": 4, "train_freq": 4, "n_steps": 2}
ROLLOUTS = {"rollout_steps": 10, "num_minibatches": 2}


NEW_TRAINERS: dict[Config, Trainer] = {}


@pytest.fixture(scope="module", autouse=True)
def _close_trainers():
    yield
    for trainer in NEW_TRAINERS.values():
        trainer.close()
    NEW_TRAINERS.clear()


def trained(folder: Path, algo: str, **own: Any) -> Run:
    config = resolve(env="Breakout", algo=algo, overrides={**COMMON, **own}).config
    return train(config, log_folder=folder, options=TrainOptions(progress=False)).run


@pytest.fixture(scope="module", params=["per-dqn", "pqn-laptop"])
def master(request, tmp_path_factory) -> Run:
    own = ROLLOUTS if request.param == "pqn-laptop" else REPLAY
    return trained(tmp_path_factory.mktemp("master"), request.param, **own)


@pytest.fixture(scope="module")
def dqn(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("dqn"), "per-dqn", **REPLAY)


def signed(run: Run, folder: Path, name: str, change: Callable[[bytes], bytes]) -> Run:
    """Return a copy of a run with one file of its checkpoint changed and digests made to fit."""
    shutil.rmtree(folder, ignore_errors=True)
    copied = Run(shutil.copytree(run.path, folder))
    place = copied.checkpoint(STEPS)
    content = change((place / name).read_bytes())
    (place / name).unlink()  # it may be linked
    (place / name).write_bytes(content)
    manifest = json.loads((place / MANIFEST).read_bytes())
    del manifest["sha256"]
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"size": len(content), "sha256": digest}
    signature = json.dumps(manifest, sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(signature).hexdigest()
    (place / MANIFEST).write_text(json.dumps(manifest))
    return copied


def with_state(run: Run, folder: Path, change: Callable[[dict[str, Any]], object]) -> Run:
    def changed(content: bytes) -> bytes:
        state = json.loads(content)
        change(state)
        return json.dumps(state).encode()

    return signed(run, folder, "state.json", changed)


def restored(run: Run) -> Trainer:
    checkpoint, skipped = newest_checkpoint(run.checkpoints)
    assert checkpoint is not None, skipped
    assert checkpoint.step == STEPS
    config = load_config(run.config_file)
    trainer = NEW_TRAINERS.pop(config, None) or Trainer(config)
    try:
        restore(trainer, checkpoint)
    finally:  # building one takes half a second; a refusal before the replay leaves it as it was
        if trainer.envs._guard.phase is Phase.NEW:
            NEW_TRAINERS[config] = trainer
        else:
            trainer.close()
    return trainer


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = list(value.items() if isinstance(value, dict) else enumerate(value)) if isinstance(
        value, dict | list
    ) else []  # fmt: skip
    inner = [found for key, child in children[:3] for found in paths_of(child, (*path, key))]
    return [path, *inner]


@pytest.mark.parametrize("damage", ["removed", "damaged"])
def test_a_run_without_its_checkpoints_is_not_begun_again(dqn, tmp_path, capsys, damage):
    run = Run(shutil.copytree(dqn.path, tmp_path / "Breakout_1"))
    if damage == "removed":
        shutil.rmtree(run.checkpoints)
    else:
        (run.checkpoint(STEPS) / MANIFEST).unlink()
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert main(["--resume", str(run.path), "-n", str(STEPS + 2), "--no-progress"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    missing = {"removed": "no checkpoint any more", "damaged": "none of the checkpoints"}[damage]
    assert missing in line
    assert line.endswith(f"a new run can start from the weights: dqn-train -i {run.path}")
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
    short = ["-n", "30", "-f", str(tmp_path), "--no-progress", "--set=learning_starts=20"]
    assert main(["-i", str(run.path), *short]) == 0  # what it advises works


def test_what_was_not_changed_is_restored(master: Run, tmp_path: Path):
    assert restored(with_state(master, tmp_path / "Breakout_1", lambda _: None)).log_rows == 4


COUNTERS = ("steps", "updates", "log_rows")


@pytest.mark.parametrize("value", [None, -1, 10**20, STEPS // 2, "12", float("nan"), [], True])
def test_no_counter_goes_on_with_another_value(master: Run, tmp_path: Path, value: object):
    for key in COUNTERS:

        def change(state, key=key):
            state["counters"][key] = value
            if value is None:
                del state["counters"][key]

        with pytest.raises((DamagedError, UserError)) as caught:
            restored(with_state(master, tmp_path / "Breakout_1", change))
        assert len(str(caught.value).splitlines()) == 1


MEMORY = {
    "newest": lambda s: s["replay"].update(newest=s["replay"]["newest"] - 1),
    "oldest": lambda s: s["replay"].update(oldest=s["replay"]["newest"] + 1),
    "frames_written": lambda s: s["replay"].update(frames_written=10**9),
    "target_copies": lambda s: s["counters"].update(target_copies=5),
    "contradicts": lambda s: s["accumulator"]["num_waiting"].__setitem__(0, 0),
    "accumulator": lambda s: s["accumulator"]["waiting_action"][0].__setitem__(0, 99),
    "environments": lambda s: s["environments"]["environments"][0].update(steps=10**6),
    "statistics": lambda s: s["statistics"]["score"].append(1.0),
    "actions": lambda s: s["environments"]["environments"][0].pop("actions"),
    "best": lambda s: s["best"].update(steps=STEPS + 1),
}


@pytest.mark.parametrize("where", MEMORY)
def test_numbers_that_contradict_each_other_are_refused(dqn: Run, tmp_path: Path, where: str):
    with pytest.raises((DamagedError, UserError), match=where):
        restored(with_state(dqn, tmp_path / "Breakout_1", MEMORY[where]))


@pytest.mark.parametrize("kept_up", [[[99, 1]], [[0, 10_000]], [[0, 1]] * 99, [[0]], [[0, -1]]])
def test_no_random_action_goes_on_that_cannot_have_begun(master, tmp_path, kept_up):
    num_envs = load_config(master.config_file).n_envs
    changed = kept_up if len(kept_up) == 99 else kept_up * num_envs
    with pytest.raises((DamagedError, UserError), match="kept_up"):
        restored(with_state(master, tmp_path / "Breakout_1", lambda s: s.update(kept_up=changed)))


@given(data=st.data())
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_value_anywhere_in_a_state_is_taken_or_refused_in_one_line(dqn, tmp_path, data):
    state = json.loads((dqn.checkpoint(STEPS) / "state.json").read_bytes())
    path = data.draw(st.sampled_from(paths_of(state)[1:]))
    strange = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    value = data.draw(strange | st.lists(st.integers(), max_size=3) | st.just({}))

    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = copy.deepcopy(value)

    try:
        restored(with_state(dqn, tmp_path / "Breakout_1", change))
    except (DamagedError, UserError) as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


@pytest.mark.parametrize(
    "name", ["rows.z", "frames_00000.z", "optimizer.safetensors", "target.safetensors"]
)
@pytest.mark.parametrize("content", [b"", b"[" * 200_000, zlib.compress(bytes(2**24))])
def test_files_that_are_something_else_are_refused(dqn, tmp_path, name, content):
    if name == "frames_00000.z":
        content = content[:-9]
    with pytest.raises(DamagedError):
        restored(signed(dqn, tmp_path / "Breakout_1", name, lambda _: content))


def test_a_checkpoint_of_earlier_versions_goes_on_with_its_optimizer(dqn, tmp_path):
    old = Run(shutil.copytree(dqn.path, tmp_path / "Breakout_1"))
    place = old.checkpoint(STEPS)
    kept = load_file(place / "optimizer.safetensors")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in kept.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    torch.save({"state": state}, place / "optimizer.pt")
    manifest = json.loads((place / MANIFEST).read_bytes())
    (place / "optimizer.safetensors").unlink()
    names = [name for name in manifest["files"] if name != "optimizer.safetensors"]
    files = [(name, (place / name).read_bytes()) for name in [*names, "optimizer.pt"]]
    shutil.rmtree(place)
    write_checkpoint(old.checkpoints, STEPS, iter(files))
    optimizer = restored(old).algorithm.played.online.optimizer
    assert optimizer.state().keys() == kept.keys()
    assert all(torch.equal(optimizer.state()[key], value) for key, value in kept.items())
    assert any(value.any() for key, value in kept.items() if key.endswith("exp_avg"))


# --- Settings


def edited(run: Run, folder: Path, **changes: object) -> tuple[Run, Config]:
    copied = Run(shutil.copytree(run.path, folder))
    config = build_config(load_config(run.config_file).model_dump() | changes)
    copied.config_file.write_text(dump_config(config))
    return copied, load_config(copied.config_file)


OTHER = {
    "algo": "mine", "batch_size": 3, "bootstrap": "soft", "eval_episodes": 2, "eval_epsilon": 0.5,
    "exploration_final_eps": 0.25, "exploration_fraction": 0.5, "exploration_initial_eps": 0.75,
    "exploration_spread": 7.0, "exploration_zeta": 2.0, "exploration_zeta_share": 0.5,
    "huber_kappa": 0.5, "learning_rate": 0.25,
    "max_grad_norm": 1.0, "munchausen_alpha": 0.5, "munchausen_clip": -2.0,
    "munchausen_temperature": 0.5, "n_timesteps": 10_000, "num_acting_quantiles": 3,
    "num_target_quantiles": 3, "optimizer_eps": 0.25, "priority_weight_final": 0.75,
    "priority_weight_initial": 0.5, "targets_ahead": "auto", "td_lambda": 0.5,
}  # fmt: skip
"""Another value of each setting that may change."""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("buffer_size", 70), ("n_envs", 1), ("frame_stack", 3), ("n_steps", 3),
        ("replay", "uniform"),
        ("optimizer", "rmsprop"), ("loss", "c51"), ("env", "Pong"), ("train_freq", 8), ("seed", 4),
        ("gamma", 0.5), ("priority_exponent", 0.25), ("priority_floor", 0.25),
        ("clip_reward", False),
    ],
)  # fmt: skip
def test_settings_that_a_checkpoint_cannot_go_on_with_are_refused(dqn, tmp_path, key, value):
    run, config = edited(dqn, tmp_path / "Breakout_1", **{key: value})
    before = run.manifest_file.read_bytes()
    with pytest.raises(UserError, match=f"^{key} is {as_yaml(value)} now and was "):
        resume(run, config, options=TrainOptions(until_steps=STEPS + 2, progress=False))
    assert run.manifest_file.read_bytes() == before


def test_settings_that_may_change_are_said(dqn, tmp_path, capsys):
    assert OTHER.keys() == MAY_CHANGE
    run, config = edited(dqn, tmp_path / "Breakout_1", **OTHER)
    resume(run, config, options=TrainOptions(until_steps=STEPS + 2, progress=False))
    printed = capsys.readouterr().out
    for key, value in OTHER.items():
        assert re.search(f"not bit-exact:.*\\b{key}: .* before, {value} now", printed), key


def test_what_a_refusal_says_to_set_is_what_config_yml_takes(dqn, tmp_path):
    run, config = edited(dqn, tmp_path / "Breakout_1", max_frames=90, dueling=True)
    with pytest.raises(UserError) as raised:
        resume(run, config, options=TrainOptions(until_steps=STEPS + 2, progress=False))
    key, value = re.search(r"set (\w+): (\w+) in config.yml again", str(raised.value)).groups()
    assert (key, value) == ("max_frames", "null")
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("max_frames: 90", f"{key}: {value}"))
    assert load_config(run.config_file).max_frames is None


def test_a_resume_that_does_not_fit_offers_no_setting_that_it_would_refuse(
    dqn, tmp_path, monkeypatch
):
    run, config = edited(dqn, tmp_path / "Breakout_1")
    before = run.manifest_file.read_bytes()
    monkeypatch.setattr(machine, "memory_available_bytes", lambda: 1_000_000)
    with pytest.raises(UserError, match=r"needs .* is free: free some memory, or resume where"):
        resume(run, config, options=TrainOptions(until_steps=STEPS + 2, progress=False))
    assert run.manifest_file.read_bytes() == before


def test_what_a_resume_says_of_bfloat16_on_apples_gpu_works(dqn, tmp_path, monkeypatch, capsys):
    run, _ = edited(dqn, tmp_path / "Breakout_1", precision="bfloat16")
    resume_there = ["--resume", str(run.path), "-n", str(STEPS + 2), "--no-progress"]
    with monkeypatch.context() as patch:
        patch.setattr(machine, "choose_device", lambda _: "mps")
        assert main([*resume_there, "--device", "mps"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("set precision: float32 in config.yml, or give --device cpu")
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("precision: bfloat16", "precision: float32"))
    assert main(resume_there) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_before_a_run_goes_on_is_one_line(
    dqn, tmp_path, monkeypatch, capsys, code
):
    run, _ = edited(dqn, tmp_path / "Breakout_1")
    before = run.manifest_file.read_bytes()

    def full(path: Path, content: bytes) -> None:
        raise OSError(code, "no room")

    monkeypatch.setattr("dqn_zoo.system.files.write_file", full)
    assert main(["--resume", str(run.path), "-n", str(STEPS + 2), "--no-progress"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"error: {run.manifest_file} cannot be written: no room"
    assert run.manifest_file.read_bytes() == before


def test_the_middle_of_a_run_stays_where_it_was_if_updates_come_later():
    then = Config(n_timesteps=1_000, train_freq_later=2).model_dump(mode="json")
    longer = {"n_timesteps": 2_000}
    with pytest.raises(UserError, match=r"^n_timesteps is 2000 now and was 1000 when "):
        changed_settings(then, Config(**longer, train_freq_later=2))
    plain = then | {"train_freq_later": None}
    assert changed_settings(plain, Config(**longer)) == ["n_timesteps: 1000 before, 2000 now"]


def test_a_checkpoint_without_settings_resumes_and_checks_what_it_has(dqn, tmp_path):
    old = with_state(dqn, tmp_path / "a" / "Breakout_1", lambda state: state.pop("config"))
    restored(old)
    run, _ = edited(old, tmp_path / "b" / "Breakout_1", buffer_size=80)
    with pytest.raises(DamagedError, match="buffer_size"):
        restored(run)


def test_the_lists_of_settings_name_settings_once():
    lists = [WITHOUT_EFFECT, MAY_CHANGE, NAMED_BY_THE_MANIFEST]
    named = [key for keys in lists for key in keys]
    assert sorted(named) == sorted(set(named) & set(Config.model_fields))
    assert changed_settings(Config().model_dump(mode="json"), Config(save_freq=7)) == []


def test_an_emptied_config_is_not_a_run_of_another_game(tmp_path):
    (tmp_path / "config.yml").write_text("")
    with pytest.raises(UserError, match="does not say which game"):
        load_config(tmp_path / "config.yml")


def test_the_time_of_a_run_goes_on(dqn, tmp_path):
    run = with_state(dqn, tmp_path / "Breakout_1", lambda state: state.update(elapsed_s=1e6))
    assert restored(run).elapsed_s >= 1e6


def test_evaluations_that_were_not_due_are_refused(dqn, tmp_path):
    run = with_state(dqn, tmp_path / "Breakout_1", lambda s: s["counters"].update(evaluations=1))
    with pytest.raises(DamagedError, match="counters"):
        restored(run)
