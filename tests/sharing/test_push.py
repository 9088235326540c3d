"""dqn-push with the real client of the Hub, against a stand-in on 127.0.0.1."""

import json
import re
import shutil
import time

import pytest
import yaml
from support.hub_commands import DEADLINE_S, Computer
from support.hub_standin import HubStandin, account, running_hub
from support.run_makers import make_run, weights_of

from dqn_zoo.errors import UserError
from dqn_zoo.play.film import check_film
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.hub import Account, Remote, choose_owner, parse_repo
from dqn_zoo.sharing.push import Staging, check_remote, doubts, is_of_an_agent
from dqn_zoo.system.locks import hold

REPO = "ann/dqn-Breakout"
UNFILMED = ("push", "--episodes", "3", "--num-threads", "1", "--no-render")
PUSH = (*UNFILMED[:-1], "--record-seconds", "2")
PUBLISHED = {
    "README.md",
    "config.json",
    "config.yml",
    "evaluations.csv",
    "learning_curve.png",
    "model.safetensors",
    "progress.csv",
    "replay.mp4",
    "results.json",
    "tensorboard/events.out.tfevents.1700000000.0.dqn-zoo",
}

# A picture of the curve takes longer than all else of a push: only pushes of `logged` have one.
OF_LOGS = {"evaluations.csv", "learning_curve.png", "progress.csv"}
PUSHED = PUBLISHED - OF_LOGS | {".gitattributes"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    """A finished run, with things in its folder that are nobody's business."""
    run = make_run(tmp_path_factory.mktemp("master"), network="small", max_frames=240)
    config = load_config(run.config_file)
    run.model_file.write_bytes(weights_of(1, 3_000, config))
    run.best_model_file.write_bytes(weights_of(2, 2_000, config))
    run.progress_file.write_text(
        "steps,time_s,return_mean\n1000,10.5,1.0\n2000,20.5,2.0\n3000,30.5,2.5\n"
    )
    run.episodes_file.write_text("steps,return\n500,1.0\n1700,2.0\n")
    run.evaluations_file.write_text("steps,mean,std\n2000,2.0,1.0\n")
    run.tensorboard.mkdir()
    name = "events.out.tfevents.1700000000.anns-laptop.1.0"  # as TensorBoard names them
    (run.tensorboard / name).write_bytes(b"events")
    (run.path / ".env").write_text("PASSWORD=1")
    return run


@pytest.fixture(scope="module")
def staged(trained, tmp_path_factory) -> tuple[Run, str]:
    """The same run after a dry run, so that a push has no game left to play; what it printed."""
    computer = Computer(tmp_path_factory.mktemp("computer"), hub=None)
    shutil.copytree(trained.path, computer.logs / "dqn" / "Breakout_1")
    ended = computer.run(*PUSH, "--dry-run", "--env", "Breakout")
    assert ended.code == 0, ended.output
    return Run(computer.logs / "dqn" / "Breakout_1"), ended.output


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def logged(tmp_path, hub, staged) -> Computer:
    computer = Computer(tmp_path, hub, token="hf_write")
    shutil.copytree(staged[0].path, computer.logs / "dqn" / "Breakout_1")
    return computer


@pytest.fixture
def computer(logged) -> Computer:
    """The same without the logs of its run."""
    run = Run(logged.logs / "dqn" / "Breakout_1")
    for log in (run.progress_file, run.episodes_file, run.evaluations_file):
        log.unlink()
    return logged  # its folder for the Hub still has the curve


def card_of(readme: bytes) -> dict:
    return yaml.safe_load(readme.decode().split("---\n")[1])


def test_a_dry_run_makes_and_checks_everything_without_a_network_or_a_token(staged):
    run, output = staged
    folder = run.path / "hub" / "dqn-Breakout"
    assert f"everything is in {folder}; nothing was uploaded" in output
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in names if "tfevents" in name} == set()  # no second run for TensorBoard
    assert set(Staging(path=folder, repo_id="-/dqn-Breakout").files()) == PUBLISHED
    assert len(names) == len(PUBLISHED)
    check_film(folder / "replay.mp4")
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "results.json").read_text())
    assert len(results["games"]) == results["n_eval_episodes"] == 3
    assert json.loads(run.results_file.read_text()) == results  # what a push plays is known
    assert (folder / "model.safetensors").read_bytes() == run.best_model_file.read_bytes()
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for secret in ("anns-laptop", str(run.path.parents[2]), "PASSWORD"):
        assert secret.encode() not in everything


