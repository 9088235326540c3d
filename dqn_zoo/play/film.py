"""A film of the emulator's picture, at the speed of the console, that browsers play.

Every frame of the emulator becomes one frame of the film, at the console's 60 frames per second:
sprites that a game draws only in every other frame flicker as they did on a television.
"""

import contextlib
import re
import secrets
import struct
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.errors import UserError
from dqn_zoo.settings.protocols import FRAMES_PER_SECOND
from dqn_zoo.system.files import move, writing
from dqn_zoo.system.opencv import import_cv2
from dqn_zoo.system.processes import apart
from dqn_zoo.system.signals import uninterrupted

SCALE_X, SCALE_Y = 5, 3
"""An Atari pixel is about 5/3 as wide as high: 160 x 210 pixels become 800 x 630, close to 4:3."""

UNFINISHED = ".unfinished"  # behind the name: nobody takes it for a film
LEFTOVER_AFTER_S = 3_600.0  # a film that is being written grows all the time

STRIP_HEIGHT = 34
TEXT_COLOR = (235, 235, 235)


class Film:
    """An H.264 film that is written while the games are played; `EnvSettings` takes its `on_frame`.

    The file gets its name when it is complete. An encoder that fails warns, and the games go on.

    Args:
        path: of the mp4; its folder is made where missing.
        max_seconds: the film ends there; the games go on.
        environment: index of the environment to film.
        remedy: what to do where the folder cannot be written, for the error.

    Raises:
        UserError: if the folder cannot be written, or ffmpeg or OpenCV is missing.
    """

    def __init__(
        self, path: Path, *, max_seconds: float = 120.0, environment: int = 0, remedy: str = ""
    ) -> None:
        self.path = path
        self.num_frames = 0
        self._max_frames = round(max_seconds * FRAMES_PER_SECOND)
        self._environment = environment
        self._waiting: list[NDArray[np.uint8]] = []
        self._recording = True
        self._complete = False
        self._encoder: _Encoder | None = None
        self._unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        self._ffmpeg = _find_ffmpeg()
        self._cv2 = import_cv2()
        with writing(f"the film {path}", remedy):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path.parent)
            self._unfinished.touch()

    @property
    def seconds(self) -> float:
        """Length of the film so far, in seconds."""
        return self.num_frames / FRAMES_PER_SECOND

    def on_frame(self, environment: int, frame: NDArray[np.uint8]) -> None:
        """Take a frame, RGB uint8 [height, 160, 3]; it waits for its `caption`."""
        is_full = self.num_frames + len(self._waiting) >= self._max_frames
        if self._recording and environment == self._environment and not is_full:
            self._waiting.append(frame.copy())

    def caption(self, text: str) -> None:
        """Write the frames that came since the last caption, under this text.

        The score after a step is known only when its frames were drawn, hence this order.
        """
        frames, self._waiting = self._waiting, []
        if not frames or not self._recording:
            return
        strip = self._strip(text, frames[0].shape[:2])
        try:
            for frame in frames:
                self._write(np.vstack([strip, self._enlarged(frame)]))
        except OSError as error:
            self._give_up(error)

    def close(self) -> bool:
        """Complete the file and return whether there is one; frames without a caption are lost."""
        if self._recording and self._encoder is not None:
            try:
                with uninterrupted():
                    self._encoder.finish()
                    move(self._unfinished, self.path)
                self._complete = True
            except OSError as error:
                self._give_up(error)
        self._recording = False
        self._unfinished.unlink(missing_ok=True)
        return self._complete

    def _strip(self, text: str, frame_size: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the text on black, as wide as the picture."""
        height = STRIP_HEIGHT + frame_size[0] * SCALE_Y % 2  # yuv420p takes even heights only
        strip = np.zeros((height, frame_size[1] * SCALE_X, 3), dtype=np.uint8)
        font = self._cv2.FONT_HERSHEY_SIMPLEX
        self._cv2.putText(strip, text, (12, 24), font, 0.7, TEXT_COLOR, 1, self._cv2.LINE_AA)
        return strip

    def _enlarged(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (frame.shape[1] * SCALE_X, frame.shape[0] * SCALE_Y)
        enlarged: NDArray[np.uint8] = self._cv2.resize(
            frame, size, interpolation=self._cv2.INTER_NEAREST
        )
        return enlarged

    def _write(self, picture: NDArray[np.uint8]) -> None:
        if self._encoder is None:  # some games are taller than others, so it starts only now
            height, width, _ = picture.shape
            self._encoder = _Encoder(
                _ffmpeg_command(self._ffmpeg, width=width, height=height, output=self._unfinished)
            )
        self._encoder.write(picture.tobytes())
        self.num_frames += 1

    def _give_up(self, error: OSError) -> None:
        self._recording = False
        reason = self._encoder.give_up() if self._encoder is not None else ""
        warnings.warn(
            f"no film in {self.path}, "
            + (f"the encoder failed: {reason}" if reason else f"it cannot be written: {error}"),
            stacklevel=3,
        )


def check_film(path: Path) -> None:
    """Find out whether a film plays in browsers: H.264, yuv420p, its index before its pictures.

    Raises:
        UserError: it does not.
    """
    command = [_find_ffmpeg(), "-hide_banner", "-i", f"file:{path}"]
    told = subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")
    stream = re.search(r"Video: (\w+).*?, (\w+)", told)
    if stream is None:
        raise UserError(f"{path} is no film that can be read")
    order = [kind.decode() for kind in _boxes(path) if kind in (b"moov", b"mdat")]
    if stream.groups() != ("h264", "yuv420p") or order != ["moov", "mdat"]:
        raise UserError(
            f"{path} does not play in browsers: expected h264, yuv420p and the index first, got "
            f"{', '.join([*stream.groups(), *order])}"
        )


def _remove_leftovers(folder: Path) -> None:
    """Remove what films left whose process was killed."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_AFTER_S:
                path.unlink()


class _Encoder:
    """A running ffmpeg that reads pictures from its input."""

    def __init__(self, command: Sequence[str]) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  (closed at the end of ffmpeg)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
            **apart(),  # Ctrl-C is for us: what was filmed so far is still completed
        )

    def write(self, picture: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(picture)

    def finish(self) -> None:
        """Wait until the file is complete.

        Raises:
            OSError: it is not; `give_up` says why.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() != 0:
            raise OSError(f"ffmpeg ended with code {self._process.returncode}")
        self._messages.close()

    def give_up(self) -> str:
        """End the process and return its last message; nothing if it had finished."""
        if self._messages.closed:
            return ""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").split("\n")
        self._messages.close()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _boxes(path: Path) -> Iterator[bytes]:
    """Yield the types of the outermost boxes of an mp4 (ISO/IEC 14496-12, section 4.2)."""
    with path.open("rb") as file:
        while len(header := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", header)
            yield kind
            read = 8
            if size == 1:  # the size follows, in 64 bits
                size, read = struct.unpack(">Q", file.read(8))[0], 16
            if size < read:  # 0: to the end of the file
                return
            file.seek(size - read, 1)


def _find_ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        path: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(
            "films need ffmpeg, and imageio-ffmpeg brought none for this machine: "
            "install ffmpeg and name it in IMAGEIO_FFMPEG_EXE"
        ) from error
    return path


def _ffmpeg_command(ffmpeg: str, *, width: int, height: int, output: Path) -> list[str]:
    """Return the command that reads raw RGB pictures from its input and writes the film."""
    raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {FRAMES_PER_SECOND} -i -"
    # yuv420p halves the resolution of colours; an Atari pixel is several pixels here, so none is
    # lost. The colour space is named, or players would guess it and shift the colours.
    colours = (
        "-vf scale=out_color_matrix=bt709:out_range=tv,"
        "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv -pix_fmt yuv420p"
    )
    encoding = "-an -c:v libx264 -preset veryfast -crf 18 -movflags +faststart -f mp4"
    options = f"-y -nostdin -loglevel error {raw} {colours} {encoding}"
    return [ffmpeg, *options.split(), f"file:{output}"]
