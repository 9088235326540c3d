"""Backups of a run on the Hub: what goes up, what comes back, and all that may go wrong between."""

import hashlib
import json
import pickle
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.hub_standin import Files, HubStandin, running_hub

from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import MANIFEST, verify, write_checkpoint
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.sharing.backup import HubBackup, new_target, read_target
from dqn_zoo.sharing.backup_fetch import fetch_run
from dqn_zoo.sharing.backup_files import BACKUP, Document
from dqn_zoo.sharing.backup_upload import Outcome, upload
from dqn_zoo.training.starting import TrainOptions, resume, train

REPO = "ann/backup"
STEPS, HALF = 96, 48
SETTINGS = {
    "n_timesteps": STEPS, "save_freq": HALF, "network": "small", "n_envs": 2, "eval_freq": 0,
    "seed": 3, "num_threads": 1, "log_interval": 20, "device": "cpu", "precision": "float32",
    "learning_starts": 20, "buffer_size": 60, "batch_size": 4, "train_freq": 4, "max_frames": 200,
}  # fmt: skip
QUIET = TrainOptions(progress=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    config = resolve(env="Breakout", algo="dqn", overrides=SETTINGS).config
    return train(config, log_folder=tmp_path_factory.mktemp("trained"), options=QUIET).run


@pytest.fixture
def run(trained, tmp_path) -> Run:
    """A run that was stopped at its end: it has two checkpoints and may go on."""
    return Run(shutil.copytree(trained.path, tmp_path / "home" / "dqn" / "Breakout_1"))


@pytest.fixture(scope="module")
def serving():
    with running_hub() as server:
        yield server


@pytest.fixture
def hub(serving: HubStandin, monkeypatch, tmp_path):
    """The stand-in Hub for the client in this process, which does not wait between its tries."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", serving.url)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", serving.url + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    quick = SimpleNamespace(sleep=lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time", quick)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    for kept in (serving.repositories, serving.lfs):
        kept.clear()
    for noted in (serving.requests, serving.failures, serving.changes):
        noted.clear()
    return serving


class Uploads:
    """A run whose checkpoints are uploaded by this process."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.backup = HubBackup(new_target(REPO, None, read_target(run)))
        self.backup.begin(run)

    def __call__(self, step: int) -> Outcome:
        """Upload one checkpoint as the process does that a run starts for it."""
        self.backup._put_aside(verify(self.run.checkpoint(step)))
        done = upload(self.backup._job())
        self.backup._last, self.backup._last_commit = done.document, done.commit
        return done


def backed_up(run: Run) -> Uploads:
    uploads = Uploads(run)
    uploads(HALF)
    uploads(STEPS)
    return uploads


@pytest.fixture
def good(run, hub, kept={}) -> Files:  # noqa: B006
    """The files of a backup with two checkpoints, uploaded once."""
    if not kept:
        backed_up(run)
        kept |= hub.repositories.pop(REPO).files()
    return kept


def document_of(files: Files) -> Document:
    return Document.read(json.loads(files[BACKUP]))


def lfs_requests(hub: HubStandin) -> list[str]:
    return [line for line in hub.requests if line.startswith("PUT /lfs")]


# --- What goes up


def test_a_checkpoint_goes_up_in_one_commit_and_only_what_changed(run, hub):
    uploads = Uploads(run)
    first = uploads(HALF)
    repository = hub.repositories[REPO]
    assert repository.private
    assert repository.messages == ["initial commit", "step 48 of dqn/Breakout_1"]
    before = set(repository.files())
    second = uploads(STEPS)
    assert repository.messages[2:] == ["step 96 of dqn/Breakout_1"]
    document = document_of(repository.files())
    assert [each.step for each in document.checkpoints] == [STEPS, HALF]
    same = document.checkpoints[0].stored() & document.checkpoints[1].stored()
    assert same  # config.yml
    assert second.num_files == len(set(repository.files()) - before)
    assert second.num_files == len(document.newest.stored() - before)
    assert second.num_bytes < first.num_bytes + sum(
        entry.size for entry in document.newest.entries()
    )
    again = uploads(STEPS)  # nothing new but what says that it was written
    assert (again.num_files, again.num_bytes) == (0, 0)


def test_two_are_kept_and_what_only_older_ones_needed_goes_with_the_same_commit(run, hub):
    uploads = backed_up(run)
    gone = document_of(hub.repositories[REPO].files()).checkpoints[1].stored()
    third = [("state.json", b"{}"), ("rows.z", None), ("frames_00000.z", None)]
    previous = verify(run.checkpoint(STEPS))
    write_checkpoint(run.checkpoints, STEPS + HALF, iter(third), previous=previous)
    uploads(STEPS + HALF)
    files = hub.repositories[REPO].files()
    document = document_of(files)
    assert [each.step for each in document.checkpoints] == [STEPS + HALF, STEPS]
    assert {name for name in files if name.startswith("files/")} == document.stored()
    assert gone - document.stored()
    assert len(hub.repositories[REPO].messages) == 4


@pytest.mark.parametrize(
    ("pattern", "status", "said"),
    [
        ("GET /api/models/", 401, "status 401"),
        ("POST /api/models/.*/preupload", 403, "does not let this token write"),
        ("POST /api/models/.*/commit", 413, "status 413"),
        ("GET /api/models/", 429, "has had too many requests"),
        ("PUT /lfs/", 503, "has a fault"),
        ("PUT /lfs/", 0, "cannot be reached"),
        ("POST /api/models/.*/commit", 0, "cannot be reached"),
    ],
)
def test_an_upload_that_fails_leaves_the_one_before_and_the_next_one_succeeds(
    run, hub, pattern, status, said
):
    uploads = Uploads(run)
    uploads(HALF)
    before = hub.repositories[REPO].files()
    hub.fail(pattern, status, **({"Retry_After": "7"} if status == 429 else {}))
    with pytest.raises(UserError, match=said) as caught:
        uploads(STEPS)
    assert len(str(caught.value).splitlines()) == 1
    assert hub.repositories[REPO].files() == before
    hub.failures.clear()
    uploads.backup._last = uploads.backup._last_commit = None  # as after any failure
    uploads(STEPS)
    document = document_of(hub.repositories[REPO].files())
    assert [each.step for each in document.checkpoints] == [STEPS, HALF]


def test_what_has_arrived_before_a_cut_is_not_sent_again(run, hub):
    uploads = Uploads(run)
    hub.fail("POST /api/models/.*/commit", 503)
    with pytest.raises(UserError):
        uploads(HALF)
    sent = len(lfs_requests(hub))
    assert sent
    hub.failures.clear()
    uploads(HALF)
    assert len(lfs_requests(hub)) == sent


def test_a_commit_whose_answer_was_lost_is_taken_for_its_own(run, hub):
    uploads = Uploads(run)
    uploads(HALF)
    hub.change("POST /api/models/.*/commit.*", lambda _: b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        uploads(STEPS)
    hub.changes.clear()
    uploads.backup._last = uploads.backup._last_commit = None
    assert uploads(STEPS).num_files == 0


def test_files_that_somebody_removed_there_are_noticed_and_sent_again(run, hub):
    uploads = backed_up(run)
    files = hub.repositories[REPO].files()
    hub.add(REPO, {name: files[name] for name in files if not name.startswith("files/")})
    with pytest.raises(UserError, match="has lost files"):
        uploads(STEPS)
    uploads.backup._last = uploads.backup._last_commit = None
    uploads(STEPS)
    assert [each.step for each in document_of(hub.repositories[REPO].files()).checkpoints] == [96]


# --- Whose it is


def test_another_run_does_not_take_a_repository_over(run, hub, tmp_path):
    backed_up(run)
    other = HubBackup(new_target(REPO, None, None))
    with pytest.raises(UserError, match=rf"holds another run, step 96.*--resume hf://{REPO}$"):
        other.check()
    hub.add("ann/agent", {"model.safetensors": b"x"})
    with pytest.raises(UserError, match="files of something else, not a backup"):
        HubBackup(new_target("ann/agent", None, None)).check()


def test_a_run_that_went_on_elsewhere_is_not_written_over(run, hub, tmp_path):
    here = Uploads(run)
    here(HALF)
    away = Uploads(Run(shutil.copytree(run.path, tmp_path / "away" / "dqn" / "Breakout_1")))
    away.backup._known_step = HALF
    away(STEPS)
    here.backup._known_step = HALF
    with pytest.raises(UserError, match="step 96 of dqn/Breakout_1, which went on elsewhere"):
        here(STEPS)
    here.backup._known_step = STEPS
    here(STEPS)  # it is known here


@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("", REPO, "there is no token"),
        ("hf_read", REPO, "the token may not write to ann"),
        ("hf_write", "bob/x", "may not write to 'bob'"),
        ("hf_write", "watchers/x", "may only read in watchers"),
        ("hf_write", f"{REPO}@v1", "leave @v1 out"),
        ("hf_write", "ann", "no repository of the Hub"),
    ],
)
def test_what_would_fail_every_time_is_refused_before_training(hub, monkeypatch, token, repo, said):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=said) as caught:
        HubBackup(new_target(repo, None, None)).check()
    assert "-orga" not in str(caught.value)


