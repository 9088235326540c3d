"""The notebooks of docs/ run from top to bottom, with a budget of seconds."""

import json
import os
import re
import shutil
import sysconfig
import venv
from pathlib import Path

import pytest
from support.hub_standin import running_hub

DOCS = Path(__file__).parents[2] / "docs"
TINY = (
    "--set learning_starts=150 --set eval_freq=200 --set eval_episodes=1 --set buffer_size=1000 "
    "--set network=small --set max_frames=240 --set log_interval=80 --set n_envs=2"
)


@pytest.fixture
def kernel(tmp_path_factory, monkeypatch) -> str:
    """Return a kernel of an environment that has all that dqn_zoo needs, but not dqn_zoo itself.

    What a notebook's service gives: the environment is not active, its commands not on PATH.
    """
    place = tmp_path_factory.mktemp("kernel")
    environment = place / "environment"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Files *.pth of a folder that is named in one are not read: no editable install is found.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = [str(environment / "bin" / "python"), "-m", "ipykernel_launcher"]
    spec = {"argv": [*python, "-f", "{connection_file}"], "display_name": "", "language": "python"}
    folder = place / "jupyter" / "kernels" / "service"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(place / "jupyter"))
    git = shutil.which("git")
    assert git is not None
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(git).parent), "/usr/bin", "/bin"]))
    assert shutil.which("dqn-train") is None
    return "service"


@pytest.mark.notebook
@pytest.mark.timeout(600)
def test_unit_3_runs_alone_in_an_empty_folder_from_a_clone_to_a_card(tmp_path, monkeypatch, kernel):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    logs = tmp_path / "my drive" / "runs"
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("UNIT3_ADDRESS", str(DOCS.parent))
    monkeypatch.setenv("UNIT3_LOGS", str(logs))
    monkeypatch.setenv("UNIT3_STEPS", "400")
    monkeypatch.setenv("UNIT3_EPISODES", "2")
    monkeypatch.setenv("UNIT3_FLAGS", TINY)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    notebook = nbformat.read(DOCS / "unit3.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name=kernel, resources={"metadata": {"path": str(here)}}
    )
    client.execute()
    printed = ["".join(output.get("text", "") for output in cell.get("outputs", []))
               for cell in notebook.cells]  # fmt: skip
    everything = "\n".join(printed)
    assert "error:" not in everything
    for said in (
        "GPU: ",
        f"finished {logs}/laptop/SpaceInvaders_1 at step 400",
        "mean - std",
        "film: film.mp4",
        "dry run: everything is in",
        "no token yet",
        "too few games to say",  # of two; ten of a real run are judged
        "(yours)",
    ):
        assert said in everything, said
    assert (here / "film.mp4").stat().st_size > 10_000
    assert (here / "dqn_zoo_source" / "dqn_zoo").is_dir()  # nothing else was there
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", [])
             for kind in output.get("data", {})]  # fmt: skip
    assert "image/png" in kinds  # the learning curve
    assert "text/markdown" in kinds  # the card


@pytest.mark.notebook
@pytest.mark.timeout(300)
def test_unit_3_goes_on_from_its_backup_when_the_machine_is_another(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(DOCS / "unit3.ipynb", as_version=4)
    train = next(number for number, cell in enumerate(notebook.cells)
                 if cell.cell_type == "code" and "!dqn-train" in cell.source)  # fmt: skip
    elsewhere = nbformat.v4.new_code_cell("folder = 'elsewhere'")
    source = notebook.cells[train].source.replace(
        "--no-progress", "--no-progress --time-limit 0.1s"
    )
    again = nbformat.v4.new_code_cell(source)
    notebook.cells = [*notebook.cells[: train + 1], elsewhere, again]
    monkeypatch.setenv("UNIT3_BACKUP", "ann/unit3-run")
    monkeypatch.setenv("UNIT3_STEPS", "100000")
    monkeypatch.setenv("UNIT3_FLAGS", f"{TINY} --time-limit 4s")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        resources = {"metadata": {"path": str(tmp_path)}}
        client = nbclient.NotebookClient(notebook, kernel_name="python3", resources=resources)
        client.execute()
    first, second = ("".join(output.get("text", "") for output in notebook.cells[cell].outputs)
                     for cell in (train, -1))  # fmt: skip
    assert "backed up step " in first
    stopped = re.search(r"stopped logs/laptop/SpaceInvaders_1 at step ([\d,]+)", first)
    assert stopped is not None
    assert f"resumed elsewhere/laptop/SpaceInvaders_1 at step {stopped[1]}" in second
    assert "not bit-exact" not in second
    assert hub.repositories["ann/unit3-run"].private


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert all(cell.get("outputs", []) == [] for cell in cells)
    assert all(cell.get("execution_count") is None for cell in cells)
