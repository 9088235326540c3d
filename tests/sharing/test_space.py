"""dqn-push --space: a folder that is complete in itself, uploaded, fetched again, and played."""

import http.client
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile

import pytest
import yaml
from support.hub_commands import Computer
from support.hub_standin import running_hub
from support.watched import Page, get, untrained_run, wait_until
from try_wheel import wrong_files

from dqn_zoo.cli.push import build_parser, main
from dqn_zoo.cli.space import _agent, _fetch
from dqn_zoo.runs.manifest import Origin
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.space import DOCKERFILE, _files, build_space, build_wheel, is_of_a_space
from dqn_zoo.watching.serving import bind

SPACE = "spaces/ann/dqn-Breakout"


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


def test_the_folder_has_all_that_serves_it_and_says_whose_the_agent_is(run, tmp_path):
    agent = tmp_path / "agent"
    agent.mkdir()
    for name in ("config.json", "model.safetensors"):
        (agent / name).write_bytes(b"{}")
    config = load_config(run.config_file)

    def card(origin: Origin | None) -> dict:
        files = build_space(tmp_path / "space", agent, config, repo_id="ann/x", origin=origin)
        [wheel] = [name for name in files if name.endswith(".whl")]
        ours = {f"agents/dqn-Breakout/{name}" for name in ("config.json", "model.safetensors")}
        assert set(files) == {"README.md", DOCKERFILE, wheel} | ours
        assert all(is_of_a_space(name) for name in files)
        assert f"COPY {wheel} ." in files[DOCKERFILE].read_text()
        return yaml.safe_load(files["README.md"].read_text().split("---\n")[1])

    assert (card(None)["license"], card(None)["app_port"]) == ("mit", 7860)
    strangers = card({"repo": "bob/agent"})
    assert "license" not in strangers
    assert strangers["models"] == ["bob/agent"]
    assert not {"license", "models"} & card({"library": "stable-baselines3"}).keys()


def test_a_run_that_was_pulled_or_imported_says_where_it_is_from(run, tmp_path):
    arguments = build_parser().parse_args(["--space", "--run", str(run.path)])
    assert _agent(arguments, tmp_path)[2] is None
    origin = {"repo": "bob/agent", "commit": "a" * 40}
    manifest = json.loads(run.manifest_file.read_text()) | {"origin": origin}
    run.manifest_file.write_text(json.dumps(manifest))
    assert _agent(arguments, tmp_path)[2] == origin


@pytest.mark.parametrize(
    "failure", [TimeoutError("timed out"), http.client.BadStatusLine("no HTTP")]
)
def test_a_page_that_answers_nothing_is_an_error_of_connection(failure, monkeypatch):
    def request(*_: object) -> None:
        raise failure

    monkeypatch.setattr(http.client.HTTPConnection, "request", request)
    with pytest.raises(ConnectionError, match="/ is not answered"):
        _fetch(1, None)


@pytest.fixture
def run(tmp_path) -> Run:
    return untrained_run(tmp_path / "logs")


