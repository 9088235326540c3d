"""The Hugging Face Hub as far as agents need it; `hub_failures.py` says what goes wrong with it.

A Space goes by `spaces/owner/name`, as in the address of its page. Nothing here knows what the
files mean. huggingface_hub is imported when it is first used. What is imported `as` itself is for
those who use the Hub, too.
"""

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

from dqn_zoo.errors import UserError
from dqn_zoo.sharing.hub_answers import (
    PATIENCE_S,
    Commit,
    Model,
    ModelAtCommit,
    WhoAmI,
    ask,
    ask_for_list,
)
from dqn_zoo.sharing.hub_failures import (
    LOG_IN,
    OVERTAKEN,
    TOKENS_PAGE,
    UnreadableError,
    explained,
    status_of,
)
from dqn_zoo.sharing.hub_failures import UnreachableError as UnreachableError
from dqn_zoo.sharing.hub_failures import may_pass as may_pass
from dqn_zoo.sharing.hub_failures import page as page
from dqn_zoo.sharing.hub_failures import seconds_to_wait as seconds_to_wait
from dqn_zoo.system.documents import checked
from dqn_zoo.system.files import replace_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
"""The branch of a repository that is meant where none is named."""

SPACES = "spaces/"

SILENCE_S = 120.0
"""For a sign of life, of a Hub that takes in gigabytes; the client would wait for ever."""

_T = TypeVar("_T")


class RepoName(NamedTuple):
    """A repository as the user named it.

    Attributes:
        repo_id: `owner/name`.
        revision: branch, tag or commit; None: `main`.
    """

    repo_id: str
    revision: str | None


class Account(NamedTuple):
    """Whose token it is and where it may write.

    Attributes:
        name: of the user.
        organisations: that the user is a member of, with the role in each.
        role: of the token: `write`, `read` or `fineGrained`.
        writable: owners and repositories that a fine-grained token may write to.
    """

    name: str
    organisations: dict[str, str]
    role: str
    writable: frozenset[str]


class Remote(NamedTuple):
    """A repository at one commit.

    Attributes:
        repo_id: `owner/name`, as the Hub spells it.
        commit: its 40 hexadecimal digits.
        files: size in bytes by path; None where the Hub does not say it.
        card: metadata at the top of the README.
        private: only its owner sees it.
    """

    repo_id: str
    commit: str
    files: dict[str, int | None]
    card: dict[str, Any]
    private: bool


class Uploaded(NamedTuple):
    """What an upload came to: the repository's page, its commit, whether anything was new."""

    url: str
    commit: str
    is_new: bool


def parse_repo(text: str) -> RepoName:
    """Read `USER/REPO`, `USER/REPO@REVISION`, either with `hf://` or the address of its page.

    Raises:
        UserError: not of that form, or a name that the Hub does not allow.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    bare = re.sub(r"^(hf://|https?://(www\.)?huggingface\.co/)", "", text.strip()).rstrip("/")
    repo_id, _, revision = bare.partition("@")
    try:
        if repo_id.count("/") != 1:
            raise HFValidationError("there is not one slash")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        problem = str(error).split(": '")[0].rstrip(".")
        raise UserError(
            f"{text!r} is no repository of the Hub ({problem}): expected USER/REPO, as in "
            "ann/dqn-SpaceInvaders, or USER/REPO@REVISION"
        ) from None
    return RepoName(repo_id, revision or None)


def read_account() -> Account:
    """Ask the Hub whose token this is.

    Raises:
        UserError: there is no token, it is not valid, or the Hub does not answer.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(f"there is no token of the Hub here: {LOG_IN}")
    with explained("the Hub"):
        answer = ask("/api/whoami-v2", WhoAmI)
    return Account(
        name=answer.name,
        organisations={each.name: each.role or "write" for each in answer.organisations},
        role=answer.token.role or "write",
        writable=frozenset(
            scope.entity.name for scope in answer.token.scopes if "repo.write" in scope.permissions
        ),
    )


