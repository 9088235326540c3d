"""Answers of a Hub: whatever it says, a command gets what it can rely on, or one line."""

import json
import resource
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import ANY_JSON, damaged, outcome
from support.hub_commands import DEADLINE_S
from support.hub_standin import HubStandin, account, running_hub

from dqn_zoo.cli.arguments import command
from dqn_zoo.errors import UserError
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.hub_answers import Model
from dqn_zoo.sharing.leaderboard import make_leaderboard

FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
REPO = "ann/dqn-Pong"
TAG = "PongNoFrameskip-v4"
CARD = f"---\ntags: [{TAG}]\n---\n".encode()
WHOAMI = account("ann", "fineGrained", club="write") | {
    "auth": {
        "accessToken": {
            "role": "fineGrained",
            "fineGrained": {"scoped": [{"entity": {"name": "ann"}, "permissions": ["repo.write"]}]},
        }
    }
}
MODEL = {
    "id": REPO,
    "sha": "a" * 40,
    "private": False,
    "tags": [TAG],
    "library_name": "dqn-zoo",
    "lastModified": "2026-11-26T12:00:00.000Z",
    "cardData": {"model-index": [{"results": []}], "tags": [TAG]},
    "siblings": [{"rfilename": "config.json", "size": 7}, {"rfilename": "x.csv"}],
}


@pytest.fixture(scope="module")
def serving():
    with running_hub() as server:
        yield server


