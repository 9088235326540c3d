"""Backups of a run on the Hub: what goes up, what comes back, and all that may go wrong between."""

import hashlib
import json
import math
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save
from support.children import Child
from support.hub_commands import DEADLINE_S, Computer
from support.hub_standin import Files, HubStandin, running_hub

from dqn_zoo.cli.train import main
from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import MANIFEST, verify, write_checkpoint
from dqn_zoo.runs.manifest import has_finished, read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.sharing import backup as backup_module
from dqn_zoo.sharing import backup_upload
from dqn_zoo.sharing import hub as hub_module
from dqn_zoo.sharing.backup import HubBackup
from dqn_zoo.sharing.backup_fetch import fetch_run
from dqn_zoo.sharing.backup_files import BACKUP, Document
from dqn_zoo.sharing.backup_target import new_target, read_target
from dqn_zoo.sharing.backup_upload import Outcome, upload
from dqn_zoo.system.signals import Stop
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.starting import resume, train

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
    monkeypatch.setattr("huggingface_hub.file_download.time", quick)
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


@pytest.fixture
def in_processes(hub, run, monkeypatch, tmp_path) -> HubBackup:
    """A backup of the run whose uploads are processes of their own, as in training."""
    for name, value in Computer(tmp_path, hub, "hf_write").environment().items():
        monkeypatch.setenv(name, value)
    backup = HubBackup(new_target(REPO, 0.01, None))
    backup.begin(run)
    return backup


def test_no_description_is_too_long_for_what_lies_between_two_processes(in_processes, run, hub):
    """A pipe holds 64 kB, and on Windows 4; nobody reads from it while training goes on."""
    for step in (STEPS + 1, STEPS + 2):
        files = ((f"frames_{number:05}.z", b"x") for number in range(600))
        in_processes.take(write_checkpoint(run.checkpoints, step, files))
        deadline, news = time.monotonic() + DEADLINE_S, []
        while not (news := in_processes.news()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert news[0].startswith(f"backed up step {step} to ann/backup: ")
    assert len(hub.repositories[REPO].files()[BACKUP]) > 2 * 2**16


def test_the_last_upload_is_tried_again_when_the_hub_allows_it(in_processes, run, hub):
    hub.fail("GET /api/models/", 429, times=1, RateLimit='"api";r=0;t=1')
    in_processes._newest = verify(run.checkpoint(STEPS))
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_module, "AGAIN_S", 0.0)
        began = time.monotonic()
        in_processes.finish(lines.append, Stop(None))
    assert time.monotonic() - began > 1.0
    assert lines[0] == "the last backup, of step 96; Ctrl-C skips it"
    assert lines[1].endswith("): the next try is in 1 s")
    assert lines[2].startswith("backed up step 96 to ann/backup: ")
    assert len(lines) == 3


def test_what_would_fail_again_is_not_tried_again_at_the_end(in_processes, run, hub):
    hub.fail("GET /api/models/", 403, said="Private repository storage limit reached")
    in_processes._newest = verify(run.checkpoint(STEPS))
    lines: list[str] = []
    in_processes.finish(lines.append, Stop(None))
    assert "has no room left there: delete a repository or squash" in lines[1]
    told = f"warning: ann/backup lacks the end of this run, which is whole in {run.path}: "
    assert lines[2] == f"{told}dqn-train --resume {run.path} --hub-backup ann/backup sends it"
    assert len(lines) == 3