def choose_owner(
    account: Account, wanted: str | None, repo_name: str, *, instead: str = "leave -orga out"
) -> str:
    """Return the owner of a repository to push to, spelled as the Hub spells it.

    `wanted`, in any case, is a user or an organisation, or None for the token's own user; `instead`
    says what to do to write there.

    Raises:
        UserError: the account or its token may not write there.
    """
    known = {name.lower(): name for name in (account.name, *account.organisations)}
    owner = known.get((wanted or account.name).lower())
    if owner is None:
        mine = ", ".join(account.organisations) or "none"
        raise UserError(
            f"the token is {account.name}'s, who may not write to {wanted!r} (organisations: "
            f"{mine}): {instead} to push to {account.name}, or use a token of {wanted}"
        )
    if account.organisations.get(owner) == "read":
        raise UserError(
            f"{account.name} may only read in {owner}: ask there for the right to write, or "
            f"{instead} to push to {account.name}"
        )
    may_write = account.writable & {owner, f"{owner}/{repo_name}"}
    if account.role == "read" or (account.role == "fineGrained" and not may_write):
        raise UserError(
            f"the token may not write to {owner}: make one with the right to write at "
            f"{TOKENS_PAGE}, and {LOG_IN.split(' (')[0]}"
        )
    return owner


def _typed(repo_id: str) -> tuple[str, Literal["model", "space"]]:
    """Return name and kind of a repository, as the client takes them."""
    bare = repo_id.removeprefix(SPACES)
    return bare, "model" if bare == repo_id else "space"


def look_up(repo_id: str, revision: str | None = None) -> Remote | None:
    """Return what a repository holds at a revision; None where the Hub knows no such repository.

    Raises:
        UnreachableError: the Hub does not answer.
        UserError: no such revision, or whatever else the Hub says.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    try:
        with explained(repo_id):
            where = repo_id if repo_id.startswith(SPACES) else f"models/{repo_id}"
            info = ask(f"/api/{where}{at}", ModelAtCommit, parameters={"blobs": True})
    except UserError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            return None
        raise
    files = {file.name: file.size for file in info.siblings}
    spelled = f"{SPACES if repo_id.startswith(SPACES) else ''}{info.id}"
    return Remote(spelled, info.sha, files, info.card or {}, bool(info.private))


def read_json(repo_id: str, name: str, commit: str, model: type[_T]) -> _T:
    """Return a small file of a repository, held against its model; no copy is kept.

    Raises:
        UnreadableError: it is not what it should be.
        UserError: as `look_up`.
    """
    with explained(repo_id):
        return ask(f"/{repo_id}/resolve/{commit}/{name}", model)


def look_up_branch(repo_id: str, branch: str | None) -> Remote | None:
    """Return what a branch holds, or what it would begin with: where it is missing, `main`.

    Raises:
        UserError: as `look_up`.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return look_up(repo_id, branch)
    except UserError as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            return look_up(repo_id)
        raise


def upload(
    repo_id: str,
    files: Mapping[str, Path],
    *,
    message: str,
    private: bool,
    revision: str | None = None,
    before: Remote | None,
    stale: Sequence[str] = (),
) -> Uploaded:
    """Put files into a repository in one commit, or not at all.

    A repository that was made for it and whose commit then failed is removed again, unless it
    holds the commit after all, since an answer can be lost or damaged on its way back, or one of
    somebody else.

    Args:
        repo_id: `owner/name`, or that of a Space.
        files: where each lies, by its path in the repository.
        message: of the commit.
        private: whether a new repository is private.
        revision: branch, made where missing; None: `main`.
        before: what the repository held when the files were prepared, None where there was none: a
            commit that came in between is not overwritten.
        stale: paths that the same commit removes.

    Raises:
        UserError: the Hub refuses or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(path, file) for path, file in sorted(files.items())),
        *(CommitOperationDelete(path, is_folder=False) for path in sorted(stale)),
    ]
    _give_up_after_silence()
    api = _api()
    name, kind = _typed(repo_id)
    made = _make(api, repo_id, private=private) if before is None else None
    parent = before or made
    try:
        with explained(repo_id):
            if revision not in (None, MAIN):
                api.create_branch(name, repo_type=kind, branch=str(revision), exist_ok=True)
            commit = api.create_commit(
                name,
                operations,
                repo_type=kind,
                commit_message=message,
                revision=revision,
                parent_commit=None if parent is None else parent.commit,
            )
            oid = checked(commit.oid, Commit, "the Hub's answer to the commit")
    except BaseException as error:
        if before is not None:
            raise
        arrived = _arrived(repo_id, revision, files)
        if arrived and isinstance(error, UserError) and status_of(error) != OVERTAKEN:
            return Uploaded(page(repo_id), arrived, is_new=True)
        _take_back(api, repo_id, error, made, arrived)
        raise
    return Uploaded(page(repo_id), oid, is_new=before is None or oid != before.commit)


def download(repo_id: str, name: str, revision: str, *, from_cache: bool = False) -> Path:
    """Return where a file lies in the cache, downloaded if it was not there yet.

    Args:
        repo_id: `owner/name`.
        name: path in the repository.
        revision: a commit, so that the file cannot change under way; with `from_cache` also a
            branch, which means its commit at the last download.
        from_cache: ask nobody.

    Raises:
        UnreachableError: the Hub does not answer, or the cache does not have it.
        UserError: the Hub refuses.
    """
    with explained(repo_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a disk that is nearly full; the error says it
        path = _api().hf_hub_download(repo_id, name, revision=revision, local_files_only=from_cache)
    return Path(path)


def remember_branch(downloaded: Path, revision: str | None) -> None:
    """Let the cache know that a branch is at the commit of a file, to be pulled offline later."""
    commit, repository = downloaded.parent.name, downloaded.parents[2]  # .../snapshots/COMMIT/name
    ref = repository / "refs" / (revision or MAIN)
    if revision == commit:
        return
    with suppress(OSError):  # the file is there all the same
        ref.parent.mkdir(parents=True, exist_ok=True)
        replace_file(ref, commit.encode())


def forget(commit: str) -> None:
    """Remove one commit, which is of one repository, from the cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with suppress(CacheNotFound):
        scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(commit).execute()


