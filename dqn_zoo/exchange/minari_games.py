"""Games as a Minari data set: what the agent saw, did and got, one episode a game.

    FOLDER/data/metadata.json     the rules, the agent, what rewards and observations are
    FOLDER/data/main_data.hdf5    the episodes, as Minari lays them out

Minari writes and reads them; here the observations are only told to be compressed. Two neighbours
share three of their four frames, which makes them thirty times smaller.
"""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dqn_zoo import __version__
from dqn_zoo.errors import UserError
from dqn_zoo.play.evaluation import Game, Turn
from dqn_zoo.play.session import Session
from dqn_zoo.system.extras import need
from dqn_zoo.system.files import move

UNFINISHED = ".unfinished"
CHUNK_STEPS = 256
"""What waits in memory: 7 MB of observations, however long a game is."""

SPARE_BYTES = 2**27
"""What stays free on the disk."""

_UNWRITABLE = (OSError, RuntimeError)
"""What a disk that refuses raises, in Python or in HDF5."""

_CHUNK_OBSERVATIONS = 16  # compressed together: a reader who wants one unpacks so many


class MinariGames:
    """A Minari data set that is written beside its name while one game after another is played.

    One environment plays them; nothing must be where the folder will be.

    Raises:
        UserError: Minari is missing, the name is none that it takes, or the folder cannot be made.
    """

    def __init__(self, folder: Path, session: Session, num_actions: int) -> None:
        check_minari(folder)
        import minari
        from minari.dataset.minari_storage import MinariStorage

        self.folder = folder
        # Absolute: Minari measures its size by paths that it joins to themselves.
        self._aside = folder.absolute().with_name(f"{folder.name}{UNFINISHED}")
        self._chunk: list[Turn] = []
        self._games: list[Game] = []
        self._is_open = True
        shape = (session.config.frame_stack, 84, 84)
        self._shape = shape
        try:
            shutil.rmtree(self._aside, ignore_errors=True)
            self._aside.mkdir(parents=True)
            self._storage = MinariStorage.new(
                self._aside / "data",
                observation_space=gymnasium.spaces.Box(0, 255, shape, np.uint8),
                action_space=gymnasium.spaces.Discrete(num_actions),
                jpeg_encoding=False,  # the agent saw these pixels, not what JPEG makes of them
            )
            self._storage.update_metadata(
                {"dataset_id": folder.name, "minari_version": minari.__version__} | _about(session)
            )
        except OSError as error:
            shutil.rmtree(self._aside, ignore_errors=True)
            raise UserError(f"{folder} cannot be written ({error.strerror})") from error

    @property
    def num_games(self) -> int:
        """Games that are complete in it."""
        return len(self._games)

    @property
    def num_steps(self) -> int:
        """Steps of all games so far."""
        return sum(game.length_steps for game in self._games)

    @property
    def megabytes(self) -> float:
        """Size on the disk."""
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files) / 1e6

    def take(self, turn: Turn) -> None:
        """Take a step of a game and, with its last step, complete its episode.

        Where the disk is nearly full, a warning says so, and the games before are kept: HDF5 does
        not get over a write that failed.
        """
        if not self._is_open:
            return
        self._chunk.append(turn)
        if len(self._chunk) < CHUNK_STEPS and not turn.finished:
            return
        try:
            self._is_open = shutil.disk_usage(self._aside).free > SPARE_BYTES
            if self._is_open:
                self._write_chunk(turn.finished)
            else:
                self._warn("the disk is nearly full", f"it ends with game {len(self._games)}")
        except _UNWRITABLE as error:
            self._give_up(error)
        self._chunk = []

    def close(self) -> bool:
        """Give the folder its name, without a game that has not ended; return whether it has one.

        Without a complete game there is no data set.
        """
        try:
            if not self._games:
                return False
            self._forget_unfinished()
            move(self._aside, self.folder)
        except _UNWRITABLE as error:
            self._give_up(error)
            return False
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)
        return True

    def _give_up(self, error: Exception) -> None:
        self._is_open, self._games = False, []
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        self._warn(reason, "it is removed; the results of the games are not")

    def _warn(self, reason: str, then: str) -> None:
        warnings.warn(f"{self.folder} cannot be written ({reason}): {then}", stacklevel=4)

    def _write_chunk(self, finished: list[Game]) -> None:
        """Append to the episode of the game under way; the last step brings the last frames."""
        from minari.data_collector import EpisodeBuffer

        episode, turns = len(self._games), self._chunk
        [running] = turns[0].games.values()
        begins = running.length_steps == len(turns)
        if begins:
            self._prepare(episode)
        observations = [turn.observation[0] for turn in turns]
        lost = [bool(turn.step.life_lost[0]) for turn in turns]
        if finished:
            observations.append(turns[-1].step.next_observation[0])
        buffer = EpisodeBuffer(
            id=episode,
            seed=running.seed if begins else None,
            observations=observations,
            actions=[turn.step.action[0] for turn in turns],
            rewards=[turn.step.reward[0] for turn in turns],
            terminations=[turn.step.terminated[0] for turn in turns],
            truncations=[turn.step.truncated[0] for turn in turns],
            infos={"life_lost": [False, *lost] if begins else lost},
        )
        self._storage.update_episodes([buffer])
        if finished:
            [game] = finished
            about = {"total_steps": game.length_steps, "score": game.score}
            self._storage.update_episode_metadata([about], [episode])
            self._games.append(game)

    def _forget_unfinished(self) -> None:
        import h5py

        with h5py.File(self._file, "a", track_order=True) as content:
            content.pop(f"episode_{len(self._games)}", None)
        totals = {"total_episodes": len(self._games), "total_steps": self.num_steps}
        self._storage.update_metadata(totals)

    @property
    def _file(self) -> Path:
        return next((self._aside / "data").glob("*.hdf5"))

    def _prepare(self, episode: int) -> None:
        """Make the compressed array that Minari appends observations to."""
        import h5py

        with h5py.File(self._file, "a", track_order=True) as content:
            content.create_group(f"episode_{episode}").create_dataset(
                "observations",
                shape=(0, *self._shape),
                maxshape=(None, *self._shape),
                chunks=(_CHUNK_OBSERVATIONS, *self._shape),
                dtype=np.uint8,
                compression="gzip",
                compression_opts=4,
            )


