"""Films: what a browser needs, the right speed and colours, and an encoder that fails."""

import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from support.films import pictures, probe

from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.errors import UserError
from dqn_zoo.play.evaluation import enjoy_seeds, play
from dqn_zoo.play.film import SCALE_X, SCALE_Y, STRIP_HEIGHT, Film, _Encoder, check_film
from dqn_zoo.system.opencv import import_cv2

RED, GREEN, BLUE = (200, 72, 72), (50, 132, 50), (45, 50, 184)  # of the console's palette


def frame_of(color: tuple[int, int, int], height: int = 210) -> NDArray[np.uint8]:
    return np.full((height, 160, 3), color, dtype=np.uint8)


def boxes(path: Path) -> list[str]:
    """Names of the top-level boxes of an mp4, in their order."""
    names, content = [], path.read_bytes()
    while content:
        size, name = struct.unpack(">I4s", content[:8])
        names.append(name.decode())
        content = content[size:]
    return names


def film_of(path: Path, frames: list[NDArray[np.uint8]], max_seconds: float = 120.0) -> Film:
    film = Film(path, max_seconds=max_seconds)
    play_into(film, frames)
    return film


def play_into(film: Film, frames: list[NDArray[np.uint8]]) -> None:
    for number, frame in enumerate(frames):
        film.on_frame(0, frame)
        film.caption(f"frame {number}")


def test_a_film_is_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "at 10:30.mp4"  # what stands before a colon is no protocol
    film = film_of(path, [frame_of(RED)] * 90)
    assert not path.exists()  # its name means that it is complete
    assert film.close()
    told = probe(path)
    assert "Video: h264" in told
    assert "yuv420p(tv, bt709" in told
    assert "60 fps" in told
    assert "Duration: 00:00:01.50" in told
    assert film.seconds == 1.5
    assert "Audio" not in told
    assert boxes(path).index("moov") < boxes(path).index("mdat")
    assert [file.name for file in path.parent.iterdir()] == ["at 10:30.mp4"]


def test_a_signal_does_not_cut_a_film_short_while_it_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = film_of(tmp_path / "film.mp4", [frame_of(RED)] * 30)
    finish = _Encoder.finish

    def finish_disturbed(encoder: _Encoder) -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
        finish(encoder)

    monkeypatch.setattr(_Encoder, "finish", finish_disturbed)
    assert film.close()
    check_film(film.path)


