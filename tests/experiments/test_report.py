"""The page of a report: complete in itself, and read in a real browser."""

import errno
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from support.browser import opened_page, screenshots
from support.run_makers import make_run

from dqn_zoo.cli.report import main
from dqn_zoo.experiments.plan import Sweep, Variant, make_plan
from dqn_zoo.experiments.report import find_runs
from dqn_zoo.settings.protocols import PROTOCOLS, protocol_from_config
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.sharing.pretrained import list_pretrained, unpack_pretrained
from dqn_zoo.system.files import digest
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.starting import train

TINY = {
    "n_timesteps": 100, "learning_starts": 40, "buffer_size": 200, "batch_size": 4,
    "network": "small", "max_frames": 80, "eval_freq": 50, "eval_episodes": 1,
    "log_interval": 25, "device": "cpu", "num_threads": 1,
}  # fmt: skip
NASTY = "</script><img src=x onerror=alert(1)>"
PLAYED = {
    "mean_reward": 12.5, "std_reward": 3.5, "n_eval_episodes": 30, "epsilon": 0.01,
    "confidence_95": [11.25, 13.75], "weights": {"name": NASTY},
}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A sweep of two variants and two seeds on Breakout, one of them with a film."""
    folder = tmp_path_factory.mktemp("report") / "sweep"
    variants = [Variant("dqn", "dqn", {}), Variant("double", "dqn", {"bootstrap": "double"})]
    plan = make_plan(games=["Breakout"], num_seeds=2, variants=variants, settings=TINY, episodes=2)
    Sweep.new(folder, plan, {}).write()
    sweep = Sweep.open(folder)
    for job in plan.jobs():
        options = TrainOptions(progress=False)
        train(sweep.config(job), log_folder=sweep.runs, exp_id=job.seed, options=options)
        for which in ("last", "best"):
            sweep.results_file(job, which).write_text(json.dumps(PLAYED))
    videos = sweep.run(job).path / "videos"
    videos.mkdir()
    (videos / "play.mp4").write_bytes(b"not a film, but as large as one" * 100)
    return folder


@pytest.fixture(scope="module")
def page(sweep) -> Path:
    file = sweep.parent / "report.html"
    assert main([str(sweep), "-o", str(file), "--title", f"Two of them {NASTY}"]) == 0
    return file


def test_foreign_results_do_not_stop_the_page(sweep, tmp_path):
    copy = tmp_path / "sweep"
    shutil.copytree(sweep, copy)
    run = copy / "runs" / "dqn" / "Breakout_1"
    nothing = {"mean_reward": 3.0, "std_reward": 1.5, "n_eval_episodes": 2}
    (run / "results.json").write_text(json.dumps(nothing))  # as RL-Zoo's
    page = tmp_path / "report.html"
    assert main([str(run), str(copy / "runs" / "dqn"), "-o", str(page)]) == 0
    rows = data_of(page)["results"]
    assert len(rows) == 2  # a run that is named twice is one run
    (played,) = (each for each in rows[0]["played"] if each["mean"] == 3.0)
    assert played == {
        "weights": "weights", "games": 2, "mean": 3.0, "std": 1.5, "interval": None,
        "apart": ["neither its rules nor its weights are known"],
    }  # fmt: skip


def test_games_by_other_rules_or_of_lost_weights_say_so_and_come_last(tmp_path):
    run = make_run(tmp_path)
    config = load_config(run.config_file)
    weights = run.model_file
    weights.write_bytes(b"weights")
    own = asdict(protocol_from_config(config))

    def played(name: str, mean: float, rules: dict, sha256: str) -> None:
        content = PLAYED | {
            "mean_reward": mean, "protocol": rules, "epsilon": rules["eval_epsilon"],
            "weights": {"name": "last model", "file": weights.name, "sha256": sha256},
        }  # fmt: skip
        file = run.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))

    played("results.json", 5.0, own, digest(weights))
    machado = asdict(PROTOCOLS["machado"]) | {"eval_epsilon": 0.0}
    played("results/a.json", 6.0, machado, digest(weights))
    played("results/b.json", 7.0, own, "0" * 64)
    page = tmp_path / "report.html"
    assert main([str(run.path), "-o", str(page)]) == 0
    [row] = data_of(page)["results"]
    assert [(each["mean"], each["apart"]) for each in row["played"]] == [
        (5.0, []),
        (6.0, ["protocol machado", "epsilon 0"]),
        (7.0, ["weights that the run no longer has"]),
    ]


def test_a_run_is_described_once_while_its_backup_is_made(tmp_path):
    run = make_run(tmp_path)
    shutil.copytree(run.path, run.path / "backup.unfinished" / "run")
    assert [each.run for each in find_runs([tmp_path], warn=pytest.fail)] == [run]


def data_of(page: Path) -> dict:
    return json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])


def test_the_page_holds_everything_and_nothing_in_it_can_end_its_data(page):
    data = data_of(page)
    assert [(panel["game"], panel["kind"]) for panel in data["curves"]] == [
        ("Breakout", "training"),
        ("Breakout", "evaluation"),
    ]
    groups = {band["group"]: band for band in data["curves"][0]["steps"]}
    assert groups.keys() == {"dqn", "double"}
    assert len(groups["dqn"]["runs"]) == 2
    assert [row["seed"] for row in data["results"]] == [1, 2, 1, 2]
    assert data["results"][0]["steps"] == 100
    assert data["results"][0]["played"][0]["interval"] == [11.25, 13.75]
    assert data["settings"]["differing"] == ["algo", "bootstrap"]
    assert [len(column["runs"]) for column in data["settings"]["columns"]] == [2, 2]
    assert data["settings"]["shared"]["n_timesteps"] == 100
    assert len(data["films"]) == 1
    assert data["aggregates"][0]["human_normalised"].keys() == {"dqn", "double"}
    text = page.read_text()
    assert "<img" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text.split('id="data"')[0])
    assert "huggingface" not in text


def test_a_film_that_would_make_the_page_too_large_stays_out(sweep, tmp_path, monkeypatch):
    [film] = sweep.rglob("*.mp4")
    filmed = film.parents[1]  # a page of one run: that of a sweep resamples its scores for seconds
    file = tmp_path / "report.html"
    for most_bytes, num_films in ((10_000, 1), (1_000, 0)):
        monkeypatch.setattr("dqn_zoo.experiments.report.MOST_FILM_BYTES", most_bytes)
        assert main([str(filmed), "-o", str(file)]) == 0
        assert len(data_of(file)["films"]) == num_films


def test_agents_that_came_with_the_package_are_no_runs_of_the_user(tmp_path, capsys):
    mine = make_run(tmp_path, "Pong")
    [agent, *_] = list_pretrained()
    packaged = unpack_pretrained(agent, log_folder=tmp_path, command=["dqn-enjoy"])
    file = tmp_path / "report.html"
    for folder, expected in ((tmp_path, mine), (packaged.path, packaged)):
        assert main([str(folder), "-o", str(file)]) == 0
        assert [row["run"] for row in data_of(file)["results"]] == [str(expected.path)]
    size = file.stat().st_size // 1000
    assert f"page: {file} ({size} KB); open it in a browser" in capsys.readouterr().out


def test_one_run_that_has_only_just_begun_has_a_page(tmp_path):
    config = resolve(env="Pong", overrides=TINY | {"n_timesteps": 80, "eval_freq": 0}).config
    run = train(config, log_folder=tmp_path, options=TrainOptions(progress=False)).run
    run.episodes_file.unlink()
    file = tmp_path / "report.html"
    assert main([str(run.path), "-o", str(file)]) == 0
    data = data_of(file)
    assert data["curves"] == []
    assert data["settings"]["differing"] == []


def test_a_full_disk_leaves_the_page_that_was_there(sweep, tmp_path, monkeypatch, capsys):
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "report.html"
    file.write_text("the page of yesterday")
    monkeypatch.setattr("dqn_zoo.system.files.write_file", full)
    assert main([str(sweep), "-o", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{file} cannot be written (No space left on device): make room" in line
    assert file.read_text() == "the page of yesterday"


def test_a_damaged_last_row_costs_its_numbers_and_no_more(sweep, tmp_path):
    run = tmp_path / "runs" / "dqn" / "Breakout_1"
    shutil.copytree(sweep / "runs" / "dqn" / "Breakout_1", run)
    progress = run / "progress.csv"
    *lines, last = progress.read_text().splitlines()
    progress.write_text("\n".join([*lines, last.replace(last.split(",")[0], "8\0x", 1)]) + "\n")
    file = tmp_path / "report.html"
    with pytest.warns(UserWarning, match="1 damaged rows are left out"):
        assert main([str(run), "-o", str(file)]) == 0
    assert None in data_of(file)["results"][0].values()


@pytest.mark.parametrize("damage", ["{", "[]", '{"mean_reward": 1}', "[NaN]"])
def test_damaged_results_and_folders_without_runs_are_one_line(sweep, tmp_path, capsys, damage):
    file = tmp_path / "report.html"
    assert main([str(tmp_path), "-o", str(file)]) == 2
    assert "holds no run of dqn-train: expected a config.yml in it" in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(sweep / "runs" / "dqn" / "Breakout_1", copy / "dqn" / "Breakout_1")
    broken = copy / "dqn" / "Breakout_1" / "results-last.json"
    broken.write_text(damage)
    assert main([str(copy), "-o", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{broken} is damaged: " in line
    assert line.endswith("; remove it, or play again with dqn-enjoy")
    assert not file.exists()
    shutil.copytree(sweep / "runs" / "dqn" / "Breakout_2", copy / "dqn" / "Breakout_2")
    assert main([str(copy), "-o", str(file)]) == 0  # the other has its page
    assert f"warning: left out: {broken} is damaged" in capsys.readouterr().err
    assert [row["seed"] for row in data_of(file)["results"]] == [2]


def test_a_sweep_with_a_damaged_file_has_a_page_without_its_table(sweep, tmp_path, capsys):
    copy, file = tmp_path / "copy", tmp_path / "report.html"
    shutil.copytree(sweep, copy)
    broken = copy / "runs" / "dqn" / "Breakout_1" / "results-last.json"
    broken.write_text("{")
    assert main([str(copy), "-o", str(file)]) == 0
    warnings = capsys.readouterr().err
    assert f"warning: the table of {copy} is left out: {broken} is damaged" in warnings
    assert data_of(file)["aggregates"] == []
    assert len(data_of(file)["results"]) == 3


@pytest.fixture
def opened(page):
    with opened_page(page.as_uri()) as tab:
        yield tab


@pytest.mark.browser
def test_the_page_opens_offline_and_shows_the_numbers(opened, page):
    assert opened.title().startswith("Two of them </script>")
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:video")] == [page.as_uri()]
    assert opened.locator("img").count() == 0
    assert opened.locator("svg").count() == 2
    assert opened.evaluate(
        "[...document.querySelectorAll('svg text')].every(text => text.getBBox().x"
        " + text.getBBox().width <= text.ownerSVGElement.viewBox.baseVal.width)"
    )
    rows = opened.locator("#results tbody tr").all_inner_texts()
    assert len(rows) == 4
    assert "12.5 +/- 3.5 in 30, 11.3 to 13.8" in rows[0]
    assert opened.locator("#settings td").all_inner_texts()[1:3] == ["double", "double"]
    assert "IQM" in opened.locator("#aggregates").inner_text()
    assert opened.locator("video").count() == 1


@pytest.mark.browser
def test_curves_are_read_by_mouse_and_keyboard_and_toggled(opened):
    picture = opened.locator("svg").first
    says = opened.locator(".says").first
    picture.hover(position={"x": 300, "y": 100})
    by_mouse = says.inner_text()
    assert re.match(r"[\d.]+ steps: double [\d.,-]+ \(.*\); dqn ", by_mouse)
    picture.focus()
    opened.keyboard.press("Home")
    assert says.inner_text().startswith("0.8 steps: ")
    opened.keyboard.press("End")
    assert says.inner_text().startswith("100 steps: ")
    toggle = opened.get_by_role("button", name="double")
    toggle.focus()
    opened.keyboard.press("Enter")
    assert toggle.get_attribute("aria-pressed") == "false"
    opened.locator("svg").first.focus()
    opened.keyboard.press("End")
    assert "double" not in opened.locator(".says").first.inner_text()
    opened.select_option("#axis", "time")
    opened.locator("svg").first.focus()
    opened.keyboard.press("End")
    assert " min: dqn" in opened.locator(".says").first.inner_text()
    assert opened.said == []


@pytest.mark.browser
def test_the_page_fits_a_phone(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    screenshots(opened, "report-phone")
