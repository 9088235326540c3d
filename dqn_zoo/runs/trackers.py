"""Weights & Biases and Trackio: one more outlet of what a run logs, and never needed by it.

Both take what they are given into a queue and write or send it in a process or thread of their own.
They are called in a thread that a run does not have to wait for: one that hangs is left behind.
The first failure switches a tracker off with one line.
"""

import contextlib
import io
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeVar

import psutil

from dqn_zoo.errors import UserError
from dqn_zoo.runs.logfiles import Warn
from dqn_zoo.runs.manifest import Machine, Manifest, Tracker, Tracking
from dqn_zoo.system import shell
from dqn_zoo.system.documents import DocumentError, checked
from dqn_zoo.system.extras import need

DEFAULT_PROJECT = "dqn-zoo"

START_TIMEOUT_S = 30.0
"""A server of Weights & Biases that has not answered by then is not waited for: what is logged
stays on this disk. Trackio takes no such limit.
"""

END_TIMEOUT_S = 60.0
"""The same for what is still to be sent when the training is over."""

BEGIN_S, TAKE_S, END_S = 2 * START_TIMEOUT_S, 10.0, END_TIMEOUT_S + 30.0
"""How long a run waits: for a tracker to begin, to take what is logged into its queue, and to end.
"""

T = TypeVar("T")


class TrackTo(NamedTuple):
    """Where the user wants a new run tracked.

    Attributes:
        tracker: a key of `TRACKERS`.
        project: that the run belongs to.
        entity: user or team whose project it is; None: the own. Trackio has none.
        group: of runs in the project.
        tags: of the run.
    """

    tracker: str
    project: str = DEFAULT_PROJECT
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()


def import_tracker(tracker: str) -> ModuleType:
    """Import the package of a tracker, which has its name.

    Raises:
        UserError: it is missing or broken, or no tracker.
    """
    if tracker not in TRACKERS:  # before anything of that name is run
        raise UserError(f"--track {tracker}: expected one of {', '.join(TRACKERS)}")
    need(tracker, f"--track {tracker}")
    return import_module(tracker)


def tracking_of(to: TrackTo, *, env: str, algo: str, seed: int) -> Tracking:
    """Return what the manifest of a new run says of its tracking; the name is RL-Zoo's.

    Raises:
        UserError: the manifest could not be read again.
    """
    tracking = {
        "tracker": to.tracker,
        "project": to.project,
        "entity": to.entity,
        "group": to.group,
        "tags": list(to.tags),
        "name": f"{env}__{algo}__{seed}__{int(time.time())}",
        "id": uuid.uuid4().hex[:8],
    }
    try:
        return checked(tracking, Tracking, "what is tracked")
    except DocumentError as error:
        what = str(error).partition(": ")[2]
        raise UserError(f"--track: names are one line of at most 200 characters; {what}") from error


class TrackedRun(Protocol):
    """An open run of a tracker."""

    def log(self, steps: int, values: Mapping[str, Any]) -> None:
        """Take points of curves, by tag."""

    def film(self, file: Path) -> object:
        """Return what `log` takes for a film; the file may vanish after that."""

    def finish(self) -> None:
        """Store or send what is left."""


Start = Callable[[Any, Tracking, Mapping[str, Any], Path], tuple[TrackedRun, str]]


class TrackedLog:
    """The outlet of a run to its tracker; no method raises.

    Args:
        tracking: from the manifest.
        settings: shown beside the curves; see `settings_shown`.
        folder: of the run; what a tracker stores beside it lies there.
        say: called with one line: where the run is tracked, or why it no longer is.
    """

    def __init__(
        self, tracking: Tracking, settings: Mapping[str, Any], *, folder: Path, say: Warn
    ) -> None:
        self._tracker = tracking["tracker"]
        self._say = say
        self._run: TrackedRun | None = None
        self._thread = _Thread(self._tracker)

        def start() -> tuple[TrackedRun, str]:
            package = import_tracker(self._tracker)
            return TRACKERS[self._tracker](package, tracking, settings, folder)

        self._starting: Future[tuple[TrackedRun, str]] | None
        with _unprinted():
            self._starting = self._thread.begin(start)
            wait([self._starting], BEGIN_S)
        self._take_up()
        if self._starting is not None:
            say(
                f"{self._tracker} has not begun in {BEGIN_S:g} s: the run goes on, untracked until "
                "it does"
            )

    @property
    def is_on(self) -> bool:
        """Whether what is logged arrives somewhere."""
        return self._run is not None

    def purge(self, steps: int) -> None:
        """Do nothing: no tracker forgets; an exact resume logs the same points again."""

    def scalars(self, steps: int, values: Mapping[str, float]) -> None:
        """Take one point for each tag."""
        self._take_up()
        run = self._run
        if run is not None and values:
            with self._guarded():
                self._wait_for(lambda: run.log(steps, values), TAKE_S)

    def film(self, steps: int, tag: str, file: Path) -> None:
        """Take a film; the file may vanish after that."""
        run = self._run
        if run is not None:
            with self._guarded():
                self._wait_for(lambda: run.log(steps, {tag: run.film(file)}), TAKE_S)

    def close(self) -> None:
        """Finish; what cannot be sent in time stays on this disk."""
        self._take_up()
        if self._run is not None:
            with self._guarded():
                self._wait_for(self._run.finish, END_S)
            self._run = None
        starting = self._starting
        if starting is not None:
            _end_processes(self._tracker)
            self._thread.begin(lambda: starting.result()[0].finish())  # if it begins after all
            self._say(f"{self._tracker} has not begun: nothing of this run is there")
        self._thread.end()

    def _take_up(self) -> None:
        """Take the run of the tracker as soon as it is there."""
        starting = self._starting
        if starting is not None and starting.done():
            self._starting = None
            with self._guarded():
                self._run, where = starting.result()
                self._say(f"tracked by {self._tracker}: {where}")

    def _wait_for(self, call: Callable[[], object], seconds: float) -> None:
        """Let the tracker do something.

        Raises:
            _HangsError: it takes too long.
        """
        with _unprinted():
            done = self._thread.begin(call)
            wait([done], seconds)
        if not done.done():
            _end_processes(self._tracker)
            raise _HangsError(f"it has not answered in {seconds:g} s")
        done.result()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: it is not worth a training
            run, self._run = self._run, None
            if run is not None and not isinstance(error, _HangsError):
                with contextlib.suppress(Exception):
                    # Else it would try, and complain, when Python ends.
                    self._wait_for(run.finish, END_S)
            self._say(f"{self._tracker} is switched off, the run goes on: {_one_line(error)}")