def test_a_film_that_browsers_do_not_play_is_recognized(tmp_path: Path) -> None:
    film = film_of(tmp_path / "film.mp4", [frame_of(RED)] * 30)
    assert film.close()
    check_film(film.path)
    remade = {
        "mpeg4": ["-c:v", "mpeg4", "-movflags", "+faststart"],
        "yuv444p": ["-c:v", "libx264", "-pix_fmt", "yuv444p", "-movflags", "+faststart"],
        "mdat, moov": ["-c:v", "copy", "-movflags", "-faststart"],
    }
    for said, options in remade.items():
        other = tmp_path / "other.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-i", film.path]
        subprocess.run([*command, *options, other], check=True)
        with pytest.raises(UserError, match=f"does not play in browsers: .*{said}"):
            check_film(other)
    (tmp_path / "other.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match="is no film that can be read"):
        check_film(tmp_path / "other.mp4")


def test_every_frame_is_filmed_in_its_colours_and_proportions(tmp_path: Path) -> None:
    frames = [frame_of(color) for color in (RED, GREEN, BLUE, GREEN)]
    frames[1][:105, :80] = RED
    film = film_of(tmp_path / "film.mp4", frames)
    assert film.close()
    shown = pictures(film.path)
    assert shown.shape == (4, STRIP_HEIGHT + 210 * SCALE_Y, 160 * SCALE_X, 3)
    assert shown.shape[2] / (210 * SCALE_Y) == pytest.approx(4 / 3, rel=0.06)
    for picture, frame in zip(shown, frames, strict=True):
        enlarged = frame.repeat(SCALE_Y, axis=0).repeat(SCALE_X, axis=1)
        difference = np.abs(picture[STRIP_HEIGHT:].astype(int) - enlarged.astype(int))
        assert np.quantile(difference, 0.99) <= 6
        assert picture[:STRIP_HEIGHT].max() > 180  # the caption
        assert picture[:STRIP_HEIGHT, 400:].max() < 20


def test_a_caption_stands_over_the_frames_before_it(tmp_path: Path) -> None:
    film = Film(tmp_path / "film.mp4")
    for _ in range(3):
        film.on_frame(0, frame_of(BLUE))
    film.caption("")
    for _ in range(2):
        film.on_frame(0, frame_of(BLUE))
    film.caption("score 285")
    film.on_frame(0, frame_of(BLUE))
    film.close()
    has_text = [bool(picture[:STRIP_HEIGHT].max() > 180) for picture in pictures(film.path)]
    assert has_text == [False, False, False, True, True]


def test_only_the_chosen_environment_is_filmed(tmp_path: Path) -> None:
    film = Film(tmp_path / "film.mp4", environment=1)
    film.on_frame(0, frame_of(RED))
    film.on_frame(1, frame_of(GREEN))
    film.on_frame(2, frame_of(BLUE))
    film.caption("")
    film.close()
    (picture,) = pictures(film.path)
    assert np.abs(picture[200, 400].astype(int) - GREEN).max() <= 6


def test_a_film_stops_at_its_longest_and_the_games_go_on(tmp_path: Path) -> None:
    film = film_of(tmp_path / "film.mp4", [frame_of(RED)] * 50, max_seconds=0.5)
    assert film.close()
    assert film.num_frames == 30
    assert len(pictures(film.path)) == 30


@pytest.mark.parametrize("height", [250, 211])
def test_games_with_more_rows_are_filmed(tmp_path: Path, height: int) -> None:
    film = film_of(tmp_path / "film.mp4", [frame_of(RED, height)] * 3)
    assert film.close()
    assert pictures(film.path).shape[1] in (
        STRIP_HEIGHT + height * 3,
        STRIP_HEIGHT + height * 3 + 1,
    )


def test_a_frame_may_be_overwritten_after_it_was_taken(tmp_path: Path) -> None:
    film = Film(tmp_path / "film.mp4")
    frame = frame_of(GREEN)
    film.on_frame(0, frame)
    frame[:] = 0
    film.caption("")
    film.close()
    assert np.abs(pictures(film.path)[0, 200, 400].astype(int) - GREEN).max() <= 6


def test_a_film_without_frames_leaves_nothing_behind(tmp_path: Path) -> None:
    film = Film(tmp_path / "film.mp4")
    assert not film.close()
    assert list(tmp_path.iterdir()) == []


def test_a_second_close_changes_nothing(tmp_path: Path) -> None:
    film = film_of(tmp_path / "film.mp4", [frame_of(RED)])
    assert film.close()
    film.on_frame(0, frame_of(RED))
    film.caption("late")
    assert film.close()
    assert film.num_frames == 1


def test_an_encoder_that_fails_warns_once_and_the_games_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tmp_path / "ffmpeg"
    encoder.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('No space left on device')\n")
    encoder.chmod(encoder.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    (tmp_path / "videos").mkdir()
    film = Film(tmp_path / "videos" / "film.mp4")
    with pytest.warns(UserWarning, match="No space left on device") as warned:
        play_into(film, [frame_of(RED)] * 20)
    assert len(warned) == 1
    assert not film.close()
    assert list((tmp_path / "videos").iterdir()) == []


def test_an_older_film_survives_an_encoder_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "film.mp4"
    film_of(path, [frame_of(RED)] * 3).close()
    before = path.read_bytes()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", sys.executable)  # it does not know these options
    film = Film(path)
    with pytest.warns(UserWarning, match="no film"):
        play_into(film, [frame_of(BLUE)] * 20)
    assert not film.close()
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_refused_before_the_games(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "film.mp4"
    with pytest.raises(UserError, match=r"film\.mp4 cannot be written \([^)]+\)$"):
        Film(path)  # of a tracker, where no flag names another folder
    with pytest.raises(UserError, match=r"film\.mp4 cannot be written \(.*\): give --record FILE$"):
        Film(path, remedy="give --record FILE")


def test_a_real_game_is_filmed_frame_by_frame(tmp_path: Path) -> None:
    film = Film(tmp_path / "film.mp4", max_seconds=5.0)
    seen: list[NDArray[np.uint8]] = []

    def on_frame(environment: int, frame: NDArray[np.uint8]) -> None:
        seen.append(frame.copy())
        film.on_frame(environment, frame)

    def q_values(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.eye(6, dtype=np.float32)[[1] * len(observation)]

    turns = play(
        q_values,
        game="SpaceInvaders",
        settings=EnvSettings(on_frame=on_frame),
        seeds=enjoy_seeds(0, 1),
    )
    for number, turn in enumerate(turns):
        film.caption(f"score {turn.games[0].score:.0f}")
        if number == 60:
            break
    turns.close()
    assert film.close()
    shown = pictures(film.path)
    assert len(shown) == len(seen) >= 61 * 4
    small = import_cv2().resize(shown[200, STRIP_HEIGHT:], (160, 210), interpolation=0)
    assert np.quantile(np.abs(small.astype(int) - seen[200].astype(int)), 0.95) <= 8
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_a_film_that_cannot_take_its_name_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film = Film(path)
    play_into(film, [frame_of(RED)] * 3)
    (path / "in the way").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"no film in .*film\.mp4, it cannot be written"):
        assert not film.close()
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_two_films_of_one_name_are_each_whole(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    first, second = Film(path), Film(path)
    for film, color in ((first, RED), (second, BLUE)):
        play_into(film, [frame_of(color)] * 3)
    for film in (first, second):
        assert film.close()
        check_film(path)
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_what_a_killed_film_left_is_removed_by_a_later_one(tmp_path: Path) -> None:
    old, fresh = (tmp_path / f"{name}.mp4.unfinished" for name in ("old", "fresh"))
    for file in (old, fresh):
        file.touch()
    os.utime(old, (0, 0))
    film = Film(tmp_path / "new.mp4")
    assert not old.exists()
    assert fresh.exists()  # another process may be writing it
    assert not list(tmp_path.glob("*.mp4"))
    film.close()
    assert list(tmp_path.iterdir()) == [fresh]
