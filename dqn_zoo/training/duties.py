"""What is due between vector steps: logs, evaluations, checkpoints, the display.

Everything that is due follows from the number of steps alone, and is compared with what was done.
So a run that was stopped in the middle of its duties does the rest of them when it is resumed.
"""

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.play.evaluation import Game, evaluation_seeds
from dqn_zoo.play.session import film_beginning
from dqn_zoo.play.statistics import summarize
from dqn_zoo.runs.checkpoint import Checkpoint, write_checkpoint
from dqn_zoo.runs.metrics import FinishedEpisode, RunLog
from dqn_zoo.runs.run import Run, resume_with
from dqn_zoo.settings.protocols import FRAMES_PER_STEP
from dqn_zoo.system import machine
from dqn_zoo.system.files import replace_file
from dqn_zoo.system.signals import Stop
from dqn_zoo.training.backup import Backup
from dqn_zoo.training.display import Display, Status
from dqn_zoo.training.rates import Slowdown
from dqn_zoo.training.snapshot import snapshot
from dqn_zoo.training.trainer import Trainer

EARLY_S = 60.0
"""After so long of learning, and before it learns after so long of random play, a new run has a
checkpoint: to watch, to resume from."""

FILM_S = 10.0
"""How much of a game a tracker shows of the best evaluation so far: seconds of the console's."""


class _StoppedInEvaluationError(Exception):
    """The run was asked to stop while an evaluation was played."""