@pytest.fixture
def standin(serving: HubStandin, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", serving.url)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", serving.url + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    serving.repositories.clear()
    serving.requests.clear()
    yield serving
    serving.changes.clear()


def answering(standin: HubStandin, pattern: str, content: bytes) -> None:
    standin.changes[:] = [(pattern, lambda _: content)]


def as_bytes(document: object) -> bytes:
    return json.dumps(document).encode()


def answers(good: object) -> st.SearchStrategy[bytes]:
    return (damaged(good) | ANY_JSON).map(as_bytes) | st.binary(max_size=20)


def is_plain(text: str) -> bool:
    return text.isprintable() and len(text) < 2_000


def said(error: UserError, capsys) -> str:
    """Return what the command line prints of an error."""

    @command
    def fails(_):
        raise error

    assert fails([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


@FEW
@given(content=answers(WHOAMI))
def test_an_account_is_understood_or_refused_in_one_line(content, standin, capsys):
    answering(standin, "GET /api/whoami-v2", content)
    owner = outcome(lambda: hub.choose_owner(hub.read_account(), None, "dqn-Pong"))
    assert is_plain(said(owner, capsys) if isinstance(owner, UserError) else owner)


@FEW
@given(content=answers(MODEL))
def test_a_repository_is_understood_or_refused_in_one_line(content, standin, capsys):
    standin.add(REPO, {"README.md": CARD})
    answering(standin, f"GET /api/models/{REPO}", content)
    remote = outcome(lambda: hub.look_up(REPO))
    if isinstance(remote, UserError):
        assert is_plain(said(remote, capsys))
    else:
        assert is_plain(remote.repo_id)
        assert len(remote.commit) == 40
        assert all(size is None or size >= 0 for size in remote.files.values())


@FEW
@given(content=answers([MODEL, MODEL | {"id": "bob/other"}]))
def test_one_odd_element_of_a_list_does_not_cost_the_others(content, standin, tmp_path, capsys):
    answering(standin, "GET /api/models", content)
    board = outcome(lambda: make_leaderboard("Pong", "zoo", log_folder=tmp_path))
    if isinstance(board, UserError):
        assert is_plain(said(board, capsys))
    else:
        assert board.num_unreadable <= board.num_cards


def test_a_question_is_asked_again_after_a_fault_and_not_after_what_will_stay(standin, monkeypatch):
    waited = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waited.append))
    commit = standin.add(REPO, {"README.md": CARD})
    standin.fail("GET /api/models", 502, times=2)
    assert hub.look_up(REPO).commit == commit
    assert sum(waited) == 3
    standin.fail("GET /api/models", 429, times=1, Retry_After="3600")
    with pytest.raises(UserError, match="too many requests"):
        hub.look_up(REPO)
    standin.fail("GET /api/models", 403, times=1)
    with pytest.raises(UserError, match="does not let you read this: ask for access"):
        hub.look_up(REPO)


def test_an_account_without_what_is_not_needed_is_taken(standin):
    answering(standin, "GET /api/whoami-v2", b'{"name": "ann", "orgs": [7, {"name": "club"}]}')
    account = hub.read_account()
    assert account == hub.Account("ann", {"club": "write"}, "write", frozenset())
    answering(standin, "GET /api/whoami-v2", b'{"name": "ann"}')
    assert hub.choose_owner(hub.read_account(), None, "x") == "ann"
    answering(standin, "GET /api/whoami-v2", b'{"orgs": []}')
    with pytest.raises(UserError, match=r"answer to /api/whoami-v2 is damaged: name: it is miss"):
        hub.read_account()


def test_a_size_that_is_not_said_is_unknown_and_not_0(standin):
    standin.add(REPO, {"README.md": CARD})
    answering(standin, f"GET /api/models/{REPO}", as_bytes(MODEL))
    remote = hub.look_up(REPO)
    assert remote is not None
    assert remote.files == {"config.json": 7, "x.csv": None}


def test_an_odd_model_in_a_list_is_counted_and_passed_over(standin):
    odd = [7, {"id": "\x1b[2J/x"}, {"no": "id"}]
    answering(standin, "GET /api/models", as_bytes([*odd, MODEL]))
    found = list(hub.list_models(TAG))
    assert [each is None for each in found] == [True, True, True, False]
    assert isinstance(found[3], Model)
    assert found[3].updated == MODEL["lastModified"]


def test_a_list_does_not_lead_elsewhere(standin, monkeypatch):
    from dqn_zoo.sharing import hub_answers

    pages = iter([([MODEL], "http://elsewhere.example/api/models")])
    monkeypatch.setattr(hub_answers, "_get", lambda *_, **__: next(pages))
    models = hub.list_models(TAG)
    assert next(models) is not None
    with pytest.raises(UserError, match="goes on elsewhere"):
        next(models)


def test_escapes_in_an_id_or_a_commit_do_not_reach_the_terminal(standin, capsys):
    for change in ({"id": "ann/\x1b[2J"}, {"sha": "\x1b]0;x\x07"}):
        standin.add(REPO, {"README.md": CARD})
        answering(standin, f"GET /api/models/{REPO}", as_bytes(MODEL | change))
        with pytest.raises(UserError, match=r"is damaged: (id|sha): ") as caught:
            hub.look_up(REPO)
        assert is_plain(said(caught.value, capsys))


# --- A push whose answer is lost on its way back


def push(tmp_path: Path, **options) -> hub.Uploaded:
    file = tmp_path / "config.json"
    file.write_text("{}")
    options = {"private": False, "before": None, "message": "m"} | options
    return hub.upload(REPO, {"config.json": file}, **options)


COMMIT = f"POST /api/models/{REPO}/commit/main"


@pytest.mark.parametrize("content", [b"{}", b"[]", b"", b'{"commitOid": "x", "commitUrl": 7}'])
def test_a_commit_that_arrived_is_a_push_whatever_the_answer(content, standin, tmp_path):
    answering(standin, COMMIT, content)
    uploaded = push(tmp_path)
    assert uploaded.commit == standin.repositories[REPO].branches["main"]
    assert uploaded.is_new
    assert not [line for line in standin.requests if line.startswith("DELETE")]


def test_a_repository_is_not_deleted_while_its_state_is_unknown(standin, tmp_path):
    standin.changes[:] = [(COMMIT, lambda _: b"{}"), (f"GET /api/models/{REPO}", lambda _: b"[]")]
    with pytest.raises(UserError, match="whether it holds the commit its page tells"):
        push(tmp_path)
    assert "config.json" in standin.repositories[REPO].files()


def test_a_hub_that_falls_silent_in_a_push_is_not_waited_for(standin, tmp_path, monkeypatch):
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    monkeypatch.setattr(hub, "SILENCE_S", 0.2)
    monkeypatch.setattr("dqn_zoo.sharing.hub_answers.PATIENCE_S", 0.2)
    is_over = threading.Event()
    standin.changes[:] = [(COMMIT, lambda answer: answer if is_over.wait(DEADLINE_S) else b"")]
    try:
        started = time.monotonic()
        with pytest.raises(UserError, match="cannot be reached"):
            push(tmp_path)
        assert time.monotonic() - started < DEADLINE_S
    finally:
        is_over.set()
        set_client_factory(default_client_factory)


@pytest.mark.parametrize(
    "theirs", [{"README.md": b"theirs"}, {"README.md": b"theirs", "config.json": b"theirs"}]
)
def test_a_commit_of_somebody_else_after_the_repository_was_made_stays(theirs, standin, tmp_path):
    def with_theirs(answer: bytes) -> bytes:
        standin.add(REPO, theirs)
        return answer

    standin.changes[:] = [("POST /api/models/.*/preupload/.*", with_theirs)]
    with pytest.raises(UserError, match="got another commit in between"):
        push(tmp_path)
    assert standin.repositories[REPO].files() == theirs


def test_what_somebody_else_put_there_before_it_was_looked_at_stays(standin, tmp_path):
    def with_theirs(answer: bytes) -> bytes:
        standin.add(REPO, {"config.json": b"theirs"})
        return answer

    standin.changes[:] = [("POST /api/repos/create", with_theirs)]
    with pytest.raises(UserError, match="has got files of somebody else since it was made"):
        push(tmp_path)
    assert standin.repositories[REPO].files() == {"config.json": b"theirs"}


def test_a_new_repository_that_somebody_else_has_filled_is_not_removed(standin, tmp_path):
    def with_theirs(_: bytes) -> bytes:
        standin.add(REPO, {"README.md": b"theirs"})
        return b"[]"

    standin.changes[:] = [("POST /api/models/.*/preupload/.*", with_theirs)]
    with pytest.raises(UserError, match="cannot be read"):
        push(tmp_path)
    assert standin.repositories[REPO].files() == {"README.md": b"theirs"}


def test_the_answer_to_a_new_repository_may_be_odd(standin, tmp_path):
    answering(standin, "POST /api/repos/create", b"[]")
    assert push(tmp_path).is_new


@settings(FEW, max_examples=10)
@given(content=answers({"success": True, "commitOid": "a" * 40, "commitUrl": "http://x/y/commit"}))
def test_any_answer_to_a_commit_is_a_push_or_one_line(content, standin, tmp_path, capsys):
    standin.repositories.clear()
    answering(standin, COMMIT, content)
    uploaded = outcome(lambda: push(tmp_path))
    assert not isinstance(uploaded, UserError) or is_plain(said(uploaded, capsys))
    assert "config.json" in standin.repositories[REPO].files()


def test_a_cache_on_a_full_disk_is_named(standin, tmp_path, capsys):
    commit = standin.add(REPO, {"config.json": b"x" * 10_000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        found = outcome(lambda: hub.download(REPO, "config.json", commit))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(found, UserError)
    line = said(found, capsys)
    assert f"{tmp_path / 'cache'}" in line
    assert "cannot be used (File too large): make room" in line
