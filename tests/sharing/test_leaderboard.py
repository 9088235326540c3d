"""The leaderboard: cards of anybody, one's own runs, the table, the CSV file and the page."""

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.browser import opened_page
from support.hub_commands import Computer, Ended
from support.hub_standin import running_hub
from support.run_makers import make_run, weights_of

from dqn_zoo.cli.leaderboard import main
from dqn_zoo.runs.manifest import write_origin_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.card import CardScore, read_score
from dqn_zoo.sharing.leaderboard import Leaderboard, Row, as_html, ranked

TAG = "BreakoutNoFrameskip-v4"
PASS_MARK = 25.0


def card(
    value: object, library: str | None = "stable-baselines3", tag: str = TAG, **arguments: object
) -> dict[str, bytes]:
    """Return a repository with a card as RL-Zoo writes it; `arguments` are our addition."""
    dataset = {"name": tag, "type": tag} | ({"args": arguments} if arguments else {})
    metric = {"type": "mean_reward", "value": value, "name": "mean_reward"}
    task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
    content = {
        "tags": [tag, "reinforcement-learning"],
        "model-index": [
            {"name": "DQN", "results": [{"task": task, "dataset": dataset, "metrics": [metric]}]}
        ],
    } | ({} if library is None else {"library_name": library})
    return {"README.md": f"---\n{yaml.safe_dump(content)}---\n# card\n".encode()}


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Path:
    """The folder of one's own run, which was played."""
    logs = tmp_path_factory.mktemp("played") / "logs"
    run = make_run(logs, network="small", max_frames=300)
    run.model_file.write_bytes(weights_of(1, 3_000, load_config(run.config_file)))
    play = ("--episodes", "2", "--num-threads", "1", "--no-render")
    ended = Computer(logs.parent, hub=None).run("enjoy", "--run", str(run.path), *play)
    assert ended.code == 0, ended.output
    results = json.loads(run.results_file.read_text())
    results |= {"mean_reward": 28.0, "std_reward": 2.0, "n_eval_episodes": 10}
    results["protocol"]["max_frames"] = 108_000
    run.results_file.write_text(json.dumps(results))
    return run.path


@pytest.fixture
def computer(tmp_path, played):
    with running_hub() as hub:
        hub.add("zoo/dqn", card("20.50 +/- 2.25"))
        hub.add("ann/best", card("40.00 +/- 3.00", "dqn-zoo", protocol="zoo", epsilon=0.01,
                                 n_eval_episodes=10, seed=0))  # fmt: skip
        hub.add("ann/sure", card("40.00 +/- 3.00", "dqn-zoo", protocol="zoo", epsilon=0.0))
        hub.add("bob/noisy", card("90.00 +/- 70.00", "cleanrl"))
        hub.add("eve/v5", card("30 +/- 1", None, tag="ALE/Breakout-v5"))
        both = card("5.00 +/- 1.00", None)["README.md"].replace(
            b"tags:\n", b"tags:\n- ALE/Breakout-v5\n"
        )
        hub.add("eve/both", {"README.md": both})
        hub.add("eve/private", card("99.00 +/- 0.00"), private=True)
        hub.add("eve/pong", card("21.00 +/- 0.00", tag="PongNoFrameskip-v4"))
        hub.add("eve/lucky", card("99.00 +/- 0.00", "dqn-zoo", protocol="zoo", epsilon=0.01,
                                  n_eval_episodes=2))  # fmt: skip
        hub.add("eve/none", {"README.md": f"---\ntags: [{TAG}]\n---\n".encode()})
        hub.add("eve/broken", card("very good"))
        hub.add("eve/list", card(["20.00 +/- 1.00"]))
        computer = Computer(tmp_path, hub)
        shutil.copytree(played, computer.logs / "dqn" / "Breakout_1")
        yield computer


def board(computer: Computer, *flags: str) -> tuple[Ended, list[dict[str, str]]]:
    file = computer.home / "board.csv"
    ended = computer.run("leaderboard", "--env", "Breakout", "--csv", str(file), *flags)
    assert ended.code == 0, ended.output
    with file.open() as lines:
        return ended, list(csv.DictReader(lines))