def test_a_push_is_one_commit_of_exactly_the_published_files(logged, hub):
    ended = logged.run(*PUSH, "--env", "Breakout")
    assert ended.code == 0, ended.output
    assert "already played" in ended.output  # by the dry run
    repository = hub.repositories[REPO]
    assert set(repository.files()) == PUBLISHED | {".gitattributes"}
    assert repository.private is False
    assert len(repository.messages) == 2  # the Hub's own, and ours
    assert re.fullmatch(r"dqn on Breakout: \d+\.\d\d \+/- \d+\.\d\d", repository.messages[1])
    assert f"pushed: {hub.url}/{REPO} at commit {repository.branches['main']}" in ended.output
    assert "hf_write" not in ended.output
    assert b"hf_write" not in b"".join(repository.files().values())


def test_the_card_is_read_by_what_reads_cards_of_the_course(logged, hub):
    assert logged.run(*PUSH).code == 0
    files = hub.repositories[REPO].files()
    card, results = card_of(files["README.md"]), json.loads(files["results.json"])
    assert card["library_name"] == "dqn-zoo"
    assert card["tags"][:3] == [
        "BreakoutNoFrameskip-v4",
        "deep-reinforcement-learning",
        "reinforcement-learning",
    ]
    (model,) = card["model-index"]
    (result,) = model["results"]
    assert result["dataset"]["type"] == result["dataset"]["name"] == "BreakoutNoFrameskip-v4"
    assert result["dataset"]["args"]["protocol"] == "zoo with max_frames 240"
    (metric,) = result["metrics"]
    assert metric["type"] == "mean_reward"
    mean, std = (float(number) for number in metric["value"].split(" +/- "))
    assert mean == pytest.approx(results["mean_reward"], abs=0.005)
    assert std == pytest.approx(results["std_reward"], abs=0.005)
    text = files["README.md"].decode()
    for said in (
        f"mean - std, as the Hugging Face course counts: **{results['mean_minus_std']:.2f}**",
        "zoo with max_frames 240",
        "| epsilon | 0.01 |",
        "3 full games, raw scores, seed 0",
        "2,000 (8,000 frames)",  # of the best model
        "0.3 minutes",  # 20.5 s until then
        "learning_rate: 0.0001",
        f"dqn-enjoy --hub {REPO}",
        "![learning curve](learning_curve.png)",
    ):
        assert said in text, said
    assert "num_atoms" not in text  # has no effect in a DQN


def test_an_unchanged_push_makes_no_commit_and_a_changed_one_removes_what_is_stale(computer, hub):
    assert computer.run(*PUSH).code == 0
    ended = computer.run(*PUSH)
    assert "nothing is new" in ended.output
    assert len(hub.repositories[REPO].messages) == 2
    ended = computer.run(*UNFILMED, "-m", "without a film")
    assert (ended.code, "no film: --no-render" in ended.output) == (0, True)
    ended = computer.run(*PUSH, "--no-render")
    refusal = "--no-render makes no film: leave out --record-seconds" in ended.output
    assert (ended.code, refusal) == (2, True)
    assert set(hub.repositories[REPO].files()) == PUSHED - {"replay.mp4"}
    assert hub.repositories[REPO].messages[-1] == "without a film"
    files = hub.repositories[REPO].files()
    assert "replay.mp4" not in json.loads(files["config.json"])["files"]


def test_other_weights_are_played_anew(computer, hub):
    assert computer.run(*PUSH).code == 0
    ended = computer.run(*UNFILMED, "--load-last", "--episodes", "2")
    assert "already played" not in ended.output
    assert "last model (3,000 steps of training)" in ended.output
    files = hub.repositories[REPO].files()
    assert files["model.safetensors"] == weights_of(
        1, 3_000, load_config(computer.logs / "dqn" / "Breakout_1" / "config.yml")
    )


def test_weights_that_change_while_they_play_are_not_published(computer, hub):
    push_quickly = (*UNFILMED, "--episodes", "2")
    run = Run(computer.logs / "dqn" / "Breakout_1")
    later = weights_of(7, 2_500, load_config(run.config_file))
    push = computer.start(*push_quickly, "--fresh")
    deadline = time.monotonic() + DEADLINE_S
    while "from seed" not in push.output():  # the agent is loaded by now
        assert time.monotonic() < deadline, push.output()
        time.sleep(0.01)
    run.best_model_file.write_bytes(later)  # as a run that trains does
    output = push.wait(DEADLINE_S)
    assert push.returncode == 2, output
    assert "best_model.safetensors is another file than when its games began" in output
    assert hub.repositories == {}
    assert computer.run(*push_quickly).code == 0
    assert hub.repositories[REPO].files()["model.safetensors"] == later