def test_the_end_of_a_run_that_has_finished_is_sent_by_the_command_that_is_named(
    in_processes, run, hub, monkeypatch, tmp_path, capsys
):
    hub.fail("GET /api/models/", 403, times=1)
    in_processes._newest = verify(run.checkpoint(STEPS))
    lines: list[str] = []
    in_processes.finish(lines.append, Stop(None))
    named = re.search(r": dqn-train (--resume .* --hub-backup ann/backup) sends it$", lines[-1])[1]
    hub.fail("POST /api/models/.*/commit", 403, times=1)
    assert main(shlex.split(named)) == 2
    assert "does not let this token write" in capsys.readouterr().err.splitlines()[-1]
    assert not list(run.path.glob("*.unfinished"))
    assert main(shlex.split(named)) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("backed up step 96 to ann/backup: ")
    assert has_finished(read_manifest(fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")))
    assert main([*shlex.split(named), "--time-limit", "1s"]) == 2
    assert "has finished its 96 steps; to train on, give a larger -n" in capsys.readouterr().err


@pytest.mark.usefixtures("hub")
def test_what_is_sent_later_has_the_patience_of_a_training_and_a_name_that_a_document_holds(run):
    from huggingface_hub import get_session

    backup = HubBackup(new_target(REPO, None, None))
    backup.check(STEPS)
    backup.send(run)
    assert get_session().timeout.read == hub_module.SILENCE_S
    long = Run(run.path.rename(run.path.with_name("x" * 201)))
    with pytest.raises(UserError, match="x cannot be backed up by this name: String should have"):
        backup.send(long)
    assert not list(long.path.glob("*.unfinished"))


@pytest.mark.usefixtures("in_processes")
def test_a_resume_that_makes_no_step_sends_what_is_missing(run, hub):
    backup = HubBackup(new_target(REPO, 600.0, None))  # none is due in that time
    options = TrainOptions(progress=False, until_steps=200, time_limit_s=0.0, backup=backup)
    assert resume(run, load_config(run.config_file), options=options).steps == STEPS
    assert hub.repositories[REPO].messages[-1] == "step 96 of dqn/Breakout_1"


def test_a_run_that_ends_by_an_error_waits_for_its_backup(in_processes, hub, tmp_path, capsys):
    diverges = SETTINGS | {"learning_rate": 1e30, "max_grad_norm": None, "save_freq": 20}
    config = resolve(env="Breakout", algo="dqn", overrides=diverges).config
    options = TrainOptions(progress=False, backup=in_processes)
    with pytest.raises(UserError, match="training has diverged"):
        train(config, log_folder=tmp_path / "home", options=options)
    assert hub.repositories[REPO].messages[-1].startswith("step 20 of dqn/Breakout_")
    assert "\nbacked up step 20 to ann/backup: " in capsys.readouterr().out


def test_a_public_repository_is_said_once_by_whatever_meets_it_first(in_processes, run, hub):
    hub.add(REPO, {})
    warning = f"warning: {hub.url}/ann/backup is public"
    assert [line == warning for line in in_processes.send(run)] == [False, True]
    assert warning not in in_processes.send(run)
    named = HubBackup(read_target(run))
    named.check(STEPS)
    assert warning in named.begin(run)
    assert warning not in named.send(run)


class Killing:
    """Kills a command before a request of its is done, or before it hears that it is."""

    def __init__(self, hub: HubStandin, moment: float) -> None:
        self._hub, self._moment = hub, moment
        self._has_started = threading.Event()
        self.num_moments = 0

    def __call__(self, child: Child) -> None:
        self._child = child
        self._has_started.set()
        child.wait(DEADLINE_S)
        assert child.returncode == -signal.SIGKILL

    def __enter__(self) -> "Killing":
        self._hub.breaks_off = self._breaks_off
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.breaks_off = lambda: False

    def _breaks_off(self) -> bool:
        with self._hub.changing:
            self.num_moments += 1
        if self.num_moments <= self._moment:
            return False
        self._has_started.wait(DEADLINE_S)
        self._child.send_signal(signal.SIGKILL)
        return True


MOMENTS = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)


@MOMENTS
def test_killed_while_it_sends_the_newest_whole_checkpoint_is_there(run, hub, tmp_path, seed):
    Uploads(run)(HALF)
    half = hub.repositories[REPO].files()
    command = ["--resume", str(run.path), "--hub-backup", REPO]
    computer, found = Computer(tmp_path, hub, "hf_write"), []
    with Killing(hub, math.inf) as counting:
        assert main(command) == 0
    last = counting.num_moments - 1  # before the commit is answered
    for moment in (random.Random(seed).randrange(last - 1), last - 1, last):
        hub.lfs.clear()
        hub.add(REPO, half, private=True)
        with Killing(hub, moment) as kill:
            kill(computer.start("train", *command))
        fetched = fetch_run(f"hf://{REPO}", log_folder=tmp_path / f"logs{moment}")
        found += fetched.checkpoint_steps()
        assert verify(fetched.checkpoint(found[-1])).step == found[-1]
    assert found == [HALF, HALF, STEPS]
    assert main(command) == 0, "and what a killed one left is in nobody's way"
    assert not list(run.path.glob("*.unfinished"))


@MOMENTS
def test_killed_while_it_fetches_it_leaves_no_run_and_the_next_one_fetches(
    good, hub, tmp_path, monkeypatch, seed
):
    from huggingface_hub import constants

    hub.add(REPO, good, private=True)
    with Killing(hub, math.inf) as counting:
        fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    last = counting.num_moments - 1  # before the last answer
    for moment in (random.Random(seed).randrange(last), last):
        computer = Computer(tmp_path / str(moment), hub, "hf_write")
        with Killing(hub, moment) as kill:
            kill(computer.start("train", "--resume", f"hf://{REPO}", "-n", "200", "--no-progress"))
        assert not list(computer.logs.glob("*/*_1"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(computer.cache))
        fetched = fetch_run(f"hf://{REPO}", log_folder=computer.logs)
        assert verify(fetched.checkpoint(STEPS)).step == STEPS


def test_failures_in_a_row_are_followed_by_longer_and_longer_pauses():
    backup = HubBackup(new_target(REPO, 100.0, None))
    for _ in range(5):
        backup._failed(1, Outcome(error="why"))
    waits = [re.search(r"next checkpoint(.*) tries again$", line)[1] for line in backup._news]
    assert waits == ["", *(f" in {seconds} s or later" for seconds in (15, 45, 100, 100))]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=9;t=55'}, 0),
        ({"RateLimit": '"api";r=0;t=55', "Retry_After": "7"}, 55),
    ],
)
def test_a_refusal_says_for_how_long_to_wait(hub, headers, seconds):
    hub.fail("GET /api/models/", 429, **headers)
    with pytest.raises(UserError) as caught:
        hub_module.look_up(REPO)
    assert hub_module.seconds_to_wait(caught.value) == seconds


