"""Learning curves: read from our runs and from Stable-Baselines3's, binned, drawn."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dqn_zoo.cli.plot import main
from dqn_zoo.errors import UserError
from dqn_zoo.experiments.curves import (
    Curve,
    find_curves,
    mixed_groups,
    overlay,
    random_of,
    read_curve,
)
from dqn_zoo.experiments.report import find_runs
from dqn_zoo.settings.recipes import dump_config, load_config, resolve


def make_run(folder: Path, *, game="Pong", algo="dqn", number=1, scores=(1.0, 3.0), seed=7) -> Path:
    """Leave the logs of a run that played a game every 100 steps, 10 steps a second."""
    run = folder / algo / f"{game}_{number}"
    run.mkdir(parents=True)
    config = resolve(env=game, algo="dqn").config
    config = config.model_copy(update={"algo": algo, "seed": seed})
    (run / "config.yml").write_text(dump_config(config))
    (run / "manifest.json").write_text("{}")
    steps = [100 * (count + 1) for count in range(len(scores))]
    rows = "".join(f"{step},0,{score}\n" for step, score in zip(steps, scores, strict=True))
    (run / "episodes.csv").write_text("steps,env,return\n" + rows)
    rows = "".join(f"{step},{step / 10}\n" for step in (0, 2 * steps[-1]))
    (run / "progress.csv").write_text("steps,time_s\n" + rows)
    (run / "evaluations.csv").write_text("steps,mean\n150,5.5\n")
    return run


def make_sb3_run(folder: Path) -> Path:
    """Leave what RL-Zoo leaves of a run in two environments."""
    run = folder / "dqn" / "PongNoFrameskip-v4_1"
    run.mkdir(parents=True)
    head = "#" + json.dumps({"t_start": 1.0, "env_id": "PongNoFrameskip-v4"}) + "\nr,l,t\n"
    (run / "0.monitor.csv").write_text(head + "-21.0,400,2.0\n-19.0,800,9.0\n")
    (run / "1.monitor.csv").write_text(head + "-20.0,1200,5.0\n")
    np.savez(
        run / "evaluations.npz",
        timesteps=np.array([100, 200]),
        results=np.array([[-21.0, -19.0], [1.0, 3.0]]),
        ep_lengths=np.array([[5, 5], [5, 5]]),
    )
    return run


def test_a_curve_of_ours_has_steps_time_and_scores(tmp_path):
    run = make_run(tmp_path)
    curve = read_curve(run, "training")
    assert (curve.game, curve.group, curve.seed) == ("Pong", "dqn", 7)
    assert curve.steps.tolist() == [100, 200]
    assert curve.seconds.tolist() == [10, 20]
    assert curve.scores.tolist() == [1, 3]
    assert curve.along("frames").tolist() == [400, 800]
    assert curve.along("time").tolist() == pytest.approx([1 / 6, 1 / 3])
    evaluated = read_curve(run, "evaluation", by="gamma")
    assert (evaluated.group, evaluated.steps.tolist()) == ("gamma 0.99", [150])
    assert evaluated.scores.tolist() == [5.5]


def test_a_curve_of_stable_baselines3_counts_frames_and_merges_environments(tmp_path):
    run = make_sb3_run(tmp_path)
    curve = read_curve(run, "training")
    assert (curve.game, curve.group, curve.seed) == ("Pong", "dqn (sb3)", None)
    assert curve.scores.tolist() == [-21, -20, -19]  # by the time they ended
    assert curve.steps.tolist() == [100, 400, 600]  # 400, 1,600 and 2,400 frames
    assert curve.seconds.tolist() == [2, 5, 9]
    evaluated = read_curve(run, "evaluation")
    assert evaluated.steps.tolist() == [100, 200]
    assert evaluated.scores.tolist() == [-20, 2]


def write_monitor(file: Path, t_start: float | None, rows: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"t_start": t_start, "env_id": "PongNoFrameskip-v4"})
    file.write_text(f"#{head}\nr,l,t\n{rows}")


def test_the_files_of_a_run_that_was_continued_follow_each_other(tmp_path, capsys):
    run = tmp_path / "PongNoFrameskip-v4_1"
    # Named against their order: the header says which began first.
    write_monitor(run / "b.monitor.csv", 1_000.0, "-21,4000,100\n-20,4000,200\n")
    write_monitor(run / "a.monitor.csv", 9_000.0, "20,4000,100\n21,4000,150\n")
    curve = read_curve(run, "training")
    assert curve.scores.tolist() == [-21, -20, 20, 21]
    assert curve.seconds.tolist() == [100, 200, 300, 350]  # it was paused in between
    assert curve.steps.tolist() == [1_000, 2_000, 3_000, 4_000]
    assert main([str(run), "-o", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "21.0"


def test_environments_of_one_start_are_merged_by_the_clock_they_share(tmp_path):
    run = tmp_path / "PongNoFrameskip-v4_1"
    write_monitor(run / "0.monitor.csv", 1_000.0, "1,400,10\n4,400,40\n")
    write_monitor(run / "1.monitor.csv", 1_015.0, "2,400,10\n3,400,20\n")  # 25 and 35
    curve = read_curve(run, "training")
    assert curve.scores.tolist() == [1, 2, 3, 4]
    assert curve.seconds.tolist() == [10, 25, 35, 40]


def test_a_file_that_was_appended_to_keeps_its_order(tmp_path):
    run = tmp_path / "PongNoFrameskip-v4_1"
    rows = "-21,400,100\n-20,400,200\n20,400,90\n21,400,150\n22,400,20\n"
    for t_start in (1_000.0, None):
        write_monitor(run / "0.monitor.csv", t_start, rows)
        curve = read_curve(run, "training")
        assert curve.scores.tolist() == [-21, -20, 20, 21, 22]
        assert curve.seconds.tolist() == [100, 200, 290, 350, 370]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


def test_a_pickle_in_evaluations_is_not_read(tmp_path):
    run = make_sb3_run(tmp_path)
    np.savez(run / "evaluations.npz", timesteps=np.array([Bomb()], object), results=np.ones((1, 1)))
    with pytest.raises(UserError, match=r"cannot be read: .*allow_pickle=False"):
        read_curve(run, "evaluation")


@pytest.mark.parametrize(
    "content",
    [
        "#{}\nr,l\n1,2\n",
        "#{",
        "#[]\nr,l,t\n",
        '#{"env_id": 5}\nr,l,t\n',
        "#" + "[" * 100_000 + "\nr,l,t\n",
        "#{}\nr,l,t\n" + "1" * 200_000 + ",1,1\n",
        '#{"t_start": 1' + "0" * 400 + "}\nr,l,t\n1,2,3\n",
    ],
    ids=range(7),
)
def test_a_monitor_that_was_cut_off_names_its_folder(tmp_path, content):
    run = make_sb3_run(tmp_path)
    (run / "0.monitor.csv").write_text(content)
    with pytest.raises(UserError) as raised:
        read_curve(run, "training")
    assert str(run) in str(raised.value)


@pytest.mark.parametrize("torn", ["-21.0", "-21.0,3", "-21.0,3,"])
def test_a_last_game_that_was_cut_off_is_left_out(tmp_path, torn):
    run = make_sb3_run(tmp_path)
    with (run / "1.monitor.csv").open("a") as file:
        file.write(torn)
    curve = read_curve(run, "training")
    assert curve.scores.tolist() == [-21, -20, -19]
    assert curve.seconds.tolist() == [2, 5, 9]


def test_evaluations_with_any_bit_flipped_are_read_or_name_their_folder(tmp_path):
    run = make_sb3_run(tmp_path)
    whole = (run / "evaluations.npz").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (run / "evaluations.npz").write_bytes(damaged)
        with contextlib.suppress(UserError):
            read_curve(run, "evaluation")


def test_an_empty_evaluations_file_names_its_folder(tmp_path):
    run = make_sb3_run(tmp_path)
    (run / "evaluations.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"Pong.*_1 cannot be read: "):
        read_curve(run, "evaluation")


@pytest.mark.parametrize(
    ("content", "scores", "told"),
    [
        ("", [-20], []),
        ("\n\nr,l,t\n\n-21,400,2\n", [-21, -20], []),
        ("r,l,t\n61,62,36.887254181,182,39.867808\n-19,800,9\n", [-20, -19], ["line 3, which"]),
        ("r,l,t\na,b,c\n1,2\n-19,800,9\n", [-20, -19], ["line 3, which is no game (1 more"]),
        ("r,l,t,lives\n-21,400,2,3\n", [-21, -20], []),
    ],
)
def test_what_is_no_game_in_a_monitor_is_told_and_the_others_count(tmp_path, content, scores, told):
    run, warned = make_sb3_run(tmp_path), []
    file = run / "0.monitor.csv"
    file.write_text('#{"t_start": 1.0, "env_id": "Pong-v4"}\n' + content if content else "")
    curve = read_curve(run, "training", warn=warned.append)
    assert curve.scores.tolist() == scores
    assert len(warned) == len(told)
    for line, part in zip(warned, told, strict=True):
        assert f"{file}, {part}" in line


def test_evaluations_without_rows_are_no_curve_yet(tmp_path):
    run = make_sb3_run(tmp_path)
    np.savez(run / "evaluations.npz", timesteps=np.array([]), results=np.array([]))
    assert read_curve(run, "evaluation") is None
    np.savez(run / "evaluations.npz", timesteps=np.ones(2), results=np.ones((3, 1)))
    with pytest.raises(UserError, match="no row of results for each of its timesteps"):
        read_curve(run, "evaluation")


def unnamed(run: Path, name: str, env_id: str | None) -> Path:
    """Give a run of Stable-Baselines3 another name and what its monitors say of their game."""
    run = run.rename(run.parent / name)
    for file in run.glob("*.monitor.csv"):
        _, rest = file.read_text().split("\n", 1)
        file.write_text("#" + json.dumps({"t_start": 1.0, "env_id": env_id}) + "\n" + rest)
    return run


@pytest.mark.parametrize("env_id", ["None", None])
@pytest.mark.parametrize(
    "name",
    ["ALE-Pong-v5_1", "ALE-Pong-v5_1_0f8fad5b-d9cb-469f-a165-70867728950e", "Pong-v4_12", "pong"],
)
def test_a_folder_names_the_game_where_the_monitor_does_not(tmp_path, name, env_id):
    assert read_curve(unnamed(make_sb3_run(tmp_path), name, env_id), "training").game == "Pong"


def test_one_run_that_cannot_be_drawn_does_not_stop_the_others(tmp_path, capsys):
    make_run(tmp_path)
    cart = unnamed(make_sb3_run(tmp_path / "a"), "CartPole-v1_1", "CartPole-v1")
    nameless = unnamed(make_sb3_run(tmp_path / "b"), "run_1", None)
    (damaged := make_run(tmp_path, number=2)).joinpath("config.yml").write_text("env: [")
    (late := make_run(tmp_path, number=3)).joinpath("progress.csv").write_text("steps,time_s\n")
    picture, empty = tmp_path / "a.png", tmp_path / "empty"
    assert main([str(tmp_path), str(empty), "-o", str(picture)]) == 0
    printed = capsys.readouterr()
    assert picture.exists()
    assert len(printed.out.splitlines()) == 3  # heading, the run, picture
    told = printed.err.splitlines()
    assert all(line.startswith("warning: left out: ") for line in told)
    for run, reason in (
        (cart, "unknown game 'CartPole-v1'"),
        (nameless, "nothing in it says which game it plays; --env GAME does"),
        (damaged, "config.yml"),
        (late, "has no training scores yet"),
        (empty, "holds no run"),
    ):
        (line,) = [line for line in told if f" {run}" in line]
        assert reason in line
    assert main([str(nameless), "--env", "ALE/Pong-v5", "-o", str(picture)]) == 0
    assert "Pong" in capsys.readouterr().out
    assert main([str(cart), str(late), "-o", str(picture)]) == 2
    assert "error: nothing is left to draw: the lines above say why" in capsys.readouterr().err


def test_a_run_that_has_not_logged_yet_is_no_curve_yet(tmp_path):
    run = make_run(tmp_path)
    (run / "progress.csv").write_text("steps,time_s\n")
    assert read_curve(run, "training") is None


def test_a_run_that_is_named_twice_or_was_pushed_is_one_run(tmp_path):
    run = make_run(tmp_path)
    shutil.copytree(run, run / "hub" / "dqn-Pong")
    (run / "hub" / "dqn-Pong" / "manifest.json").unlink()
    found = find_curves([tmp_path, run.parent, run], "training")
    assert [curve.source for curve in found] == [run]


@pytest.mark.parametrize(
    "read",
    [lambda path: find_curves([path], "training"), lambda path: find_runs([path], warn=print)],
)
def test_a_mistyped_folder_is_told_the_nearest(tmp_path, read):
    run = make_run(tmp_path / "logs")
    for path, near in (
        (run.with_name("Pong_l"), run),
        (tmp_path / "lgos", tmp_path / "logs"),
        (tmp_path / "lgos/dqn/Pong_1", tmp_path / "logs"),
    ):
        with pytest.raises(UserError, match=f"{path} holds no run.*, did you mean {near}\\?$"):
            read(path)


def test_a_monitor_without_games_is_no_curve_yet(tmp_path):
    run = make_sb3_run(tmp_path)
    for file in run.glob("*.monitor.csv"):
        file.write_text('#{"t_start": 1.0}\nr,l,t\n')
    assert read_curve(run, "training") is None


def test_runs_are_found_below_a_folder_in_one_order(tmp_path):
    make_run(tmp_path, number=2, seed=2)
    make_run(tmp_path, number=1, seed=1)
    make_sb3_run(tmp_path / "theirs")
    found = find_curves([tmp_path], "training")
    assert [curve.seed for curve in found] == [1, 2, None]
    assert len(find_curves([found[0].source, found[1].source], "training")) == 2
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no run: expected progress\.csv"):
        find_curves([empty], "training")
    found[0].source.joinpath("evaluations.csv").unlink()
    with pytest.raises(UserError, match="Pong_1 has no evaluation scores yet"):
        find_curves([found[0].source], "evaluation")
    with pytest.raises(UserError, match="no key 'colour': group by another with --by"):
        find_curves([tmp_path], "training", by="colour")


def curve_of(group: str, points: dict[float, float]) -> Curve:
    steps = np.array(list(points), np.float64)
    return Curve(
        source=Path(), game="Pong", group=group, seed=1, steps=steps, seconds=steps,
        scores=np.array(list(points.values())),
    )  # fmt: skip


def test_random_play_is_known_in_no_mode_of_its_own(tmp_path):
    usual, other = make_run(tmp_path, number=1), make_run(tmp_path, number=2)
    config = load_config(other / "config.yml").model_copy(update={"mode": 1})
    (other / "config.yml").write_text(dump_config(config))
    first, second = (find_curves([run], "training") for run in (usual, other))
    assert random_of(first) == -20.7
    assert random_of(second) is random_of(first + second) is None


def test_points_are_binned_by_where_they_lie_and_means_weigh_games_alike():
    curve = curve_of("dqn", {1: 1.0, 10: 3.0, 11: 5.0, 40: 7.0})
    [band] = overlay([curve], "steps", num_points=4, smoothing=1)
    assert band.at.tolist() == [10, 20, 30, 40]
    assert band.runs[0].tolist() == [2, 5, 6, 7]  # no game ended at 20 to 30: in between
    [band] = overlay([curve], "steps", num_points=4, smoothing=2)
    # (1 + 3), (1 + 3 + 5), 5, 7, each by the number of its games
    assert band.runs[0].tolist() == [2, 3, 5, 7]
    assert band.mean.tolist() == band.low.tolist() == band.high.tolist() == [2, 3, 5, 7]


def test_seeds_of_a_group_make_a_band_and_groups_stay_apart():
    curves = [
        curve_of("a", {10: 0.0, 20: 1.0}),
        curve_of("b", {10: 9.0, 20: 9.0}),
        curve_of("a", {10: 4.0}),
    ]
    first, second = overlay(curves, "steps", num_points=2, smoothing=1)
    assert (first.group, second.group) == ("a", "b")
    assert first.mean.tolist() == [2.0, 1.0]  # where one run alone has points it stands alone
    assert (first.low[0], first.high[0]) == (0.0, 4.0)
    assert second.mean.tolist() == [9.0, 9.0]


def test_a_smoothed_curve_ends_where_its_run_does():
    curves = [curve_of("a", {10: 0.0, 20: 1.0}), curve_of("b", {10: 5.0, 100: 5.0})]
    first, second = overlay(curves, "steps", num_points=10, smoothing=3)
    assert first.at[~np.isnan(first.runs[0])].tolist() == [10, 20]
    assert not np.isnan(second.runs).any()


def test_a_backup_under_way_is_no_run_of_its_own(tmp_path):
    run = make_run(tmp_path, scores=range(20))
    for copy in (run.parent / "Pong.unfinished" / "run", run / "backup.unfinished" / "run"):
        shutil.copytree(run, copy)
    assert [curve.source for curve in find_curves([tmp_path], "training")] == [run]
    assert len(find_curves([copy], "training")) == 1  # who names it means it


def test_runs_whose_points_lie_apart_are_averaged_all_the_same():
    curves = [curve_of("a", {10: 0.0, 30: 2.0}), curve_of("a", {20: 5.0, 40: 7.0})]
    [band] = overlay(curves, "steps", num_points=4, smoothing=1)
    # 0, 1, 2 and 5, 6, 7: two runs wherever both are under way
    assert band.mean.tolist() == [0.0, 3.0, 4.0, 7.0]
    assert (band.low[1], band.high[1]) == (1.0, 5.0)


def test_the_command_draws_png_and_svg_and_prints_where_runs_ended(tmp_path, capsys):
    for number in (1, 2):
        make_run(tmp_path, number=number, seed=number, scores=range(20))
        make_run(tmp_path, game="Breakout", algo="double", number=number, scores=range(20))
    make_sb3_run(tmp_path / "theirs")
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    assert main([str(tmp_path), "-o", str(png), "--mark", "15"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["Breakout", "double", "7", "2,000", "18.5"]
    assert printed[-1] == f"picture: {png}"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert main([str(tmp_path), "-o", str(svg), "--x", "time"]) == 0
    labels = ["Breakout", "Pong", "minutes", "random play"]
    labels += ["double (2 runs)", "dqn (2 runs)", "dqn (sb3) (1 run)"]
    for label in labels:
        assert f"<!-- {label} -->" in svg.read_text()


def test_runs_of_other_settings_are_no_seeds_of_a_group_without_a_word(tmp_path):
    runs = [make_run(tmp_path, number=number, seed=number) for number in (1, 2)]
    runs.append(make_run(tmp_path, game="Boxing"))
    curves = find_curves(runs, "training")
    assert list(mixed_groups(curves)) == []
    config = load_config(runs[1] / "config.yml")
    other = {"learning_rate": 0.5, "gamma": 0.5, "n_steps": 7, "dueling": True, "num_threads": 9}
    (runs[1] / "config.yml").write_text(dump_config(config.model_copy(update=other)))
    [line] = mixed_groups(curves)
    assert "the runs of dqn on Pong" in line
    assert "and 1 more: --by " in line
    [line] = mixed_groups(curves[:2])
    key = line.split("--by ")[1].split()[0]
    assert list(mixed_groups(find_curves(runs, "training", by=key)[:2])) == []


def test_curves_without_time_are_not_drawn_over_it(tmp_path, capsys):
    make_sb3_run(tmp_path)
    picture = tmp_path / "a.png"
    flags = ["--what", "evaluation", "--x", "time", "-o", str(picture)]
    assert main([str(tmp_path), *flags]) == 2
    assert "holds no times; --x steps draws it" in capsys.readouterr().err
    assert not picture.exists()
    make_run(tmp_path)
    assert main([str(tmp_path), *flags]) == 0
    printed = capsys.readouterr()
    assert "left out: " in printed.err
    assert "PongNoFrameskip-v4_1 holds no times" in printed.err
    assert "sb3" not in printed.out


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path, capsys):
    make_run(tmp_path)
    assert main([str(tmp_path), "-o", str(tmp_path / "a.txt")]) == 2
    assert "--output: expected a name that ends in .png, .svg, .pdf" in capsys.readouterr().err