@pytest.mark.parametrize("status", [0, 429, 503])
def test_a_hub_that_does_not_answer_now_keeps_no_run_from_beginning(hub, run, status):
    hub.fail("GET /api/", status)
    backup = HubBackup(new_target(REPO, None, None))
    backup.check()
    [_, line] = backup.begin(run)
    assert line.startswith("warning: ")
    assert line.endswith("; the first checkpoint tries it")
    assert "run the same command" not in line


# --- What comes back


def test_a_fetched_run_is_the_run_but_for_folders_of_the_other_computer(run, hub, tmp_path, capsys):
    (run.path / "manifest.json").write_text(
        json.dumps(read_manifest(run) | {"tensorboard": "/elsewhere"})
    )
    backed_up(run)
    fetched = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    assert f"fetched into {fetched.path}" in capsys.readouterr().out
    assert fetched.path == tmp_path / "logs" / "dqn" / "Breakout_1"
    assert fetched.checkpoint_steps() == [STEPS]
    assert read_manifest(fetched)["tensorboard"] is None
    assert read_target(fetched) == read_target(run)
    assert not list((tmp_path / "cache").glob("models--*/snapshots/*"))
    for name in ("config.yml", "model.safetensors", "progress.csv", "episodes.csv"):
        assert (fetched.path / name).read_bytes() == (run.path / name).read_bytes()
    assert verify(fetched.checkpoint(STEPS)).files == verify(run.checkpoint(STEPS)).files
    again = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    assert again == fetched
    assert "nothing is fetched" in capsys.readouterr().out