def test_an_upload_that_is_given_up_says_so(monkeypatch, capsys):
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    backup_upload._give_up()
    said = Outcome.read(json.loads(capsys.readouterr().out))
    assert (said.error, said.may_pass, ended) == (
        "given up after 60 minutes; what has arrived is not sent again", True, [1]
    )  # fmt: skip


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
    here.backup._known_step = STEPS  # as far, on another way
    with pytest.raises(UserError, match="step 96 of dqn/Breakout_1, which went on elsewhere"):
        here(STEPS)
    with pytest.raises(UserError, match="which went on elsewhere"):
        HubBackup(read_target(run)).check(STEPS)
    HubBackup(read_target(away.run)).check(STEPS)  # goes on there, in another process


def test_a_run_that_has_gone_back_and_was_killed_has_not_gone_on_elsewhere(run, hub):
    backed_up(run)
    Uploads(run)  # goes back, and is killed before its first upload
    shutil.rmtree(run.checkpoint(STEPS))
    again = Uploads(run)
    again.backup.check(HALF)
    again(HALF)
    assert [each.step for each in document_of(hub.repositories[REPO].files()).checkpoints] == [HALF]


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


def test_a_hub_that_accepts_and_is_silent_is_not_waited_for(run, hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr("dqn_zoo.sharing.hub_answers.PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(UserError, match="cannot be reached"):
            fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
        backup = HubBackup(new_target(REPO, None, None))
        backup.check()
        assert "cannot be reached" in list(backup.begin(run))[1]


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
    assert read_target(fetched) == read_target(run).model_copy(update={"known_step": STEPS})
    assert not list((tmp_path / "cache").glob("models--*/snapshots/*"))
    for name in ("config.yml", "model.safetensors", "progress.csv", "episodes.csv"):
        assert (fetched.path / name).read_bytes() == (run.path / name).read_bytes()
    assert verify(fetched.checkpoint(STEPS)).files == verify(run.checkpoint(STEPS)).files
    again = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    assert again == fetched
    assert "nothing is fetched" in capsys.readouterr().out


def test_a_run_here_that_is_damaged_is_no_reason_to_fetch_nothing(good, hub, tmp_path):
    hub.add(REPO, good)
    first = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    (first.checkpoint(STEPS) / "rows.z").write_bytes(b"")
    second = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs")
    assert second != first
    assert verify(second.checkpoint(STEPS)).step == STEPS


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


def test_a_run_here_that_parted_from_what_went_on_elsewhere_is_left_alone(run, hub, tmp_path):
    uploads = Uploads(run)
    uploads(HALF)
    there = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "there")
    here = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "here")
    for each in (there, here):  # both went on
        shutil.copytree(run.checkpoint(STEPS), each.checkpoint(STEPS))
    Uploads(there)(STEPS)
    fetched = fetch_run(f"hf://{REPO}", log_folder=tmp_path / "here")
    assert fetched != here
    assert fetch_run(f"hf://{REPO}", log_folder=tmp_path / "here") == fetched


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


def signed(files: Files, version: int = 2, **changed: bytes) -> Files:
    """Return a backup whose newest checkpoint has other files, with every digest made to fit."""
    document = json.loads(files[BACKUP])
    named = contents(files) | {key.replace("__", "."): value for key, value in changed.items()}
    manifest = json.loads(named.pop(MANIFEST))
    del manifest["sha256"]
    manifest["format_version"] = version
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
    "numbers that PyTorch does not compute with": (
        lambda files: signed(
            files, optimizer__safetensors=save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)})
        ),
        "optimizer.safetensors: a holds torch.float8_e4m3fn",
    ),
    "a name that a terminal would obey": (
        lambda files: signed(
            files, optimizer__safetensors=save({"\x1b[2J": torch.full((1,), math.nan)})
        ),
        "1 of the 1 numbers in \\x1b[2J are not finite",
    ),
    "a checkpoint of a newer version": (
        lambda files: signed(files, version=3),
        ": it has checkpoint format 3 and this version reads up to 2; upgrade dqn_zoo",
    ),
    "a state that fills the memory": (
        lambda files: signed(files, state__json=b"," * (2**23 + 1)),
        "state.json holds more than 8,388,608 values",
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
        ": config.yml, line 1: nested too deeply",
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
    assert read_target(fetched).known_step >= STEPS
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


def test_a_run_that_has_finished_is_refused_before_it_is_downloaded(good, hub, tmp_path):
    hub.add(REPO, good)
    hub.requests.clear()
    with pytest.raises(UserError, match=rf"has finished its 96 steps.*--resume hf://{REPO} -n 192"):
        fetch_run(f"hf://{REPO}", log_folder=tmp_path / "logs", may_be_finished=False)
    manifest = f"files/{document_of(good).newest.run_files['manifest.json'].sha256}"
    assert all(manifest in line for line in hub.requests if "/files/" in line)
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