def test_cards_and_own_runs_are_ranked_by_mean_minus_std(computer):
    ended, rows = board(computer)
    own = str(computer.logs / "dqn" / "Breakout_1")
    assert [(row["rank"], row["name"], float(row["result"])) for row in rows] == [
        ("1", "ann/best", 37.0),
        ("1", "ann/sure", 37.0),
        ("3", "eve/v5", 29.0),
        ("4", own, 26.0),
        ("5", "bob/noisy", 20.0),
        ("6", "zoo/dqn", 18.25),
        ("7", "eve/both", 4.0),
        ("", "eve/lucky", 99.0),  # two games
    ]
    assert "- fewer than ten games: too few for a rank" in ended.output
    assert "10 cards read, 3 of them without a score that can be read" in ended.output
    assert f"{own} (yours)" in ended.output.replace("\n", "")
    assert rows[3]["is_own"] == "True"
    assert rows[0]["url"] == "https://huggingface.co/ann/best"
    pages = [line for line in computer.hub.requests if line == "GET /api/models"]
    assert len(pages) > 3  # lists come page by page


def test_rows_that_do_not_compare_are_marked(computer):
    _, rows = board(computer)
    rules = {row["name"].split("/")[-1]: (row["protocol"], row["is_same_protocol"]) for row in rows}
    assert rules == {
        "best": ("zoo, epsilon 0.01", "True"),
        "sure": ("zoo, epsilon 0", "False"),
        "v5": ("unknown", "False"),
        "Breakout_1": ("zoo, epsilon 0.01", "True"),
        "noisy": ("CleanRL's own", "False"),
        "dqn": ("sb3", "False"),
        "both": ("unknown", "False"),
        "lucky": ("zoo, epsilon 0.01", "True"),
    }
    ended, rows = board(computer, "--protocol", "sb3")
    assert [row["name"] for row in rows if row["is_same_protocol"] == "True"] == ["zoo/dqn"]
    assert "* not played by the protocol sb3" in ended.output


def test_the_table_is_short_but_shows_own_runs(computer):
    ended, rows = board(computer, "--top", "2")
    assert len(rows) == 8
    for shown, name in ((True, "ann/sure"), (True, "Breakout_1"), (False, "bob/noisy")):
        assert (name in ended.output) is shown
    assert "5 more: --top 8" in ended.output
    for library, own in (("cleanrl", "noisy"), ("sb3", "dqn"), ("RL-Zoo3", "dqn")):
        ended, rows = board(computer, "--library", library)
        assert [row["name"].split("/")[-1] for row in rows] == ["Breakout_1", own]
    ended, rows = board(computer, "--library", "sbx")
    assert [row["name"].split("/")[-1] for row in rows] == ["Breakout_1"]
    assert "no card of Breakout is by the library sbx; there are cards by: cleanrl, d" in (
        ended.output
    )


def test_cards_are_found_by_the_ids_of_other_libraries(computer):
    for tag in ("Breakout-v5", "Breakout-v4", "BreakoutDeterministic-v4"):
        computer.hub.add(f"fay/{tag}", card("1.00 +/- 0.50", None, tag=tag))
    _, rows = board(computer)
    assert {"fay/Breakout-v5", "fay/Breakout-v4", "fay/BreakoutDeterministic-v4"} <= {
        row["name"] for row in rows
    }


def test_without_a_network_nothing_is_waited_for_and_offline_is_offered(computer):
    computer.hub.fail("HEAD /", 0)
    ended = computer.run("leaderboard", "--env", "Breakout")
    assert (ended.code, len(ended.output.splitlines())) == (2, 1), ended.output
    assert "cannot be reached" in ended.output
    assert ended.output.strip().endswith("; --offline ranks your own runs alone")
    assert not [line for line in computer.hub.requests if "models" in line]
    html = computer.home / "board.html"
    ended, _ = board(computer, "--offline", "--html", str(html))
    assert "cards read" not in ended.output
    data = json.loads(html.read_text().split('id="data">')[1].split("</script>")[0])
    assert data["is_offline"] is True


