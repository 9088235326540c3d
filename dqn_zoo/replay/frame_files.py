"""The frames of a memory as files of a checkpoint; only what changed is written anew."""

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from dqn_zoo.replay.memory import FrameStore
from dqn_zoo.replay.shape import FRAME_BYTES
from dqn_zoo.system.machine import usable_cores
from dqn_zoo.system.saved import unpack

FRAMES_FILE = "frames_{:05d}.z"
CHUNK_FRAMES = 8_192  # frames in one file: 58 MB before compression
MOST_COMPRESSORS = 8


def compressed_frames(
    frames: FrameStore, written_before: int
) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and content of every file; None: unchanged.

    Args:
        frames: to be saved.
        written_before: value of `frames_written` at the previous checkpoint.
    """

    def compressed(number: int, changed: bool) -> bytes | None:
        return zlib.compress(_read_chunk(frames, number), 1) if changed else None

    # zlib releases the interpreter lock. Few chunks are under way, since a slow disk would let them
    # pile up in memory; those that are not wanted any more are not compressed.
    workers = min(usable_cores(), MOST_COMPRESSORS)
    pool = ThreadPoolExecutor(workers)
    under_way: deque[tuple[int, Future[bytes | None]]] = deque()
    try:
        for number, changed in _chunks(frames, written_before):
            under_way.append((number, pool.submit(compressed, number, changed)))
            if len(under_way) > workers:
                first, content = under_way.popleft()
                yield FRAMES_FILE.format(first), content.result()
        for first, content in under_way:
            yield FRAMES_FILE.format(first), content.result()
    finally:
        pool.shutdown(cancel_futures=True)


def restore_frames(frames: FrameStore, read: Callable[[str], bytes]) -> None:
    """Put back what `compressed_frames` yielded; `frames_written` is that of the checkpoint."""
    for number, _ in _chunks(frames, 0):
        name, start = FRAMES_FILE.format(number), number * CHUNK_FRAMES
        most = len(frames.pixels[start : start + CHUNK_FRAMES])
        pixels = unpack(read(name), most * FRAME_BYTES, name)
        if len(pixels) != most * FRAME_BYTES:
            raise ValueError(f"{name} has {len(pixels):,} bytes of frames, not {most} frames")
        flat = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, FRAME_BYTES)
        frames.pixels[start : start + len(flat)] = flat.to(frames.pixels.device)


def _chunks(frames: FrameStore, written_before: int) -> Iterator[tuple[int, bool]]:
    """Yield (number, changed) of every chunk in use; unchanged: not written to since then."""
    ring, written = frames.ring_size, frames.frames_written
    if written == 0:
        return
    places = np.arange(max(written_before, written - ring), written) % ring
    changed = set(np.unique((1 + places) // CHUNK_FRAMES))
    for number in range(min(written, ring) // CHUNK_FRAMES + 1):
        yield number, number in changed


def _read_chunk(frames: FrameStore, number: int) -> memoryview:
    """Return the pixels of one chunk; on a CPU they are not copied."""
    start = number * CHUNK_FRAMES
    return frames.pixels[start : start + CHUNK_FRAMES].cpu().numpy().data.cast("B")