def list_models(tag: str) -> Iterator[Model | None]:
    """Yield the public repositories that carry a tag, with the metadata of their cards.

    One that cannot be understood is None.

    Raises:
        UnreachableError: the Hub does not answer.
        UserError: the Hub refuses.
    """
    with explained("the Hub"):
        yield from ask_for_list("/api/models", parameters={"filter": tag, "cardData": True})


def check_reachable() -> None:
    """Find out within seconds whether the Hub can be asked; lists are tried for half a minute.

    Raises:
        UnreachableError: nothing answers, or the client was told to stay offline.
    """
    from huggingface_hub import constants, get_session

    with explained("the Hub"):
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_S)


def _give_up_after_silence() -> None:
    """Let the client of this process wait for `SILENCE_S`; for downloads it has a limit."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def impatient() -> Any:
        client = default_client_factory()
        client.timeout = SILENCE_S
        return client

    set_client_factory(impatient)


def _api() -> "HfApi":
    """Return the client; it says nothing of its retries, and shows bars in a terminal only."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name="dqn-zoo")


def _make(api: "HfApi", repo_id: str, *, private: bool) -> Remote | None:
    """Make a repository and return what it begins with; None: nobody could say.

    Raises:
        UserError: the Hub refuses, or somebody else has put something into it already.
    """
    name, kind = _typed(repo_id)
    with suppress(UnreadableError), explained(repo_id):  # the commit will tell if it is there
        sdk = "docker" if kind == "space" else None
        api.create_repo(name, repo_type=kind, private=private, space_sdk=sdk)
    try:
        made = look_up(repo_id)
    except UserError:
        return None
    if made is not None and not made.files.keys() <= {".gitattributes", "README.md"}:
        raise UserError(
            f"{page(repo_id)} has got files of somebody else since it was made: run the same "
            "command again to see them"
        )
    return made


def _arrived(repo_id: str, revision: str | None, files: Mapping[str, Path]) -> str | None:
    """Return the commit of a new repository if it holds the files, "" if not; None: unknown."""
    try:
        now = look_up_branch(repo_id, revision)
    except UserError:
        return None
    return now.commit if now is not None and files.keys() <= now.files.keys() else ""


def _take_back(
    api: "HfApi", repo_id: str, error: BaseException, made: Remote | None, arrived: str | None
) -> None:
    """Remove the repository that was made for a commit that failed, or say that it stays.

    It is removed as it was made, and not with what somebody else has put there since.
    """
    stays = "was made and stays empty"
    if arrived is None:
        stays = "was made, and whether it holds the commit its page tells"
    elif made is not None:
        with suppress(UserError), explained(repo_id):
            now = look_up(repo_id)
            if not arrived and now is not None and now.commit == made.commit:
                name, kind = _typed(repo_id)
                api.delete_repo(name, repo_type=kind)
            return
    if isinstance(error, UserError):
        error.args = (f"{error}; the repository {page(repo_id)} {stays}",)
