"""What the failures of the Hub mean, each in one line with its remedy, and whether to try again."""

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

from dqn_zoo.errors import UserError
from dqn_zoo.system.documents import DocumentError

TOKENS_PAGE = "https://huggingface.co/settings/tokens"

LOG_IN = f"log in with `hf auth login`, or set HF_TOKEN (tokens: {TOKENS_PAGE})"

OVERTAKEN = 412
"""Status of a commit that is refused because another one came before it."""


class UnreachableError(UserError):
    """The Hub did not answer, or the client was told to stay offline."""


class UnreadableError(UserError):
    """The Hub did something and answered, but not as it should."""


def page(repo_id: str) -> str:
    """Return the address of a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo_id}"


def may_pass(error: UserError) -> bool:
    """Return whether a failure is one that a later try may not meet."""
    status = status_of(error)
    is_of_the_way = isinstance(error, UnreachableError | UnreadableError)
    return is_of_the_way or status in (408, 429) or status >= 500


def status_of(error: UserError) -> int:
    """Return the status that the Hub answered with; 0: it did not answer."""
    status: int = getattr(getattr(error.__cause__, "response", None), "status_code", 0)
    return status


def seconds_to_wait(error: UserError) -> float:
    """Return for how long the Hub asked to be left alone with its refusal; 0: it did not."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    headers = getattr(getattr(error.__cause__, "response", None), "headers", {})
    asked = headers.get("Retry-After", "")
    wait_s = float(asked) if asked.isdecimal() else 0.0
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:  # it comes with answers of every kind
        wait_s = max(wait_s, limit.reset_in_seconds)
    return min(wait_s, 86_400.0)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the failures of the client into one line: what happened and what to do.

    Raises:
        UnreachableError: the Hub did not answer.
        UnreadableError: its answer was not what it should be.
        UserError: it refused, or a file here cannot be used.
    """
    try:
        yield
    except DocumentError as error:
        raise UnreadableError(str(error)) from error
    except UserError:
        raise
    except Exception as error:
        # Around an upload that failed; the reason is inside.
        inside = error.__cause__ if isinstance(error, RuntimeError) else None
        cause = inside if isinstance(inside, OSError) else error
        told = _in_words(what, cause)
        if told is None:
            raise
        raise told from cause


def _in_words(what: str, error: Exception) -> UserError | None:
    """Return what a failure of the client means; None where it is no failure of the Hub."""
    import httpx2
    from huggingface_hub import errors

    match error:
        case (
            httpx2.RequestError()
            | errors.OfflineModeIsEnabled()
            | errors.LocalEntryNotFoundError()
            | errors.XetDownloadError()
            | RuntimeError()
        ):
            return _unreachable(error)
        case errors.HfHubHTTPError():
            return UserError(_refusal(what, error))
        case OSError() if error.errno is not None:
            return _unusable(error)
        case JSONDecodeError() | KeyError() | TypeError() | AttributeError() | IndexError():
            # The client takes fields of an answer for granted.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
            return UnreadableError(f"{what}: the Hub's answer cannot be read ({reason})")
        case ValueError() | OSError():
            return UserError(f"{what}: {error}")
    return None


def _unusable(error: OSError) -> UserError:
    """Say that a file of the cache, or one that is sent, cannot be used."""
    from huggingface_hub import constants

    return UserError(
        f"{error.filename or constants.HF_HUB_CACHE} cannot be used ({error.strerror}): make room "
        "there, or name another folder for the Hub's cache in HF_HOME"
    )


def _unreachable(error: BaseException) -> UnreachableError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return UnreachableError("HF_HUB_OFFLINE is set: unset it to reach the Hub")
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return UnreachableError(
        f"{constants.ENDPOINT} cannot be reached ({reason}): check the connection, then run the "
        "same command again"
    )


def _refusal(what: str, error: Any) -> str:
    """Say what the Hub answered and what to do about it."""
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{what} has no such branch or commit: see {page(what)}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{what} lacks a file that it should have: see {page(what)}"
    if isinstance(error, errors.RepositoryNotFoundError) and status != 401:
        return f"the Hub has no {what} that you may see: check the name, or log in as one who may"
    remedy = _REMEDIES.get(status)
    if remedy is None and status >= 500:
        remedy = "has a fault: run the same command again in a while"
    said = error.server_message or error.response.reason_phrase
    if status == 403 and error.response.request.method in ("GET", "HEAD"):
        remedy = "does not let you read this: ask for access on its page, or log in as one who may"
    if status == 403 and "storage" in said.lower():
        remedy = _NO_ROOM
    return (
        f"{what}: the Hub {remedy or 'refused'} (status {status}, {' '.join(said.split())[:120]})"
    )


_NO_ROOM = (
    "has no room left there: delete a repository or squash the history of one, or name another "
    "owner"
)

_REMEDIES = {
    400: "did not accept this: check the name and the message",
    401: f"does not accept the token, or there is none: {LOG_IN}",
    403: f"does not let this token write there: make one that may at {TOKENS_PAGE}",
    404: "has no such thing: check the name",
    409: "has it already, or another push is under way: run the same command again",
    OVERTAKEN: "got another commit in between: run the same command again to push on top of it",
    429: "has had too many requests: run the same command again in a few minutes",
}