def test_a_run_here_that_is_behind_is_left_alone_and_a_revision_is_a_run_of_its_own(
    run, hub, tmp_path
):
    uploads = Uploads(run)
    first = uploads(HALF).commit
    logs = tmp_path / "logs"
    behind = fetch_run(f"hf://{REPO}", log_folder=logs)
    uploads(STEPS)
    ahead = fetch_run(f"hf://{REPO}", log_folder=logs)
    assert (behind.checkpoint_steps(), ahead.checkpoint_steps()) == ([HALF], [STEPS])
    old = fetch_run(f"hf://{REPO}@{first}", log_folder=logs)
    assert (old.path.name, old.checkpoint_steps()) == ("Breakout_3", [HALF])
    assert read_target(old) is None


def test_a_fetch_that_breaks_off_goes_on_where_it_was(good, hub, tmp_path):
    hub.add(REPO, good)
    last = stored(good, "frames_00000.z")
    hub.fail(f"GET /ann/backup/resolve/.*/{last}", 0)
    logs = tmp_path / "logs"
    with pytest.raises(UserError, match="cannot be reached"):
        fetch_run(f"hf://{REPO}", log_folder=logs)
    assert not list(logs.rglob("*_1"))
    had = {line for line in hub.requests if re.match("GET .*/files/", line) and last not in line}
    hub.failures.clear()
    hub.requests.clear()
    fetch_run(f"hf://{REPO}", log_folder=logs)
    assert len(had) > 5
    assert not had & set(hub.requests)


# --- Repositories that are hostile, or damaged


def contents(files: Files) -> dict[str, bytes]:
    """Return the newest checkpoint of a backup, by the names of its files."""
    newest = document_of(files).newest
    return {name: files[f"files/{entry.sha256}"] for name, entry in newest.files.items()}