class Duties:
    """Does what is due between vector steps.

    `previous` is the checkpoint it was resumed from, `resume_flags` as in `TrainOptions`.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: Run,
        log: RunLog,
        display: Display,
        stop: Stop,
        *,
        previous: Checkpoint | None,
        backup: Backup,
        resume_flags: Mapping[str, str],
    ) -> None:
        self._trainer = trainer
        self._backup = backup
        self._run = run
        self._log = log
        self._display = display
        self._stop = stop
        self._previous = previous
        self._resume_flags = resume_flags
        self._saved_at = self._tried_at = previous.step if previous is not None else 0
        self._last_row = (trainer.elapsed_s, trainer.algorithm.steps)
        self._updates_at_row = trainer.algorithm.updates
        self._last_evaluation: float | None = None
        self._loss = self._q_mean = math.nan
        self._owes_best = False
        self._slowdown, self._told_slow = Slowdown(), False
        saves_early = previous is None and trainer.config.save_freq
        # When to save early, before it learns (False) and once it does (True).
        self._early_at = {} if saves_early else {False: math.inf, True: math.inf}

    def perform(self) -> None:
        """Log, evaluate, save and show: each if it is due."""
        trainer, config = self._trainer, self._trainer.config
        steps, section = trainer.algorithm.steps, trainer.stopwatch.section
        news = trainer.algorithm.take_news()
        if news is not None:
            self._display.message(news)
        if steps // config.log_interval > trainer.log_rows:
            trainer.log_rows = steps // config.log_interval
            with section("logging"):
                self._log_progress()
        if self.owes_evaluation():
            with section("evaluation"):
                self._evaluate()
        every = config.save_freq
        is_due = every and steps // every > self._tried_at // every
        if is_due or self._early_save_is_due() or self._backup.claims_save():
            self._save()
        for line in self._backup.news():
            self._display.message(line)
        if self._display.due():
            self._warn_of_slow_updates()
            self._show()

    def owes_evaluation(self) -> bool:
        """Return whether an evaluation is due: also one that a stop interrupted."""
        trainer, every = self._trainer, self._trainer.config.eval_freq
        return every > 0 and trainer.algorithm.steps // every > trainer.evaluations

    def _early_save_is_due(self) -> bool:
        """Return whether to save although no period of steps is over.

        Only this and a backup follow the clock: a save changes nothing of a run.
        """
        now, algorithm = time.monotonic(), self._trainer.algorithm
        return now >= self._early_at.setdefault(algorithm.updates > 0, now + EARLY_S)

    def _warn_of_slow_updates(self) -> None:
        """Say what helps where threads wait for each other because of other programs."""
        trainer = self._trainer
        if trainer.config.device != "cpu" or trainer.config.num_threads < 2 or self._told_slow:
            return
        update_s = trainer.stopwatch.seconds().get("update", 0.0)
        factor = self._slowdown.add(time.monotonic(), trainer.algorithm.updates, update_s)
        if factor is not None:
            self._told_slow = True
            again = resume_with(self._run.path, {**self._resume_flags, "--num-threads": "1"})
            self._display.message(
                f"updates take {factor:.1f} times as long as before; if other programs are busy, "
                f"one thread loses least to them: Ctrl-C, then {again} (not bit-exact)"
            )

    def note_games(self, games: list[FinishedEpisode]) -> None:
        """Write the training games that ended in this vector step."""
        trainer = self._trainer
        for game in games:
            with trainer.stopwatch.section("logging"):
                self._log.episode(game, steps=trainer.algorithm.steps, seconds=trainer.elapsed_s)

    def save_at_the_end(self) -> None:
        """Save where the run stops.

        Raises:
            UserError: if the checkpoint cannot be written; while a run goes on that is a warning.
        """
        steps = self._trainer.algorithm.steps
        if self._saved_at != steps and self._tried_at != steps:
            self._save()
        elif self._owes_best:
            self._try_to_write_best()
        if self._previous is not None:  # no new one may have come since its backup failed
            self._backup.take(self._previous)
        self._show()
        if self._saved_at != steps:
            again = resume_with(self._run.path, self._resume_flags)
            then = (
                f"{again} goes on from the one before"
                if self._run.checkpoint_steps()
                else "start it again: there is none before it"
            )
            raise UserError(
                f"the last checkpoint of {self._run.path} could not be written; free some room, "
                f"then {then}"
            )

    def _log_progress(self) -> None:
        trainer = self._trainer
        steps, elapsed_s = trainer.algorithm.steps, trainer.elapsed_s
        metrics = trainer.algorithm.take_metrics()
        self._refuse_divergence(metrics["loss"])
        self._updates_at_row = trainer.algorithm.updates
        self._loss, self._q_mean = metrics["loss"], metrics["q_mean"]
        row_s, row_steps = self._last_row
        self._last_row = (elapsed_s, steps)
        self._log.progress(
            metrics
            | {
                "steps": steps,
                "frames": steps * FRAMES_PER_STEP,
                "time_s": round(elapsed_s, 3),
                "steps_per_second": round((steps - row_steps) / max(elapsed_s - row_s, 1e-9), 1),
                "episodes": trainer.statistics.episodes,
                "return_mean": trainer.statistics.return_mean,
                "length_mean": trainer.statistics.length_mean,
                "epsilon": trainer.algorithm.epsilon,
                "updates": trainer.algorithm.updates,
                "memory_mb": round(machine.process_memory_bytes() / 1e6, 1),
            }
        )

    def check_finite(self) -> None:
        """Stop a run that has diverged, before its weights are evaluated or written.

        Raises:
            UserError: if updates were made since the last row and their mean loss is no number.
        """
        self._refuse_divergence(self._trainer.algorithm.mean_loss)

    def _refuse_divergence(self, loss: float) -> None:
        if self._trainer.algorithm.updates > self._updates_at_row and not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self._trainer.algorithm.steps:,}: training has "
                "diverged; start again with a lower learning_rate or a lower max_grad_norm"
            )

    def _evaluate(self) -> None:
        """Play the evaluation that is due; a stop in its midst leaves it to the resumed run."""
        trainer = self._trainer
        config, algorithm = trainer.config, trainer.algorithm
        assert config.seed is not None
        self.check_finite()
        played: list[Game] = []
        began = time.monotonic()

        def on_progress(_: int) -> None:
            if self._stop.reason() is not None:
                raise _StoppedInEvaluationError
            if self._display.due():
                self._show(f"evaluating, {len(played)} of {config.eval_episodes} games")

        try:
            games = trainer.evaluate(
                trainer.evaluations, on_progress=on_progress, on_game=played.append
            )
        except _StoppedInEvaluationError:
            return
        summary = summarize([game.score for game in games])
        self._last_evaluation = summary.mean
        # An untrained network that repeats one action can score high in a few games.
        learned = algorithm.played.have_learned(algorithm.updates)
        is_best = learned and (trainer.best.score is None or summary.mean > trainer.best.score)
        if is_best:
            trainer.note_best(summary.mean)
            self._try_to_write_best()
        self._log.evaluation(
            {
                "steps": algorithm.steps,
                "evaluation": trainer.evaluations,
                "episodes": summary.num_games,
                "mean": summary.mean,
                "std": summary.std,
                "mean_minus_std": summary.mean_minus_std,
                "min": summary.minimum,
                "max": summary.maximum,
                "epsilon": trainer.evaluation_settings.protocol.eval_epsilon,
                "seconds": round(time.monotonic() - began, 3),
                "is_best": is_best,
            }
        )
        if is_best and self._log.takes_films:
            self._film(evaluation_seeds(config.seed, trainer.evaluations, 1)[0])
        trainer.evaluations = algorithm.steps // config.eval_freq

    def _film(self, seed: int) -> None:
        """Film the beginning of a game by the rules of the evaluation, for the tracker."""
        trainer = self._trainer
        self._show("filming")
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "evaluation.mp4"
                if film_beginning(
                    file,
                    trainer.algorithm.q_values,
                    game=trainer.config.env,
                    settings=trainer.evaluation_settings,
                    seed=seed,
                    max_seconds=FILM_S,
                    goes_on=lambda: self._stop.reason() is None,
                ):
                    self._log.film(file, steps=trainer.algorithm.steps)
        except (OSError, UserError) as error:
            self._display.message(f"warning: the evaluation was not filmed ({error})")

    def _try_to_write_best(self) -> None:
        try:
            with self._trainer.stopwatch.section("saving"):
                self._write_best()
        except OSError as error:
            self._display.message(
                f"warning: {self._run.best_model_file} could not be written ({error.strerror}); "
                "it is tried again with the next checkpoint, which has the best weights, too"
            )

    def _write_best(self) -> None:
        self._owes_best = True
        replace_file(self._run.best_model_file, self._trainer.best_bytes())
        self._owes_best = False

    def _save(self) -> None:
        with self._trainer.stopwatch.section("saving"):
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        """Write a checkpoint and the last weights; a failure is a warning until the next is due.

        Raises:
            UserError: if the run has diverged; its last checkpoint from before stays the newest.
        """
        self.check_finite()
        steps = self._tried_at = self._trainer.algorithm.steps
        self._early_at[self._trainer.algorithm.updates > 0] = math.inf
        self._show("saving")
        previous = self._previous
        if previous is not None and not previous.path.exists():
            previous = None  # somebody made room
        try:
            files = snapshot(self._trainer, self._log.offsets(), previous)
            self._previous = write_checkpoint(
                self._run.checkpoints, steps, files, previous=previous
            )
            self._saved_at = steps
            self._trainer.write_weights(self._run)
            if self._owes_best:
                self._write_best()
            self._backup.take(self._previous)
        except OSError as error:
            what = "the weights" if self._saved_at == steps else "the checkpoint"
            if previous is not None and str(error.filename).startswith(str(previous.path)):
                self._previous = None  # it cannot be linked from: the next one is written whole
            older = "" if previous is None else f"; the one at step {previous.step:,} is untouched"
            self._display.message(
                f"warning: {what} at step {steps:,} could not be written ({error.strerror}){older}"
            )

    def _show(self, phase: str = "") -> None:
        with self._trainer.stopwatch.section("display"):
            self._display.update(self._status(phase))

    def _status(self, phase: str) -> Status:
        trainer = self._trainer
        steps = trainer.algorithm.steps
        return Status(
            steps=steps,
            frames=steps * FRAMES_PER_STEP,
            elapsed_s=trainer.elapsed_s,
            learning=trainer.algorithm.updates > 0,
            episodes=trainer.statistics.episodes,
            return_mean=trainer.statistics.return_mean,
            epsilon=trainer.algorithm.epsilon,
            loss=self._loss,
            q_mean=self._q_mean,
            memory_bytes=machine.process_memory_bytes(),
            last_evaluation=self._last_evaluation,
            best_evaluation=trainer.best.score,
            phase=phase,
        )