def test_a_branch_a_private_repository_and_an_organisation(computer, hub):
    flags = ("-orga", "CLUB", "--repo-name", "breaker", "--private", "--revision", "trial")
    ended = computer.run(*UNFILMED, *flags)
    assert ended.code == 0, ended.output
    repository = hub.repositories["club/breaker"]  # as the Hub spells it
    assert repository.private is True
    assert set(repository.files("main")) == {".gitattributes"}
    assert set(repository.files("trial")) == PUSHED - {"replay.mp4"}
    assert ended.last_line == "next: dqn-verify club/breaker@trial"


def test_a_recipe_that_nobody_could_pull_is_refused_before_the_games(computer, hub):
    config = computer.logs / "dqn" / "Breakout_1" / "config.yml"
    config.write_text(config.read_text().replace("algo: dqn", "algo: 'größer'"))
    ended = computer.run(*PUSH, "--repo-name", "ok", "--fresh")
    assert ended.code == 2
    assert "the recipe is called 'größer', and dqn-pull takes letters" in ended.last_line
    assert "from seed" not in ended.output
    assert hub.repositories == {}


# --- What the Hub refuses

ONCE = 1
WRONG = [
    ("GET /api/whoami", 401, ONCE, r"does not accept the token.*hf auth login"),
    ("GET /api/whoami", 503, ONCE, r"has a fault: run the same command again"),
    ("GET /api/models/", 429, ONCE, r"too many requests"),
    ("POST /api/repos/create", 403, ONCE, r"does not let this token write"),
    ("POST /api/repos/create", 409, ONCE, r"has it already, or another push is under way"),
    ("POST /api/models/.*/preupload", 404, ONCE, r"has no .*such thing|you may see"),
    ("POST /api/models/.*/commit", 400, ONCE, r"did not accept this"),
    ("POST /api/models/.*/commit", 403, ONCE, r"does not let this token write"),
    ("POST /api/models/.*/commit", 409, ONCE, r"another push is under way"),
    ("POST /api/models/.*/commit", 412, ONCE, r"another commit in between"),
    ("POST /api/models/.*/commit", 429, ONCE, r"too many requests"),
    ("POST /api/models/.*/commit", 503, ONCE, r"has a fault"),
    ("POST /api/models/.*/commit", 0, ONCE, r"cannot be reached"),
    ("PUT /lfs/", 0, 1000, r"cannot be reached"),  # in the middle of an upload
    ("PUT /lfs/", 403, 1000, r"does not let this token write"),
]


@pytest.mark.parametrize(("request_line", "status", "times", "said"), WRONG)
def test_a_failure_is_one_line_leaves_no_repository_and_the_same_command_completes_it(
    request_line, status, times, said, computer, hub
):
    hub.fail(request_line, status, times)
    ended = computer.run(*PUSH)
    assert ended.code == 2
    assert ended.last_line.startswith("error: ")
    assert re.search(said, ended.last_line), ended.last_line
    errors = [line for line in ended.output.splitlines() if re.search(r"rror|Traceback|HTTP", line)]
    assert errors == [ended.last_line]
    assert hub.repositories == {}
    hub.failures.clear()
    ended = computer.run(*PUSH)
    assert ended.code == 0, ended.output
    assert "already played" in ended.output
    assert set(hub.repositories[REPO].files()) == PUSHED


def test_a_short_failure_is_waited_for(computer, hub):
    hub.fail("POST /api/models/.*/preupload", 429, times=1, Retry_After="0")
    hub.fail("PUT /lfs/", 503, times=1)
    ended = computer.run(*PUSH)
    assert ended.code == 0, ended.output
    assert "Retrying" not in ended.output


def test_a_repository_that_cannot_be_taken_back_is_named(computer, hub):
    hub.fail("POST /api/models/.*/commit", 503, times=1)
    hub.fail("DELETE /api/repos", 403)
    ended = computer.run(*PUSH)
    assert ended.code == 2
    assert f"the repository {hub.url}/{REPO} was made and stays empty" in ended.last_line
    hub.failures.clear()
    assert computer.run(*PUSH).code == 0
    assert set(hub.repositories[REPO].files()) == PUSHED


def test_a_branch_that_cannot_be_made_leaves_no_repository(computer, hub):
    hub.fail("POST /api/models/.*/branch", 403)
    ended = computer.run(*PUSH, "--revision", "trial")
    assert (ended.code, "does not let this token write" in ended.last_line) == (2, True)
    assert hub.repositories == {}