def test_pulled_and_broken_runs_are_no_own_ones(computer):
    folder = computer.logs / "dqn"
    pulled = Run(shutil.copytree(folder / "Breakout_1", folder / "Breakout_2"))
    write_origin_manifest(pulled, command=["dqn-pull"], seed=0, protocol={}, steps=1, origin={})
    for number, content in ((3, "{"), (4, '{"mean_reward": "high"}'), (5, "[]")):
        shutil.copytree(folder / "Breakout_1", folder / f"Breakout_{number}")
        (folder / f"Breakout_{number}" / "results.json").write_text(content)
    ended, rows = board(computer, "--offline")
    assert [Path(row["name"]).name for row in rows] == ["Breakout_1"]
    assert len(re.findall(r"warning: .*Breakout_[345] is left out", ended.output)) == 3
    assert not [line for line in computer.hub.requests if "models" in line]


@pytest.mark.parametrize(
    ("failure", "flags", "said"),
    [
        (("GET /api/models", 429), (), r"too many requests"),
        (("GET /api/models", 503), (), r"has a fault"),
        (("GET /api/models", 0), (), r"cannot be reached"),
        (None, ("--env", "Brakout"), r"did you mean Breakout"),
        (None, ("--csv", "/nowhere/at/all.csv"), r"cannot be written"),
        (None, ("--html", "."), r"cannot be written"),
    ],
)
def test_mistakes_and_failures_are_one_line(computer, failure, flags, said):
    if failure is not None:
        computer.hub.fail(*failure)
    ended = computer.run("leaderboard", "--env", "Breakout", *flags)
    assert (ended.code, len(ended.output.splitlines())) == (2, 1), ended.output
    assert re.search(said, ended.output)


def test_a_folder_that_was_named_has_to_hold_runs(tmp_path, capsys):
    (tmp_path / "logs/dqn/Pong_1").mkdir(parents=True)
    (tmp_path / "logs/dqn/Pong_1/manifest.json").write_text("{}")
    for folder, said in (("log", ", did you mean "), ("logs/dqn", "of one recipe"), ("", "below")):
        assert main(["--offline", "-f", str(tmp_path / folder)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"{tmp_path / folder} holds no run; " in line
        assert said in line


def test_no_agent_at_all_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--offline"]) == 0
    assert "no agent of SpaceInvaders has a score here" in capsys.readouterr().out


# --- Cards are written by anybody

PLAIN = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(PLAIN, PLAIN, PLAIN)
def test_no_card_breaks_the_reader(index: Any, value: Any, arguments: Any):
    metric = {"type": "mean_reward", "value": value}
    for model_index in (
        index,
        [index],
        [{"results": index}],
        [{"results": [{"metrics": index, "dataset": arguments}]}],
        [{"results": [{"metrics": [metric], "dataset": {"args": arguments}}]}],
    ):
        score = read_score({"model-index": model_index, "library_name": value})
        assert score is None or isinstance(score, CardScore)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("622.50 +/- 201.56", (622.5, 201.56)),
        ("-21.00 +/- 0.00", (-21.0, 0.0)),
        (" 1e3+/-2 ", (1000.0, 2.0)),
        ("5.0 \u00b1 1.5", (5.0, 1.5)),
        ("622.50", None),
        (622.5, None),
        ("nan +/- 1", None),
        ("1e999 +/- 1", None),
        ("5 +/- -1", None),
        ("5 +/- 1 <script>", None),
    ],
)
def test_a_score_is_a_mean_and_a_deviation(value, expected):
    index = [{"results": [{"metrics": [{"type": "mean_reward", "value": value}]}]}]
    score = read_score({"model-index": index})
    assert (None if score is None else (score.mean, score.std)) == expected


# --- The page


def row(name: str, mean: float, std: float, **changes: Any) -> Row:
    plain: dict[str, Any] = {
        "owner": name.partition("/")[0],
        "library": "dqn-zoo",
        "num_games": 10,
        "protocol": "zoo, epsilon 0.01",
        "is_same_protocol": True,
        "updated": "2026-11-26",
        "url": "" if changes.get("is_own") else f"https://huggingface.co/{name}",
        "is_own": False,
    }
    return Row(name=name, mean=mean, std=std, result=mean - std, **plain | changes)