@pytest.mark.space
def test_what_is_uploaded_and_fetched_again_starts_and_plays(hub, run, tmp_path):
    computer = Computer(tmp_path, hub, token="hf_write")
    elsewhere = "/usr/bin:/bin"  # where dqn-watch is not
    ended = computer.run("push", "--space", "--run", str(run.path), PATH=elsewhere)
    assert ended.code == 0, ended.output
    assert "tried out at http://127.0.0.1:" in ended.output
    assert f"pushed: {hub.url}/{SPACE} at commit" in ended.last_line
    files = hub.repositories[SPACE].files()
    [wheel] = [name for name in files if name.endswith(".whl")]
    agent = {f"agents/dqn-Breakout/{name}" for name in ("config.json", "model.safetensors")}
    assert set(files) == {"README.md", DOCKERFILE, wheel, ".gitattributes"} | agent
    card = yaml.safe_load(files["README.md"].split(b"---\n")[1])
    assert (card["sdk"], card["app_port"]) == ("docker", 7860)
    for name in ("README.md", DOCKERFILE, "agents/dqn-Breakout/config.json"):
        assert str(tmp_path).encode() not in files[name]

    fetched = tmp_path / "fetched"
    for name, content in files.items():
        (fetched / name).parent.mkdir(parents=True, exist_ok=True)
        (fetched / name).write_bytes(content)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", tmp_path / "site", fetched / wheel], check=True)
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    [served] = re.findall(r"^CMD dqn-watch (.*)$", files[DOCKERFILE].decode(), re.MULTILINE)
    served = served.replace("7860", str(port)).replace("0.0.0.0", "127.0.0.1")
    command = f"exec {shlex.quote(sys.executable)} -m dqn_zoo watch {served}"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "SPACE_HOST": "ann-dqn.hf.space"}
    page = subprocess.Popen(["sh", "-c", command], cwd=fetched, env=os.environ | environment)
    try:
        wait_until(lambda: is_there(port))
        assert get(port, "/agents", Host="ann-dqn.hf.space").status == 200
        assert get(port, "/agents", Host="stranger.example").status == 403
        with Page(port) as visitor:
            opened = visitor.open("dqn-Breakout")
            assert (opened["game"], opened["weights"]) == ("Breakout", "published weights")
            assert visitor.picture()["step"] >= 1
    finally:
        page.terminate()
        page.wait()


def is_there(port: int) -> bool:
    try:
        return bool(get(port, "/").status == 200)
    except OSError:
        return False


def test_the_wheel_holds_the_package_as_it_is_here_and_is_the_same_each_time(tmp_path, monkeypatch):
    wheel = build_wheel(tmp_path)
    assert wrong_files(wheel) == []
    with zipfile.ZipFile(wheel) as archive:
        about = [name for name in archive.namelist() if ".dist-info/" in name]
        names = {name.rpartition("/")[2] for name in about}
        assert names == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}
        assert all(archive.read(name) for name in about)
    first = wheel.read_bytes()
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.0)
    assert build_wheel(tmp_path).read_bytes() == first


def test_the_wheel_leaves_out_what_lies_beside_the_package(tmp_path):
    for name in ("a.py", "py.typed", ".env", "a.py~", "key.pem", "b.py.orig"):
        (tmp_path / name).touch()
    for folder in (".idea", "__pycache__"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.py").touch()
    assert [path.name for path in _files(tmp_path)] == ["a.py", "py.typed"]


def test_a_space_with_something_else_in_it_is_left_alone(hub, run, tmp_path):
    hub.add(SPACE, {"README.md": b"", "app.py": b"print()"})
    ended = Computer(tmp_path, hub, token="hf_write").run("push", "--space")
    assert ended.code == 2
    assert f"{hub.url}/{SPACE} holds files of something else (app.py)" in ended.last_line
    hub.add(SPACE, {"README.md": b"---\nsdk: docker\n---\n", "Dockerfile": b"FROM scratch"})
    ended = Computer(tmp_path, hub, token="hf_write").run("push", "--space")
    assert "something else (Dockerfile), whose card lacks the tag dqn-zoo" in ended.last_line
    assert not (tmp_path / "logs" / "spaces").exists()


def test_a_page_that_does_not_start_is_one_line_and_nothing_is_uploaded(
    run, tmp_path, capfd, monkeypatch
):
    def broken_wheel(folder):
        wheel = folder / "dqn_zoo_atari-0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("dqn_zoo/__init__.py", "")
            archive.writestr("dqn_zoo/__main__.py", "raise SystemExit('no page today')")
        return wheel

    monkeypatch.setattr("dqn_zoo.sharing.space.build_wheel", broken_wheel)
    assert main(["--space", "--dry-run", "-f", str(tmp_path / "logs")]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.endswith("does not start: no page today")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space", "--episodes", "3"], "--space plays no games for a card: leave out --episodes"),
        (["--space", "--hub", "ann/x", "--run", "y"], "--hub names the agent: leave out --run"),
        (["--hub", "ann/x"], "--hub goes with --space"),
    ],
)
def test_a_mistake_is_one_line(flags, message, tmp_path, capsys):
    assert main([*flags, "-f", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