def test_a_failed_push_leaves_an_older_one_as_it_was(computer, hub):
    assert computer.run(*PUSH).code == 0
    before = dict(hub.repositories[REPO].files())
    hub.fail("POST /api/models/.*/commit", 503, times=1)
    assert computer.run(*UNFILMED).code == 2
    assert hub.repositories[REPO].files() == before


@pytest.mark.parametrize(
    ("token", "flags", "said"),
    [
        (
            "",
            (),
            r"there is no token of the Hub here: log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("hf_wrong", (), r"does not accept the token"),
        ("hf_read", (), r"the token may not write to ann"),
        ("hf_write", ("-orga", "bob"), r"may not write to 'bob' \(organisations: club, watchers\)"),
        ("hf_write", ("-orga", "watchers"), r"ann may only read in watchers"),
        ("hf_write", ("--repo-name", "a--b"), r"'USER/a--b' is no repository of the Hub"),
        ("hf_write", ("--repo-name", "../x"), r"is no repository of the Hub"),
        ("hf_write", ("--token", "hf_write"), r"can be seen by others: set HF_TOKEN"),
        ("hf_write", ("--episodes", "1"), r"at least 2"),
        ("hf_write", ("-n", "1000"), r"--episodes sets how many games"),
        ("hf_write", ("--env", "Pong"), r"no run of Pong"),
    ],
)
def test_what_cannot_be_pushed_is_known_before_the_first_game(token, flags, said, computer, hub):
    shutil.rmtree(computer.logs / "dqn" / "Breakout_1" / "hub")
    computer.token = token
    ended = computer.run(*PUSH, *flags)
    assert (ended.code, len(ended.output.splitlines())) == (2, 1), ended.output
    assert re.search(said, ended.output), ended.output
    assert hub.repositories == {}
    assert not any(line.startswith(("POST", "PUT")) for line in hub.requests)


def test_without_a_hub_a_push_is_one_line(tmp_path, staged):
    computer = Computer(tmp_path, hub=None, token="hf_write")
    shutil.copytree(staged[0].path, computer.logs / "dqn" / "Breakout_1")
    for variables, said in (({}, "cannot be reached"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE")):
        ended = computer.run(*PUSH, **variables)
        assert (ended.code, len(ended.output.splitlines())) == (2, 1)
        assert said in ended.output


def test_a_repository_of_something_else_is_not_touched(computer, hub):
    hub.add(REPO, {"dqn-BreakoutNoFrameskip-v4.zip": b"x", "README.md": b"mine"})
    ended = computer.run(*PUSH)
    assert (ended.code, len(ended.output.splitlines())) == (2, 1)
    assert "holds files of something else (dqn-BreakoutNoFrameskip-v4.zip)" in ended.output
    card = b"---\nlibrary_name: transformers\ntags:\n- pytorch\n---\n"
    hub.repositories.clear()
    hub.add(REPO, {"README.md": card, "config.json": b"{}", "model.safetensors": b"x"})
    ended = computer.run(*PUSH)
    assert (ended.code, len(ended.output.splitlines())) == (2, 1)
    assert "something else (config.json, model.safetensors), whose card lacks" in ended.output
    assert hub.repositories[REPO].messages == ["added"]


def test_a_repository_with_nothing_but_a_card_is_taken():
    made_on_the_page = Remote(REPO, "a" * 40, {"README.md": 20, ".gitattributes": 9}, {}, False)
    replaced = check_remote(made_on_the_page, REPO, is_of_an_agent, is_main=True)
    assert replaced == ["README.md"]


def test_a_public_repository_does_not_take_what_should_be_private(computer, hub):
    assert computer.run(*PUSH).code == 0
    ended = computer.run(*PUSH, "--private")
    assert (ended.code, len(ended.output.splitlines())) == (2, 1)
    assert "is public already" in ended.output


def test_a_link_in_the_staging_folder_is_not_followed(computer, hub, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not publish")
    folder = computer.logs / "dqn" / "Breakout_1" / "hub" / "dqn-Breakout"
    (folder / "notes.md").symlink_to(secret)
    (folder / "replay.mp4").unlink()
    (folder / "replay.mp4").symlink_to(secret)
    ended = computer.run(*UNFILMED)
    assert ended.code == 0, ended.output
    assert b"do not publish" not in b"".join(hub.repositories[REPO].files().values())
    assert secret.read_text() == "do not publish"


def test_a_link_among_the_logs_is_not_followed(computer, hub, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not publish")
    run = computer.logs / "dqn" / "Breakout_1"
    (run / "progress.csv").unlink(missing_ok=True)
    (run / "progress.csv").symlink_to(secret)
    (run / "tensorboard").mkdir(exist_ok=True)
    (run / "tensorboard" / "events.out.tfevents.1.other").symlink_to(secret)
    ended = computer.run(*UNFILMED)
    assert ended.code == 0, ended.output
    assert b"do not publish" not in b"".join(hub.repositories[REPO].files().values())


def test_a_broken_film_of_an_earlier_push_is_filmed_again(computer, hub):
    folder = computer.logs / "dqn" / "Breakout_1" / "hub" / "dqn-Breakout"
    (folder / "replay.mp4").write_bytes(b"no film")
    ended = computer.run(*PUSH, "--record-seconds", "1")
    assert ended.code == 0, ended.output
    assert "filming again:" in ended.output
    assert "replay.mp4 is no film that can be read" in ended.output
    assert hub.repositories[REPO].files()["replay.mp4"] != b"no film"


def test_of_two_pushes_of_one_run_the_second_waits_for_nobody(computer, hub):
    folder = computer.logs / "dqn" / "Breakout_1" / "hub"
    with hold(folder, what="it", otherwise="wait"):
        ended = computer.run(*PUSH)
    assert (ended.code, len(ended.output.splitlines())) == (2, 1)
    assert "is being written by process" in ended.last_line


def test_a_damaged_log_costs_rows_of_the_curve_and_not_the_push(computer, hub):
    run = computer.logs / "dqn" / "Breakout_1"
    for name in ("progress.csv", "episodes.csv"):
        (run / name).write_bytes(b"steps,return,return_mean,time_s\n1,2,3,4\n\xff\0,x\n")
    ended = computer.run(*PUSH)
    assert ended.code == 0, ended.output
    assert "1 damaged rows are left out" in ended.output


# --- Names and rights


@pytest.mark.parametrize(
    ("text", "repo_id", "revision"),
    [
        ("ann/dqn-Pong", "ann/dqn-Pong", None),
        ("hf://ann/dqn-Pong@v1", "ann/dqn-Pong", "v1"),
        ("https://huggingface.co/ann/dqn-Pong/", "ann/dqn-Pong", None),
    ],
)
def test_repositories_are_named_in_several_ways(text, repo_id, revision):
    assert parse_repo(text) == (repo_id, revision)


@pytest.mark.parametrize("text", ["ann", "ann/b/c", "ann/..", "ann/a--b", "/a", "ann/" + "x" * 97])
def test_names_that_the_hub_does_not_allow_are_refused(text):
    with pytest.raises(UserError, match="is no repository of the Hub"):
        parse_repo(text)


def test_a_fine_grained_token_writes_where_it_may():
    ann = Account("ann", {"club": "write"}, "fineGrained", frozenset({"ann/dqn-Pong"}))
    assert choose_owner(ann, None, "dqn-Pong") == "ann"
    with pytest.raises(UserError, match="the token may not write to ann"):
        choose_owner(ann, None, "other")
    with pytest.raises(UserError, match="the token may not write to club"):
        choose_owner(ann, "club", "dqn-Pong")


def test_a_fine_grained_token_is_understood_as_the_hub_describes_it(computer, hub: HubStandin):
    who = account("ann", "fineGrained")
    scope = {"entity": {"type": "user", "name": "ann"}, "permissions": ["repo.write"]}
    who["auth"]["accessToken"]["fineGrained"] = {"scoped": [scope], "global": []}
    hub.accounts["hf_write"] = who
    assert computer.run(*PUSH).code == 0
    scope["permissions"] = ["repo.content.read"]
    assert "the token may not write to ann" in computer.run(*PUSH).output


def test_a_push_of_the_latest_run_names_a_better_one_and_a_score_below_random(tmp_path):
    config = load_config(make_run(tmp_path).config_file)
    runs = [Run(tmp_path / "dqn" / "Breakout_1"), make_run(tmp_path), make_run(tmp_path)]
    runs[0].evaluations_file.write_text("steps,mean,std\n1000,9.5,1.0\n2000,7.0,1.0\n")
    make_run(tmp_path, protocol="machado").evaluations_file.write_text("steps,mean\n1000,99.0\n")
    better = (
        f"this is the latest run, with 5.0; {runs[0].path} has 9.5 in its best evaluation: "
        f"dqn-push --run {runs[0].path} publishes that one"
    )
    assert list(doubts(runs[2], config, 5.0, is_named=False)) == [better]
    assert list(doubts(runs[2], config, 5.0, is_named=True)) == []
    assert list(doubts(runs[2], config, 9.6, is_named=False)) == []
    below, _ = doubts(runs[2], config, 1.5, is_named=False)
    assert below == "this agent scores 1.5, and random play 1.7"
