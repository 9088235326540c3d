"""Locks of folders; that a second process is refused is tested with runs, in runs/test_runs.py."""

import json
import threading
from pathlib import Path

from dqn_zoo.system.locks import LOCK_NAME, hold


def test_whoever_reads_the_note_reads_a_whole_one(tmp_path: Path) -> None:
    with hold(tmp_path, what="the folder", otherwise=""):
        pass
    is_over, torn, reads = threading.Event(), [], 0

    def take_it_again_and_again() -> None:
        for _ in range(1000):
            with hold(tmp_path, what="the folder", otherwise=""):
                pass
        is_over.set()

    thread = threading.Thread(target=take_it_again_and_again)
    thread.start()
    while not is_over.is_set():
        text = (tmp_path / LOCK_NAME).read_text()
        reads += 1
        try:
            json.loads(text)
        except ValueError:
            torn.append(text)
    thread.join()
    assert reads > 10
    assert torn == []