def page(tmp_path: Path) -> Path:
    rows = [
        row("ann/best", 40.0, 3.0),
        row("bob/sb3", 35.5, 4.5, library="stable-baselines3", protocol="sb3",
            is_same_protocol=False),
        row("logs/dqn/Breakout_1", 28.0, 2.0, is_own=True),
        row("eve/late", 24.0, 6.0, num_games=None, updated="2026-01-02"),
        row("</script><img src=x onerror=alert(1)>", 12.0, 1.0, url="javascript:alert(1)",
            library="<b>x</b>"),
    ]  # fmt: skip
    rows += [row(f"many/{number}", 10.0 - number / 10, 1.0) for number in range(40)]
    made = Leaderboard(
        game="Breakout",
        protocol="zoo",
        pass_mark=PASS_MARK,
        rows=tuple(ranked(rows)),
        num_cards=47,
        num_unreadable=3,
        made="2026-11-26 12:00",
        is_offline=False,
    )
    path = tmp_path / "board.html"
    path.write_text(as_html(made), encoding="utf-8")
    return path


def test_no_card_can_end_the_data_of_the_page(tmp_path):
    text = page(tmp_path).read_text()
    data = text.split('id="data">')[1].split("</script>")[0]
    assert len(json.loads(data)["rows"]) == 45
    assert "<img" not in text
    assert not re.search(r"https?://(?!huggingface\.co)", text)


@pytest.fixture
def opened(tmp_path):
    """The page in a real browser, and all that it logs and asks for."""
    with opened_page(page(tmp_path).as_uri()) as tab:
        yield tab


def names(tab) -> list[str]:
    cells = tab.locator("tbody td.text:nth-child(2)").all_inner_texts()
    return [text.removesuffix("yours").strip() for text in cells]


@pytest.mark.browser
def test_the_page_opens_offline_and_runs_nothing_of_a_card(opened, tmp_path):
    assert opened.title() == "Breakout leaderboard"
    assert names(opened)[:3] == ["ann/best", "bob/sb3", "logs/dqn/Breakout_1"]
    assert "</script><img src=x onerror=alert(1)>" in names(opened)
    assert opened.locator("img").count() == 0
    links = opened.locator("tbody a").evaluate_all("all => all.map(link => link.href)")
    assert "https://huggingface.co/ann/best" in links
    assert all(link.startswith("https://huggingface.co/") for link in links)
    assert opened.said == []
    assert opened.asked == [(tmp_path / "board.html").as_uri()]
    assert "3 of 47 cards have no score" in opened.inner_text("#about")
    assert opened.locator("tr.own").count() == 1
    assert opened.locator("tr.mark td.text").first.inner_text().startswith("logs/dqn/Breakout_1")
    assert "\u2020" in opened.locator("tbody tr").nth(1).inner_text()


@pytest.mark.browser
def test_the_page_sorts_by_mouse_and_keyboard(opened):
    mean = opened.get_by_role("button", name="mean", exact=True)
    mean.click()
    assert names(opened)[0] == "ann/best"
    assert opened.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    mean.focus()
    opened.keyboard.press("Enter")
    assert names(opened)[0] == "many/39"
    assert opened.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    opened.get_by_role("button", name="games").click()
    opened.get_by_role("button", name="games").click()
    assert names(opened)[-1] == "eve/late"  # unknown comes last, whichever way
    opened.get_by_role("button", name="agent").click()
    assert names(opened)[1] == "ann/best"


@pytest.mark.browser
def test_the_page_filters(opened):
    opened.fill("#search", "MANY/3")
    assert names(opened) == ["many/3", *(f"many/{number}" for number in range(30, 40))]
    assert opened.inner_text("#count") == "11 of 45 agents"
    opened.fill("#search", "")
    opened.select_option("#library", "stable-baselines3")
    assert names(opened) == ["bob/sb3"]
    opened.check("#same")
    assert opened.inner_text("#count") == "0 of 45 agents"


@pytest.mark.browser
def test_the_page_fits_a_phone(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    width = opened.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    assert opened.locator("#sorting").is_visible()
    opened.select_option("#sorting", "updated")
    assert names(opened)[-1] == "eve/late"
    if os.environ.get("SCREENSHOTS"):
        folder = Path(os.environ["SCREENSHOTS"])
        opened.screenshot(path=folder / "phone.png")
        opened.set_viewport_size({"width": 1100, "height": 900})
        opened.select_option("#sorting", "rank", force=True)
        opened.screenshot(path=folder / "desktop.png")
        opened.emulate_media(color_scheme="dark")
        opened.screenshot(path=folder / "dark.png")
