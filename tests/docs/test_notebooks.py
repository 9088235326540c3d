"""The notebooks of docs/ run from top to bottom, with a budget of seconds."""

import os
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TINY = (
    "--set learning_starts=300 --set eval_freq=600 --set eval_episodes=2 --set buffer_size=1000 "
    "--set network=small --set max_frames=400 --set log_interval=200"
)


@pytest.mark.notebook
@pytest.mark.timeout(400)
def test_unit_3_runs_from_install_to_a_card(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("UNIT3_STEPS", "1000")
    monkeypatch.setenv("UNIT3_EPISODES", "2")
    monkeypatch.setenv("UNIT3_FLAGS", TINY)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # The commands of this environment, as after its activation.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(DOCS / "unit3.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    printed = ["".join(output.get("text", "") for output in cell.get("outputs", []))
               for cell in notebook.cells]  # fmt: skip
    everything = "\n".join(printed)
    assert "error:" not in everything
    for said in (
        "finished logs/laptop/SpaceInvaders_1 at step 1,000",
        "mean - std",
        "film: film.mp4",
        "dry run: everything is in",
        "no token yet",
        "the score",
        "(yours)",
    ):
        assert said in everything, said
    assert (tmp_path / "film.mp4").stat().st_size > 10_000
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", [])
             for kind in output.get("data", {})]  # fmt: skip
    assert "image/png" in kinds  # the learning curve
    assert "text/markdown" in kinds  # the card


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    import json

    cells = json.loads(path.read_text())["cells"]
    assert all(cell.get("outputs", []) == [] for cell in cells)
    assert all(cell.get("execution_count") is None for cell in cells)