class _HangsError(Exception):
    """A tracker does not come to an end with what it was asked."""


class _Thread:
    """Does one call after another; Python does not wait for it when it ends.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def begin(self, call: Callable[[], T]) -> Future[T]:
        """Begin with the call and return at once."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(do)
        return future

    def end(self) -> None:
        """End behind what was begun."""
        self._calls.put(None)

    def _work(self) -> None:
        while (do := self._calls.get()) is not None:
            do()


def _end_processes(tracker: str) -> None:
    """End what a tracker that hangs has started, which would be waited for when Python ends."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(tracker):
                process.kill()


def settings_shown(settings: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return what a tracker shows beside the curves: every setting, and the machine."""
    keys = [key for key in Machine.__annotations__ if key in manifest]
    return {**settings, "machine": {key: manifest[key] for key in keys}}  # type: ignore[literal-required]


class _Wandb:
    """A run of Weights & Biases, against `global_step` as RL-Zoo's curves are."""

    def __init__(self, package: Any, run: Any) -> None:
        self._package = package
        self._run = run
        run.define_metric("global_step")
        run.define_metric("*", step_metric="global_step")

    def log(self, steps: int, values: Mapping[str, Any]) -> None:
        self._run.log({"global_step": steps, **values})

    def film(self, file: Path) -> object:
        return self._package.Video(str(file), format="mp4")

    def finish(self) -> None:
        try:
            self._run.finish()
        finally:
            self._package.teardown()


def _start_wandb(
    wandb: Any, tracking: Tracking, settings: Mapping[str, Any], folder: Path
) -> tuple[TrackedRun, str]:
    def open_run(mode: str | None) -> Any:
        return wandb.init(
            mode=mode,
            dir=folder,
            project=tracking["project"],
            entity=tracking["entity"],
            group=tracking["group"],
            tags=tracking["tags"],
            name=tracking["name"],
            id=tracking["id"],
            resume="allow",
            config=dict(settings),
            settings=wandb.Settings(
                silent=True,
                console="off",  # the live display is no log
                init_timeout=START_TIMEOUT_S,
                finish_timeout=END_TIMEOUT_S,
                disable_code=True,
            ),
        )

    wandb.setup(settings=wandb.Settings(silent=True))
    mode, trouble = os.environ.get("WANDB_MODE"), ""
    try:
        # Without a key it would ask for one, and nobody may be there to answer.
        if mode not in ("offline", "disabled") and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        run = open_run(mode)
    except Exception as error:
        if mode == "offline":
            raise
        trouble = f"its server does not take it ({_one_line(error)}); "
        wandb.teardown()  # else the id is taken by the run that did not open
        wandb.setup(settings=wandb.Settings(silent=True))
        run = open_run("offline")
    sync = f"`wandb sync {shell.quoted(Path(run.dir).parent)}`"
    where = f"offline; {sync} sends it" if run.offline else run.url
    return _Wandb(wandb, run), f"{trouble}{where}"


class _Trackio:
    """A run of Trackio; it lies where `trackio show` looks for it."""

    def __init__(self, package: Any, run: Any) -> None:
        self._package = package
        self._run = run

    def log(self, steps: int, values: Mapping[str, Any]) -> None:
        self._run.log(dict(values), step=steps)

    def film(self, file: Path) -> object:
        return self._package.Video(file)

    def finish(self) -> None:
        self._package.finish()


def _start_trackio(
    trackio: Any, tracking: Tracking, settings: Mapping[str, Any], folder: Path
) -> tuple[TrackedRun, str]:
    project = tracking["project"]
    run = trackio.init(
        project,
        name=tracking["name"],
        group=tracking["group"],
        resume="allow",
        config={**settings, "tags": tracking["tags"]},
        embed=False,
    )
    show = f"`trackio show --project {shell.quoted(project)}`"
    return _Trackio(trackio, run), f"{show} shows {tracking['name']}"


def _unprinted() -> contextlib.AbstractContextManager[object]:
    """Keep what a tracker prints off the screen: a line of ours says it."""
    return contextlib.redirect_stdout(io.StringIO())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


TRACKERS: dict[Tracker, Start] = {"wandb": _start_wandb, "trackio": _start_trackio}
"""How a run is opened, and in words where it is seen. Each tracker is called as its package."""
