"""Agents as ONNX models, run by onnxruntime."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.run_makers import make_run, weights_of
from torch.nn.utils import parametrize

import dqn_zoo
from dqn_zoo.cli.export_onnx import main
from dqn_zoo.errors import UserError
from dqn_zoo.exchange import onnx_export
from dqn_zoo.play.agent import Agent
from dqn_zoo.play.session import choose_weights
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.loading import load_agent

# Every head, torso and normalisation is in one of them.
AGENTS = {
    "plain": {"network": "nature", "frame_stack": 2},
    "dueling, noisy C51": {
        "network": "small", "channel_norm": True, "loss": "c51", "dueling": True,
        "noisy_sigma": 0.5,
    },
    "mean-expanded QR-DQN": {"network": "small", "loss": "qrdqn", "mean_expansion": True},
    "normalised IMPALA with IQN": {
        "network": "impala", "network_pool": 6, "layer_norm": True, "spectral_norm": True,
        "loss": "iqn", "num_acting_quantiles": 8, "dueling": True,
    },
}  # fmt: skip


def run_of(folder: Path, **settings) -> Run:
    run = make_run(folder, **settings)
    run.model_file.write_bytes(weights_of(3, 100, load_config(run.config_file)))
    return run


def frames(number: int, agent: Agent) -> np.ndarray:
    shape = (number, agent.config.frame_stack, 84, 84)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(params=AGENTS, scope="module")
def run(request, tmp_path_factory) -> Run:
    return run_of(tmp_path_factory.mktemp("logs"), **AGENTS[request.param])


@pytest.fixture(scope="module")
def agent(run) -> Agent:
    return load_agent(run.path)


def test_an_agent_as_a_module_of_pytorch_gives_its_values(agent):
    module = agent.to_torch()
    shown = frames(3, agent)
    values = module(torch.from_numpy(shown))
    assert values.dtype == torch.float32
    assert values.numpy() == pytest.approx(agent.q_values(shown), abs=1e-6)
    assert not any(parametrize.is_parametrized(each) for each in module.modules())
    before = agent.q_values(shown)
    for weight in module.parameters():
        weight.zero_()
    assert np.array_equal(agent.q_values(shown), before)


@pytest.mark.onnx
def test_a_model_answers_as_its_agent_for_any_batch(run, agent, tmp_path, monkeypatch, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    monkeypatch.setattr(onnx_export, "NUM_OBSERVATIONS", 120)
    file = tmp_path / "agent.onnx"
    assert main([str(run.path), "-o", str(file)]) == 0
    session = onnxruntime.InferenceSession(file)
    for number in (1, 5):
        shown = frames(number, agent)
        [values] = session.run(["q_values"], {"observation": shown})
        assert values == pytest.approx(agent.q_values(shown), abs=1e-4)
    [given] = session.get_inputs()
    assert (given.type, given.shape) == (
        "tensor(uint8)",
        ["batch", agent.config.frame_stack, 84, 84],
    )
    said = capsys.readouterr().out
    assert "checked: 120 observations, largest difference " in said
    assert "100.0% equal greedy actions" in said


@pytest.mark.onnx
def test_the_command_checks_a_thousand_observations_and_notes_what_a_player_needs(
    tmp_path, monkeypatch, capsys
):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    run = run_of(Path("logs"), network="small", protocol="machado")
    assert main([]) == 0
    assert "checked: 1,000 observations" in capsys.readouterr().out
    file = Path(f"dqn-{run.name}.onnx")
    notes = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert notes["env"] == "Breakout"
    assert json.loads(notes["actions"]) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert json.loads(notes["observation"])["shape"] == ["batch", 4, 84, 84]
    assert json.loads(notes["protocol"])["name"] == "machado"
    assert notes["dqn_zoo"] == dqn_zoo.__version__
    # Nothing is overwritten, and a model that answers otherwise is not written.
    content = file.read_bytes()
    assert main([]) == 2
    assert f"error: {file} exists: " in capsys.readouterr().err
    monkeypatch.setattr(onnx_export, "_model", lambda agent: onnx.load(file))
    run.model_file.write_bytes(weights_of(4, 100, load_config(run.config_file)))
    assert main(["-o", "other.onnx"]) == 2
    assert "error: the model is off by " in capsys.readouterr().err
    assert main(["-o", "missing/other.onnx"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, "logs"]
    assert file.read_bytes() == content


@pytest.mark.onnx
def test_weights_that_are_replaced_meanwhile_are_not_called_by_the_old_digest(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    run = run_of(tmp_path, network="small")
    config = load_config(run.config_file)
    weights = choose_weights(run, "last")
    run.model_file.write_bytes(weights_of(4, 100, config))
    file = tmp_path / "agent.onnx"
    with pytest.raises(UserError, match="was replaced while it was read"):
        onnx_export.export_onnx(weights, config, file)
    assert not file.exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_a_package_it_says_what_to_install(package, tmp_path, monkeypatch, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    run = run_of(tmp_path, network="small")
    assert main([str(run.path), "-o", str(tmp_path / "agent.onnx")]) == 2
    assert f"error: an ONNX file needs {package}: pip install" in capsys.readouterr().err
    assert not (tmp_path / "agent.onnx").exists()


def test_a_folder_that_is_missing_is_said_by_the_name_that_was_given(tmp_path, monkeypatch, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, sys)
    run, file = run_of(tmp_path, network="small"), tmp_path / "models" / "agent.onnx"
    assert main([str(run.path), "-o", str(file)]) == 2
    expected = f"error: {file} cannot be written (No such file or directory): name another"
    assert capsys.readouterr().err.startswith(expected)
