"""A run backs its checkpoints up on the Hub while it trains; each upload is a process of its own.

One upload at a time, the next no earlier than asked for: a checkpoint that comes meanwhile is not
backed up. Whatever goes wrong is a line, and the next checkpoint tries again.
"""

import json
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import MANIFEST, Checkpoint, newest_checkpoint
from dqn_zoo.runs.run import UNFINISHED, Run, lock
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.backup_files import RUN_FILES, Document, stored_as
from dqn_zoo.sharing.backup_target import Target
from dqn_zoo.sharing.backup_upload import JOB, Job, Outcome, check_owner, read_document, upload
from dqn_zoo.system import shell
from dqn_zoo.system.files import link_or_copy, replace_file
from dqn_zoo.system.processes import apart, python_module
from dqn_zoo.system.signals import Stop
from dqn_zoo.training.rates import about

LAST_S = 300.0
"""How long the end of a run waits for its last upload."""

AGAIN_S = 5.0
"""Between two tries of the last upload, where the Hub asks for no longer time."""

_PAUSE_S = 15.0


class HubBackup:
    """Backs one run up; see `training.backup.Backup`.

    Args:
        target: where to.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._writer = secrets.token_hex(16)
        self._known_step = target.known_step
        self._newest: Checkpoint | None = None
        self._run = Run(Path())
        self._upload: _Upload | None = None
        self._last: Document | None = None
        self._last_commit: str | None = None
        self._next_at = self._claim_at = self._held_until = 0.0
        self._failures = 0
        self._may_succeed = self._has_ended = False
        self._has_told_of_wait = self._has_told_of_public = False
        self._news: list[str] = []

    def check(self, known_step: int = 0) -> None:
        """Find out before a training what would keep every upload from succeeding.

        Args:
            known_step: the newest checkpoint that the run has.

        Raises:
            UserError: the token may not write there, or the repository is another run's. A Hub that
                only does not answer now is a line when the run begins.
        """
        owner, _, name = self._target.repo_id.partition("/")
        try:
            hub.choose_owner(hub.read_account(), owner, name, instead="name another USER/REPO")
            remote = hub.look_up(self._target.repo_id)
            if remote is not None:
                check_owner(
                    remote,
                    read_document(remote),
                    run_id=self._target.run_id,
                    writer=self._writer,
                    known=max(known_step, self._known_step),
                    writers=self._target.writers,
                )
                self._warn_if_public(not remote.private)
        except UserError as error:
            if not hub.may_pass(error):
                raise
            self._news.append(f"warning: {_without_remedy(error)}; the first checkpoint tries it")

    def begin(self, run: Run) -> list[str]:
        """Note in the run where it is backed up to; it stays so when it is resumed."""
        self._run = run
        self._known_step = max(self._known_step, *run.checkpoint_steps(), 0)
        writers = self._target.writers
        if writers is not None:
            writers = [*writers, self._writer]
        update = {"known_step": self._known_step, "writers": writers}
        target = self._target.model_copy(update=update)
        self._claim_at = time.monotonic() + self._target.every_s
        repo, every_s = self._target.repo_id, self._target.every_s
        try:
            shutil.rmtree(self._aside, ignore_errors=True)
            replace_file(run.backup_file, target.model_dump_json(indent=1).encode())
        except OSError as error:
            self._news.append(f"warning: {run.backup_file} cannot be written ({error.strerror})")
        return [
            f"backed up to {hub.page(repo)} every {about(every_s)}: "
            f"--resume hf://{repo} goes on with it on any computer",
            *self.news(),
        ]

    def claims_save(self) -> bool:
        """Return whether the time for a backup has come; once each time."""
        now = time.monotonic()
        if self._upload is not None or now < max(self._claim_at, self._next_at):
            return False
        self._claim_at = now + self._target.every_s
        return True

    def take(self, checkpoint: Checkpoint) -> None:
        """Begin to upload a checkpoint if it is time and no upload is under way."""
        if self._newest is not None and self._newest.step == checkpoint.step:
            return
        self._newest = checkpoint
        now = time.monotonic()
        if self._upload is not None and now >= self._next_at and not self._has_told_of_wait:
            self._has_told_of_wait = True
            self._news.append(
                f"step {checkpoint.step:,} is not backed up: the upload of step "
                f"{self._upload.step:,} has been under way for {now - self._upload.began:.0f} s"
            )
        if self._upload is None and now >= self._next_at:
            self._begin_upload(checkpoint)

    def news(self) -> list[str]:
        """Return what has become of uploads since."""
        self._look_after_upload()
        told, self._news = self._news, []
        return told

    def finish(self, say: Callable[[str], None], stop: Stop) -> None:
        """Upload the last checkpoint and the end of the logs, in `LAST_S` at most."""
        if self._newest is not None:
            until = time.monotonic() + LAST_S
            say(f"the last backup, of step {self._newest.step:,}; Ctrl-C skips it")
            with stop.waiting() as is_waiting:
                self._finish(self._newest, say, lambda: is_waiting() and time.monotonic() < until)
        for line in self.news():
            say(line)

    def send(self, run: Run) -> list[str]:
        """Upload the newest checkpoint of a run that nobody trains; return lines for the user.

        Raises:
            UserError: it is trained after all, there is no checkpoint, or the upload failed.
        """
        with lock(run):
            newest, skipped = newest_checkpoint(run.checkpoints)
            if newest is None:
                raise UserError(f"{run.checkpoints} holds no checkpoint to back up")
            self.begin(run)
            began = time.monotonic()
            try:
                self._put_aside(newest)
                outcome = upload(self._job())
            except ValidationError as error:  # a folder whose name no document may hold
                reason = error.errors()[0]["msg"]
                raise UserError(f"{run.path} cannot be backed up by this name: {reason}") from error
            finally:
                shutil.rmtree(self._aside, ignore_errors=True)
        self._succeeded(newest.step, outcome, time.monotonic() - began)
        return [*(f"skipped {each.path}: {each.reason}" for each in skipped), *self.news()]

    def _finish(
        self, newest: Checkpoint, say: Callable[[str], None], goes_on: Callable[[], bool]
    ) -> None:
        self._has_ended = self._may_succeed = True
        self._wait(goes_on)
        while self._may_succeed and goes_on():
            if time.monotonic() < self._held_until:
                time.sleep(0.02)
                continue
            self._begin_upload(newest)
            self._wait(goes_on)
            if self._upload is None and not self._failures:
                return
            for line in self.news():
                say(line)
        if self._upload is not None:
            self._upload.end()
            self._upload = None
            shutil.rmtree(self._aside, ignore_errors=True)
        repo, path = self._target.repo_id, self._run.path
        again = shell.command("dqn-train", "--resume", path, "--hub-backup", repo)
        self._news.append(
            f"warning: {repo} lacks the end of this run, which is whole in {path}: {again} sends it"
        )

    @property
    def _aside(self) -> Path:
        return self._run.path / f"backup{UNFINISHED}"

    def _wait(self, goes_on: Callable[[], bool]) -> None:
        """Wait for an upload that is under way, and note its end."""
        while self._upload is not None and goes_on():
            self._look_after_upload()
            time.sleep(0.02)

    def _look_after_upload(self) -> None:
        if self._upload is not None and self._upload.has_ended():
            self._note_end(self._upload)
            self._upload = None

    def _begin_upload(self, checkpoint: Checkpoint) -> None:
        now = time.monotonic()
        self._next_at = self._claim_at = now + self._target.every_s
        self._has_told_of_wait = False
        try:
            self._put_aside(checkpoint)
            self._upload = _Upload(self._job(), checkpoint.step)
        except OSError as error:
            reason = f"{error.filename or self._aside}: {error.strerror}"
            self._failed(checkpoint.step, Outcome(error=reason))
        except ValueError as error:  # a folder whose name no document may hold
            self._failed(checkpoint.step, Outcome(error=" ".join(str(error).split())[:200]))

    def _put_aside(self, checkpoint: Checkpoint) -> None:
        """Give the files a second name: the run removes its older checkpoints meanwhile."""
        shutil.rmtree(self._aside, ignore_errors=True)
        for part in ("checkpoint", "run"):
            (self._aside / part).mkdir(parents=True)
        there = set() if self._last is None else self._last.stored()
        new = [name for name, entry in checkpoint.files.items() if stored_as(entry) not in there]
        for name in (*new, MANIFEST):
            link_or_copy(checkpoint.path / name, self._aside / "checkpoint" / name)
        for name in RUN_FILES:  # they grow, or are replaced
            if (self._run.path / name).exists():
                shutil.copyfile(self._run.path / name, self._aside / "run" / name)

    def _job(self) -> Job:
        return Job(
            folder=str(self._aside),
            repo_id=self._target.repo_id,
            run_id=self._target.run_id,
            writer=self._writer,
            known_step=self._known_step,
            writers=self._target.writers,
            name=f"{self._run.path.absolute().parent.name}/{self._run.name}",
            every_s=self._target.every_s,
            last=self._last,
            last_commit=self._last_commit,
        )

    def _note_end(self, upload: "_Upload") -> None:
        outcome = upload.outcome()
        if outcome.error is not None or outcome.document is None:
            self._failed(upload.step, outcome)
        else:
            self._succeeded(upload.step, outcome, time.monotonic() - upload.began)

    def _succeeded(self, step: int, outcome: Outcome, seconds: float) -> None:
        assert outcome.document is not None, "a failure has none"
        self._failures, self._held_until = 0, 0.0
        self._last, self._last_commit = outcome.document, outcome.commit
        num_files = len(outcome.document.newest.stored())
        self._news.append(
            f"backed up step {step:,} to {self._target.repo_id}: "
            f"{outcome.num_bytes / 1e6:,.1f} MB in {seconds:.0f} s, "
            f"{outcome.num_files} of {num_files} files were new"
        )
        self._warn_if_public(outcome.is_public)

    def _warn_if_public(self, is_public: bool) -> None:
        """Say once that anybody may see the backup, command lines included."""
        if is_public and not self._has_told_of_public:
            self._has_told_of_public = True
            self._news.append(f"warning: {hub.page(self._target.repo_id)} is public")

    def _failed(self, step: int, outcome: Outcome) -> None:
        """Note a failure; pauses grow with their number: what is sent in vain costs, too."""
        self._may_succeed = outcome.may_pass or self._last is not None  # the next one goes whole
        self._last, self._last_commit = None, None
        pause_s = min(self._target.every_s, _PAUSE_S * (2 ** min(self._failures, 30) - 1))
        self._failures += 1
        wait_s = max(outcome.wait_s, AGAIN_S if self._has_ended else pause_s)
        self._next_at = time.monotonic() + wait_s
        self._held_until = time.monotonic() + max(outcome.wait_s, AGAIN_S)
        wait = f" in {wait_s:.0f} s or later" if wait_s >= 1.0 else ""
        then = f": the next checkpoint{wait} tries again"
        if self._has_ended:
            then = f": the next try is in {wait_s:.0f} s" if self._may_succeed else ""
        reason = _without_remedy(outcome.error).removeprefix(f"{self._target.repo_id}: ")
        self._news.append(
            f"warning: step {step:,} was not backed up to {self._target.repo_id} ({reason}){then}"
        )


class _Upload:
    """The process that uploads a checkpoint."""

    def __init__(self, job: Job, step: int) -> None:
        self.step = step
        self.began = time.monotonic()
        file = Path(job.folder) / JOB
        file.write_text(job.model_dump_json(), encoding="utf-8")
        # Files, not pipes: nobody reads while training goes on, and a pipe holds 4 kB on Windows.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*python_module("sharing.backup_upload"), str(file)],
            stdin=subprocess.PIPE,  # closes when this process ends
            stdout=self._output,
            stderr=subprocess.STDOUT,
            **apart(),  # Ctrl-C ends the training, not the upload
        )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        self._process.kill()
        self.outcome()

    def outcome(self) -> Outcome:
        """Return what became of it, once it has ended."""
        self._process.communicate()
        with self._output as file:
            file.seek(0)
            output = file.read()
        lines = output.decode("utf-8", "replace").strip().splitlines()
        last = lines[-1] if lines else f"the upload ended with {self._process.returncode}"
        try:
            return Outcome.read(json.loads(last))
        except ValueError:
            return Outcome(error=last)


def _without_remedy(error: UserError | str | None) -> str:
    """Return what happened; what to do about it was meant for somebody who waits."""
    return re.sub(r": ([^:()]*, then )?run the same command again[^:()]*", " ", str(error)).strip()