def described(document: dict[str, Any], part: str, named: dict[str, bytes]) -> Files:
    """Let the document say what these files are, and return them by where they are stored."""
    stored = {}
    for name, content in named.items():
        digest = hashlib.sha256(content).hexdigest()
        document["checkpoints"][0][part][name] = {"size": len(content), "sha256": digest}
        stored[f"files/{digest}"] = content
    return stored


def signed(files: Files, **changed: bytes) -> Files:
    """Return a backup whose newest checkpoint has other files, with every digest made to fit."""
    document = json.loads(files[BACKUP])
    named = contents(files) | {key.replace("__", "."): value for key, value in changed.items()}
    manifest = json.loads(named.pop(MANIFEST))
    del manifest["sha256"]
    for name, content in named.items():
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"size": len(content), "sha256": digest}
    canonical = json.dumps(manifest, sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(canonical).hexdigest()
    named[MANIFEST] = json.dumps(manifest).encode()
    stored = described(document, "files", named)
    return files | stored | {BACKUP: json.dumps(document).encode()}


def says(files: Files, change: Callable[[dict[str, Any]], object]) -> Files:
    document = json.loads(files[BACKUP])
    change(document)
    return files | {BACKUP: json.dumps(document).encode()}


def with_run_file(files: Files, name: str, content: bytes) -> Files:
    document = json.loads(files[BACKUP])
    stored = described(document, "run_files", {name: content})
    return files | stored | {BACKUP: json.dumps(document).encode()}


class Malice:
    """What pickle would run."""

    def __reduce__(self):
        return (Path.touch, (Path("code_was_run"),))


def first(document: dict[str, Any]) -> dict[str, Any]:
    return document["checkpoints"][0]["files"]


def stored(files: Files, name: str) -> str:
    return f"files/{document_of(files).newest.files[name].sha256}"


def tracked(files: Files, **changed: str) -> Files:
    """Return a backup whose newest manifest says where its run is tracked."""
    manifest = json.loads(
        files[f"files/{document_of(files).newest.run_files['manifest.json'].sha256}"]
    )
    manifest["tracking"] = {
        "tracker": "trackio", "project": "p", "entity": None, "group": None, "tags": [],
        "name": "n", "id": "i",
    } | changed  # fmt: skip
    return with_run_file(files, "manifest.json", json.dumps(manifest).encode())


OWN = "env: Breakout\nalgo: ../../x\n"
HOSTILE: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a path that leads elsewhere": (
        lambda files: says(files, lambda d: first(d).update({"../x": first(d)["rows.z"]})),
        "is no file of a checkpoint",
    ),
    "an absolute path": (
        lambda files: says(files, lambda d: first(d).update({"/tmp/x": first(d)["rows.z"]})),
        "is no file of a checkpoint",
    ),
    "a size that no file has": (
        lambda files: says(files, lambda d: first(d)["rows.z"].update(size=10**15)),
        "more than the 4,294,967,296 that are read",
    ),
    "a size that differs": (
        lambda files: says(files, lambda d: first(d)["rows.z"].update(size=7)),
        "and should have 7",
    ),
    "a file that is missing": (
        lambda files: {k: v for k, v in files.items() if k != stored(files, "rows.z")},
        "rows.z is missing",
    ),
    "a file that was changed": (
        lambda files: files | {
            stored(files, "rows.z"): bytes(len(files[stored(files, "rows.z")]))
        },
        "was changed (SHA-256 differs)",
    ),
    "a link in place of a file": (
        lambda files: files | {stored(files, "rows.z"): b"../../../../etc/passwd"},
        "rows.z has 22 bytes there",
    ),
    "a pickle beside": (
        lambda files: signed(files, optimizer__pt=pickle.dumps(Malice())),
        "'optimizer.pt' is no file of a checkpoint",
    ),
    "a pickle in its place": (
        lambda files: signed(files, optimizer__safetensors=pickle.dumps(Malice())),
        "no readable safetensors file",
    ),
    "a manifest of another step": (
        lambda files: says(files, lambda d: d["checkpoints"][0].update(step=STEPS + 1)),
        "it is of step 96",
    ),
    "settings that lead elsewhere": (
        lambda files: with_run_file(files, "config.yml", OWN.encode()),
        "'../../x'",
    ),
    "settings that are none": (
        lambda files: with_run_file(files, "config.yml", b"env: [" * 9_000),
        "",
    ),
    "a manifest that is none": (
        lambda files: with_run_file(files, "manifest.json", b"[" * 99_999),
        "manifest.json is damaged",
    ),
    "a tracker that is a module": (
        lambda files: tracked(files, tracker="this"),
        "manifest.json is damaged: tracking.tracker",
    ),
    "a project that a terminal would obey": (
        lambda files: tracked(files, project="\x1b[2J"),
        "manifest.json is damaged: tracking.project",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_checkpoint_that_is_not_what_it_should_be_is_passed_over(
    good, hub, tmp_path, capsys, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)
    change, said = HOSTILE[kind]
    hub.add(REPO, change(good))
    fetched = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped")]
    assert said in line
    assert fetched.checkpoint_steps() == [HALF]
    assert [path.name for path in (tmp_path / "logs" / "dqn").iterdir()] == ["Breakout_1"]
    assert not Path("code_was_run").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"logs", "home", "cache"}


