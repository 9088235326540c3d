"""What is in a film, as a player decodes it."""

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray


def probe(path: Path) -> str:
    """What ffmpeg says about a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def pictures(path: Path) -> NDArray[np.uint8]:
    """All pictures, RGB uint8 [frames, height, width, 3], exactly as a player decodes them."""
    match = re.search(r"(\d{3,})x(\d{3,})", probe(path))
    assert match is not None
    width, height = int(match[1]), int(match[2])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, height, width, 3)
