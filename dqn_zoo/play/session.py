"""A trained agent at play: whose weights, by which rules, with which seeds."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.errors import UserError
from dqn_zoo.play.evaluation import Game, QValues, RunningGame, Turn, enjoy_seeds, evaluate, play
from dqn_zoo.play.film import Film
from dqn_zoo.play.weights import ONLINE, Kind, find_weights, load_weights, weights_note
from dqn_zoo.play.window import sdl_settings
from dqn_zoo.runs.checkpoint import DamagedError, newest_checkpoint, verify
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import Protocol
from dqn_zoo.system import shell
from dqn_zoo.system.files import digest

WeightsChoice = Literal["default", "best", "last", "last_checkpoint"] | int
"""`default` is the best model, or the final one where no evaluation chose a best; a number is the
step of a checkpoint."""


class Weights(NamedTuple):
    """Weights of a run.

    Attributes:
        file: they lie in; a run that still trains may write other weights there.
        name: what they are in words.
        steps: of training, where known.
        sha256: of the file when they were chosen.
    """

    file: Path
    name: str
    steps: int | None
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is about to be played.

    Attributes:
        run: whose agent.
        weights: which weights.
        config: the settings of the run, protocol and epsilon as they are played now.
        seed: the seeds of all games derive from it.
        num_games: full games; None: as many as `max_steps` allows.
        max_steps: no game begins once so many steps were played.
        num_envs: games played at once.
        num_threads: threads that share them; without a window, a film and `max_steps`.
        device: where the network lives.
        has_window: environment 0 is shown, at the speed of the console.
        is_filmed: environment 0 is recorded.
    """

    run: Run
    weights: Weights
    config: Config
    seed: int
    num_games: int | None
    max_steps: int | None = None
    num_envs: int
    num_threads: int
    device: str
    has_window: bool = False
    is_filmed: bool = False

    @property
    def settings(self) -> EnvSettings:
        """Return the rules, with the epsilon they are played with, and what the agent sees.

        A window or a film needs the gymnasium backend, whichever the run was trained on.
        """
        settings = EnvSettings.from_config(self.config)
        return replace(settings, backend="gymnasium") if self.is_watched else settings

    @property
    def is_watched(self) -> bool:
        """Whether there is a window or a film."""
        return self.has_window or self.is_filmed

    @property
    def protocol(self) -> Protocol:
        """Return the rules."""
        return self.settings.protocol

    def seeds(self) -> Sequence[int]:
        """Return a seed for every game there can be; a game has at least one step."""
        num_games = self.num_games if self.num_games is not None else self.max_steps
        assert num_games is not None
        return enjoy_seeds(self.seed, num_games)


def choose_weights(run: Run, choice: WeightsChoice, kind: Kind | None = None) -> Weights:
    """Return the weights of a run that are asked for: `kind` None means what evaluations played.

    The best online weights of a run that averages are the last.

    Raises:
        UserError: if the run has none of that kind, saying what it has.
    """
    if choice == "last_checkpoint":
        checkpoint, skipped = newest_checkpoint(run.checkpoints)
        if checkpoint is None:
            reasons = "; ".join(f"{passed.path.name}: {passed.reason}" for passed in skipped)
            raise UserError(
                f"{run.path} has no checkpoint that can be read ({reasons or 'none was written'}): "
                + _what_it_has(run)
            )
        return read_weights(
            find_weights(run, checkpoint.step, kind), f"checkpoint of step {checkpoint.step:,}"
        )
    if choice == "best" and not run.best_model_file.exists():
        raise UserError(
            f"{run.path} has no best model: no evaluation was made since it began to learn; "
            + _what_it_has(run)
        )
    if isinstance(choice, int):
        return _checkpoint_weights(run, choice, kind)
    wants_best = choice != "last" and run.best_model_file.exists()
    if wants_best and kind == ONLINE and weights_note(run.best_model_file).get("weights"):
        if choice == "best":
            raise UserError(
                f"evaluations of {run.path} chose among averaged weights: --load-last and "
                "--load-checkpoint STEP play online ones"
            )
        wants_best = False
    has_others = run.best_model_file.exists() or run.checkpoint_steps()
    if has_others and not wants_best and not run.model_file.exists():
        raise UserError(f"{run.path} has no finished model yet: {_what_it_has(run)}")
    name = "best model" if wants_best else "last model"
    return read_weights(find_weights(run, "best" if wants_best else "last", kind), name)


def weights_of_file(run: Run, file: Path) -> Weights:
    """Return the weights in a file of a run, under the name that `choose_weights` gives them."""
    last = "last model"
    names = {
        run.best_model_file: "best model", run.model_file: last, run.online_model_file: last
    }  # fmt: skip
    return read_weights(file, names.get(file, f"checkpoint {file.parent.name}"))


def with_rules(
    config: Config, *, protocol: str | None = None, epsilon: float | None = None
) -> Config:
    """Return the settings of a run under another protocol or epsilon; None: its own."""
    changes: dict[str, object] = {}
    if protocol is not None:
        changes |= {"protocol": protocol, "backend": "auto"}  # not every one serves it
    if epsilon is not None:
        changes["eval_epsilon"] = epsilon
    return config.model_copy(update=changes)