def test_nothing_large_is_downloaded_of_what_is_refused(good, hub, tmp_path):
    files = says(
        good,
        lambda d: [each["files"]["rows.z"].update(size=10**15) for each in d["checkpoints"]],
    )
    hub.add(REPO, files)
    hub.requests.clear()
    with pytest.raises(UserError, match="holds no checkpoint that can be resumed"):
        fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    assert not [line for line in hub.requests if "/files/" in line]
    assert not list((tmp_path / "logs").rglob("*"))


def test_a_bomb_is_not_unpacked(good, hub, tmp_path):
    bomb = zlib.compress(bytes(2**27), 1)
    hub.add(REPO, signed(good, frames_00000__z=bomb))
    fetched = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    options = TrainOptions(progress=False, until_steps=STEPS + 2)
    with pytest.raises(UserError, match=r"cannot be resumed: frames_00000.z unpacks to more than"):
        resume(fetched, load_config(fetched.config_file), options=options)


def test_whatever_a_document_says_the_answer_is_one_line(good, hub, tmp_path):
    values = [None, -1, 10**30, "x" * 10_000, [], {}, True, "\x1b[2J"]
    for key in json.loads(good[BACKUP]):
        for value in values:
            with pytest.raises(ValueError, match=key):
                document_of(says(good, lambda d, key=key, value=value: d.update({key: value})))
    for key in ("run_id", "checkpoints"):
        hub.add(REPO, says(good, lambda d, key=key: d.update({key: "\x1b[2J"})))
        with pytest.raises(UserError, match=key) as caught:
            fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
        assert len(str(caught.value).splitlines()) == 1
    for content in (b"", b"[" * 99_999, b'{"format": 2}'):
        hub.add(REPO, good | {BACKUP: content})
        with pytest.raises(UserError):
            fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    hub.add(REPO, good | {"../evil.py": b""})
    with pytest.raises(UserError, match="files of something else"):
        fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    assert not list((tmp_path / "logs").rglob("*"))


def test_the_run_of_somebody_else_goes_on_here_without_being_backed_up_or_tracked_there(
    good, hub, tmp_path, monkeypatch, capsys
):
    hub.add(REPO, tracked(good))
    own = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "own")
    assert read_manifest(own)["tracking"]["project"] == "p"
    for token, said in (("hf_bob", "bob's, who may not write to 'ann'"), ("", "there is no token")):
        monkeypatch.setenv("HF_TOKEN", token)
        fetched = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
        assert read_target(fetched) is None
        assert read_manifest(fetched)["tracking"] is None
        assert said in capsys.readouterr().out


def test_a_backup_that_is_not_there_is_said(hub, tmp_path):
    for repo, said in (("ann/none", "has no repository"), ("ann/empty", "holds no backup yet")):
        if repo.endswith("empty"):
            hub.add(repo, {})
        with pytest.raises(UserError, match=said):
            fetch_run(f"hf://{repo}", log_folder=tmp_path)