def check_minari(folder: Path) -> None:
    """Find out whether a data set can be written there.

    Raises:
        UserError: Minari is missing, or the folder exists or has a name that Minari does not take.
    """
    need("minari", "--minari")
    if not re.fullmatch(r"[\w-]+", folder.name):
        raise UserError(
            f"--minari {folder}: Minari takes letters, digits, '-' and '_' as a name, such as "
            "breakout/dqn-v0"
        )
    if folder.exists():
        raise UserError(f"--minari {folder} exists: remove it, or name another folder")


def _about(session: Session) -> dict[str, Any]:
    """Return what the data set says of itself, as JSON."""
    config, protocol = session.config, session.protocol
    learned = "the sign of the reward" if config.clip_reward else "the reward itself"
    return {
        "algorithm_name": config.algo,
        "description": (
            f"Full games of {config.env} by an agent of dqn_zoo. Observations are what the agent "
            f"saw (uint8, oldest of {config.frame_stack} frames first); rewards are raw changes of "
            f"the score, the agent learned from {learned}; infos/life_lost marks lost lives."
        ),
        "env": config.env,
        "protocol": protocol.as_json(),
        "epsilon": protocol.eval_epsilon,
        "learned_from": learned,
        "weights": session.weights.name,
        "weights_sha256": session.weights.sha256,
        "dqn_zoo": __version__,
        "settings": json.loads(config.model_dump_json()),
    }