def read_weights(file: Path, name: str) -> Weights:
    """Return the weights in a file, under any name; of a run that averages, it says the kind.

    Raises:
        UserError: they are damaged.
    """
    load_weights(file)
    note = weights_note(file)
    kind = note.get("weights")
    return Weights(file, f"{kind} {name}" if kind else name, note.get("steps"), digest(file))


def check_unchanged(weights: Weights) -> None:
    """Make sure that a file still holds the weights that were chosen; call it once it was read.

    Raises:
        UserError: a training has written others meanwhile.
    """
    if digest(weights.file) != weights.sha256:
        raise UserError(f"{weights.file} was replaced while it was read: run the command again")


def play_session(
    session: Session,
    q_values: QValues,
    *,
    on_game: Callable[[Game], None],
    on_progress: Callable[[int], None],
    film: Film | None = None,
    on_turn: Callable[[Turn], None] | None = None,
) -> None:
    """Play the games of a session, in several threads where nobody watches and nothing is counted.

    `on_progress` is called several times a second, with the steps played so far; with `on_turn`,
    called after every step, all games are played in this thread.

    Raises:
        UserError: if no window can be opened, or the agent does not fit the game.
    """
    if not session.is_watched and session.max_steps is None and on_turn is None:
        evaluate(
            q_values,
            game=session.config.env,
            settings=session.settings,
            seeds=session.seeds(),
            num_envs=session.num_envs,
            num_threads=session.num_threads,
            on_game=on_game,
            on_progress=on_progress,
        )
        return
    steps_played = 0
    with closing(watch(session, q_values, film)) as turns:
        for turn in turns:
            if film is not None:
                caption(film, turn.games.get(0))
            if on_turn is not None:
                on_turn(turn)
            steps_played += len(turn.games)
            for game in turn.finished:
                on_game(game)
            on_progress(steps_played)


def watch(
    session: Session, q_values: QValues, film: Film | None = None
) -> Generator[Turn, None, None]:
    """Play a session in the calling thread and yield after every step, environment 0 filmed.

    Raises:
        UserError: as `play_session`.
    """
    settings = session.settings
    if session.has_window:
        settings = replace(settings, render_mode="human")
        os.environ.update(sdl_settings())
    if film is not None:
        settings = replace(settings, on_frame=film.on_frame)
    try:
        yield from play(
            q_values,
            game=session.config.env,
            settings=settings,
            seeds=session.seeds(),
            num_envs=session.num_envs,
            max_steps=session.max_steps,
        )
    except RuntimeError as error:
        if session.has_window and "SDL" in str(error):
            shown = [
                f"{name}={os.environ[name]}"
                for name in ("DISPLAY", "WAYLAND_DISPLAY")
                if os.environ.get(name)
            ]
            where = f"no display answers at {' or '.join(shown)}" if shown else "no display"
            raise UserError(
                f"no window can be opened ({error}; {where}): use --no-render, or --record for a "
                "film"
            ) from error
        raise


def film_beginning(
    path: Path,
    q_values: QValues,
    *,
    game: str,
    settings: EnvSettings,
    seed: int,
    max_seconds: float,
    goes_on: Callable[[], bool],
) -> bool:
    """Play a game until it ends or the film is long enough, and film it.

    The gymnasium backend plays, whichever the rules name; `goes_on` is asked after every step, and
    without its leave there is no film. `max_seconds` are at the speed of the console.

    Returns:
        Whether there is a film.

    Raises:
        UserError: nothing can be written, or ffmpeg is missing.
    """
    film = Film(path, max_seconds=max_seconds)
    filmed = replace(settings, backend="gymnasium", on_frame=film.on_frame)
    with closing(film), closing(play(q_values, game=game, settings=filmed, seeds=[seed])) as turns:
        for turn in turns:
            caption(film, turn.games.get(0))
            if not goes_on():
                return False
            if film.seconds >= max_seconds:
                break
        return film.close()


def caption(film: Film, game: RunningGame | None) -> None:
    """Write the frames of a step into a film, under the score; the film ends with the games."""
    if game is None:
        film.close()  # environment 0 has played its games
    else:
        film.caption(
            f"game {game.index + 1}   score {game.score:,.0f}   step {game.length_steps:,}"
        )


def _what_it_has(run: Run) -> str:
    """Say how the weights that a run does have are played."""
    if run.best_model_file.exists():
        return "--load-best plays its best model"
    if run.model_file.exists():
        return "--load-last plays its last model"
    checkpoint, _ = newest_checkpoint(run.checkpoints)
    if checkpoint is not None:
        return f"--load-last-checkpoint plays that of step {checkpoint.step:,}"
    resume = shell.command("dqn-train", "--resume", run.path)
    return f"it has no weights at all, {resume} trains it on"


def _checkpoint_weights(run: Run, step: int, kind: Kind | None) -> Weights:
    file = find_weights(run, step, kind)
    try:
        verify(file.parent)
    except DamagedError as error:
        raise UserError(
            f"{file.parent} is damaged ({error}): play another, {run.path} has "
            f"{', '.join(map(str, run.checkpoint_steps()))}"
        ) from error
    return read_weights(file, f"checkpoint of step {step:,}")
