"""What the Hub answers: read with limits, and held against a model before anybody relies on it.

What a model requires, an answer has. Of the rest, what is odd counts as absent, and so does an odd
element of a list: it does not cost the others.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from dqn_zoo.errors import UserError
from dqn_zoo.system.documents import MOST_BYTES, Count, DocumentError, Word, checked, parse_json

MOST_PAGES = 1_000

PATIENCE_S = 10.0
"""For a sign of life, of a Hub that is asked something."""

_SHORT_RETRIES = {
    "max_retries": 2,
    "retry_on_status_codes": (500, 502, 504),  # 429 and 503 may ask to be left alone for hours
    "retry_on_exceptions": (),
}
"""Of a question that somebody waits for: three seconds; lists and uploads have the client's own."""


def _none_where_odd(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError:
        return None


_T = TypeVar("_T")
IfGood = Annotated[_T | None, WrapValidator(_none_where_odd)]

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$")]
Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}")]


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Organisation(_Answer):
    """An organisation that the user is a member of."""

    name: Owner
    role: IfGood[Word] = Field(default=None, alias="roleInOrg")


class _Entity(_Answer):
    name: Word


class Scope(_Answer):
    """Where a fine-grained token may do what."""

    entity: _Entity
    permissions: list[IfGood[Word]]


class _FineGrained(_Answer):
    scoped: list[IfGood[Scope]] = []


class Token(_Answer):
    """What a token may do."""

    role: IfGood[Word] = None
    fine_grained: IfGood[_FineGrained] = Field(default=None, alias="fineGrained")

    @property
    def scopes(self) -> list[Scope]:
        """Where a fine-grained token may do what."""
        scoped = [] if self.fine_grained is None else self.fine_grained.scoped
        return [scope for scope in scoped if scope is not None]


class _Auth(_Answer):
    token: IfGood[Token] = Field(default=None, alias="accessToken")


class WhoAmI(_Answer):
    """Whose token it is."""

    name: Owner
    orgs: IfGood[list[IfGood[Organisation]]] = None
    auth: IfGood[_Auth] = None

    @property
    def organisations(self) -> list[Organisation]:
        """Those that can be understood."""
        return [each for each in self.orgs or [] if each is not None]

    @property
    def token(self) -> Token:
        """What the token may do; one that nothing is said of may do everything."""
        return (self.auth and self.auth.token) or Token()


class Sibling(_Answer):
    """A file of a repository; its size is not always known."""

    name: Annotated[str, Field(max_length=1_000, alias="rfilename")]
    size: IfGood[Count] = None


class Model(_Answer):
    """A repository, in a list."""

    id: RepoId
    private: IfGood[bool] = None
    tags: IfGood[list[Any]] = None
    library_name: IfGood[Word] = None
    card: IfGood[dict[str, Any]] = Field(default=None, alias="cardData")
    updated: IfGood[Day] = Field(default=None, alias="lastModified")


class ModelAtCommit(Model):
    """A repository at a commit, with its files."""

    sha: Commit
    siblings: list[Sibling] = []


def ask(path: str, model: type[_T], *, parameters: Mapping[str, object] | None = None) -> _T:
    """Return what the Hub answers to a question, such as `/api/whoami-v2`.

    Raises:
        DocumentError: the answer is not what it should be.
        Exception: what the client raises; see `hub_failures.explained`.
    """
    from huggingface_hub import constants

    content, _ = _get(constants.ENDPOINT + path, parameters or {}, **_SHORT_RETRIES)
    return checked(content, model, f"the Hub's answer to {path}")


def ask_for_list(path: str, *, parameters: Mapping[str, object]) -> Iterator[Model | None]:
    """Yield the models of a list, page by page; None for one that cannot be understood.

    Raises:
        DocumentError: a page is no list, or there are too many.
        Exception: what the client raises; see `hub_failures.explained`.
    """
    from huggingface_hub import constants

    url: str | None = constants.ENDPOINT + path
    for _ in range(MOST_PAGES):
        if url is None:
            return
        page, following = _get(url, parameters)
        yield from checked(page, list[IfGood[Model]], f"the Hub's answer to {path}")
        if following is not None and not following.startswith(f"{constants.ENDPOINT}/"):
            raise UserError(f"the Hub's list goes on elsewhere, at {following[:100]}: not followed")
        url, parameters = following, {}
    raise DocumentError(f"the Hub's answer to {path} has more than {MOST_PAGES:,} pages")


def _get(url: str, parameters: Mapping[str, object], **retries: Any) -> tuple[Any, str | None]:
    """Return JSON, and the address of the next page."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of its retries
    content = bytearray()
    headers = build_hf_headers(library_name="dqn-zoo")
    with http_stream_backoff(
        "GET", url, params=parameters or None, headers=headers, timeout=PATIENCE_S, **retries
    ) as response:
        hf_raise_for_status(response)
        for part in response.iter_bytes():
            content += part
            if len(content) > MOST_BYTES:
                raise DocumentError(f"the Hub's answer to {url} is too large to be read")
    value = parse_json(bytes(content), f"the Hub's answer to {response.url.path}")
    return value, response.links.get("next", {}).get("url")
