"""A stand-in for the Hugging Face Hub, on 127.0.0.1, for the real client of huggingface_hub.

It keeps repositories with branches and commits in memory, takes small files in the commit and large
ones through git-LFS, lists models by tag, knows users and organisations by their tokens, and fails
on demand. What it does not know it answers with 404.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".mp4", ".png", ".zip", ".whl")
PAGE_SIZE = 3  # models on one page of a list, few so that a test sees several pages

Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository: the files of each commit, and the commit that each branch points to."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, branch: str, message: str) -> str:
        """Point a branch to a new commit that holds exactly these files."""
        number = str(len(self.commits)).encode()
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        oid = hashlib.sha1(number + content).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch or an abbreviated or whole commit names."""
        if revision in self.branches:
            return self.branches[revision]
        return next((oid for oid in self.commits if oid.startswith(revision)), None)

    def files(self, revision: str = "main") -> Files:
        """Return the files at a revision."""
        oid = self.resolve(revision)
        assert oid is not None, revision
        return self.commits[oid]


@dataclass
class Failure:
    """What to answer in place of the next `times` requests that match."""

    pattern: str
    status: int  # 0: cut the connection while the request is read
    times: int
    headers: dict[str, str] = field(default_factory=dict)
    said: str = "as the test wants it"


class HubStandin(ThreadingHTTPServer):
    """The server and its state; `url` is what `HF_ENDPOINT` takes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.failures: list[Failure] = []
        self.changes: list[tuple[str, Callable[[bytes], bytes]]] = []
        self.lfs: dict[str, bytes] = {}
        # Asked before a request is done, and again before it is answered; True: it is not.
        self.breaks_off: Callable[[], bool] = lambda: False
        self.changing = threading.RLock()
        # By token: the answer of whoami.
        self.accounts: dict[str, dict[str, Any]] = {
            "hf_write": account("ann", "write", club="write", watchers="read"),
            "hf_read": account("ann", "read"),
            "hf_bob": account("bob", "write"),
        }

    def fail(
        self,
        pattern: str,
        status: int,
        times: int = 1000,
        said: str = Failure.said,
        **headers: str,
    ) -> None:
        """Answer requests like "POST /api/models/.*/commit" with an error."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.failures.append(Failure(pattern, status, times, named, said))

    def change(self, pattern: str, change: Callable[[bytes], bytes]) -> None:
        """Do what is asked, but change the answer to requests like "GET /api/models"."""
        self.changes.append((pattern, change))

    def add(self, repo_id: str, files: Files, private: bool = False) -> str:
        """Put a repository there, as somebody else's push would, and return its commit."""
        repository = self.repositories.setdefault(repo_id, Repository(private))
        return repository.commit(dict(files), "main", "added")

    def close_connections(self) -> None:
        """Stop answering, for good."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""


def account(name: str, role: str, **organisations: str) -> dict[str, Any]:
    """Return the answer of whoami: a user, the role of the token, roles in organisations."""
    return {
        "type": "user",
        "name": name,
        "orgs": [{"name": key, "roleInOrg": value} for key, value in organisations.items()],
        "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
    }


@contextmanager
def running_hub() -> Iterator[HubStandin]:
    """Serve until the end of the block."""
    server = HubStandin()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.close_connections()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubStandin
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or the end of each answer waits 40 ms for a receipt

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        split = urlsplit(self.path)
        # Spaces are kept under `spaces/owner/name`.
        route = unquote(split.path).replace("/api/spaces/", "/api/models/spaces/")
        self.route, self.query = route, parse_qs(split.query)
        line = f"{self.command} {self.route}"
        with self.server.changing:
            self.server.requests.append(line)
            failure = self._failure(line)
        if self.server.breaks_off():
            self.close_connection = True
            return
        if failure is not None and failure.status == 0:
            self.rfile.read(min(1000, int(self.headers.get("Content-Length", 0))))
            self.close_connection = True
            self.connection.close()
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if failure is not None:
            self._send(failure.status, {"error": failure.said}, **failure.headers)
            return
        with self.server.changing:
            for method, pattern, name in _ROUTES:
                match = re.fullmatch(pattern, self.route)
                if method == self.command and match:
                    getattr(self, name)(*match.groups())
                    return
        self._send(404, {"error": "no such route"})

    def _failure(self, line: str) -> Failure | None:
        for failure in self.server.failures:
            if failure.times > 0 and re.match(failure.pattern, line):
                failure.times -= 1
                return failure
        return None

    def _send(self, status: int, content: Any = None, **headers: str) -> None:
        if self.server.breaks_off():
            self.close_connection = True
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        for pattern, change in self.server.changes:
            if re.fullmatch(pattern, f"{self.command} {self.route}"):
                data = change(data)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self) -> Any:
        return json.loads(self.body or b"{}")

    def _account(self) -> dict[str, Any] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.server.accounts.get(token)

    def _may_write(self, repo_id: str) -> bool:
        """Refuse what the real Hub refuses: no token, a read token, somebody else's name."""
        who = self._account()
        if who is None:
            self._send(401, {"error": "Invalid username or password."})
            return False
        owner = repo_id.split("/")[-2]
        roles = {org["name"]: org["roleInOrg"] for org in who["orgs"]} | {who["name"]: "admin"}
        if who["auth"]["accessToken"]["role"] == "read" or roles.get(owner, "read") == "read":
            self._send(403, {"error": f"You don't have the rights to write to {owner}"})
            return False
        return True

    def _repository(self, repo_id: str) -> Repository | None:
        """Return a repository; a private one only to who may see it."""
        found = self.server.repositories.get(repo_id)
        who = self._account()
        mine = {who["name"], *(org["name"] for org in who["orgs"])} if who else set()
        if found is None or (found.private and repo_id.split("/")[-2] not in mine):
            self._send(404 if who else 401, {"error": "none"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def _at(self, repo_id: str, revision: str) -> tuple[str, Files] | None:
        repository = self._repository(repo_id)
        if repository is None:
            return None
        oid = repository.resolve(revision)
        if oid is None:
            self._send(404, {"error": "none"}, X_Error_Code="RevisionNotFound")
            return None
        return oid, repository.commits[oid]

    def _whoami(self) -> None:
        who = self._account()
        self._send(*((401, {"error": "Invalid credentials"}) if who is None else (200, who)))

    def _create(self) -> None:
        content = self._json()
        who = self._account()
        owner = content.get("organization") or (who["name"] if who else "?")
        repo_id = f"{_space(content)}{owner}/{content['name']}"
        if not self._may_write(repo_id):
            return
        if repo_id in self.server.repositories:
            self._send(409, {"error": "You already created this model repo", "url": "x"})
            return
        private = content.get("private") or content.get("visibility") == "private"
        repository = Repository(bool(private))
        repository.commit({".gitattributes": b"*.mp4 filter=lfs\n"}, "main", "initial commit")
        self.server.repositories[repo_id] = repository
        self._send(200, {"url": f"{self.server.url}/{repo_id}", "name": repo_id, "id": repo_id})

    def _delete(self) -> None:
        content = self._json()
        owner = content.get("organization") or self._account()["name"]
        repo_id = f"{_space(content)}{owner}/{content['name']}"
        if self._may_write(repo_id):
            del self.server.repositories[repo_id]
            self._send(200, {})

    def _branch(self, repo_id: str, branch: str) -> None:
        repository = self._repository(repo_id)
        if repository is None or not self._may_write(repo_id):
            return
        if branch in repository.branches:
            self._send(409, {"error": "Reference already exists"})
            return
        repository.branches[branch] = repository.branches["main"]
        self._send(200, {})

    def _validate_yaml(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, repo_id: str, revision: str) -> None:
        found = self._at(repo_id, revision)
        if found is None or not self._may_write(repo_id):
            return
        answer = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if _is_large(file) else "regular",
                "shouldIgnore": False,
                "oid": _oid(file["path"], found[1]),
            }
            for file in self._json()["files"]
        ]
        self._send(200, {"files": answer})

    def _lfs_batch(self, repo_id: str) -> None:
        if not self._may_write(repo_id):
            return
        objects = []
        for wanted in self._json()["objects"]:
            actions = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
            known = wanted["oid"] in self.server.lfs
            objects.append({**wanted, **({} if known else {"actions": actions})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._send(400, {"error": "another content"})
            return
        self.server.lfs[oid] = self.body
        self._send(200, {})

    def _commit(self, repo_id: str, revision: str) -> None:
        found = self._at(repo_id, revision)
        if found is None or not self._may_write(repo_id):
            return
        files = dict(found[1])
        message = ""
        for line in self.body.splitlines():
            match json.loads(line):
                case {"key": "header", "value": value}:
                    message = value["summary"]
                    if value.get("parentCommit") not in (None, found[0]):
                        self._send(412, {"error": "A commit has happened since."})
                        return
                case {"key": "file", "value": value}:
                    files[value["path"]] = base64.b64decode(value["content"])
                case {"key": "lfsFile", "value": value}:
                    files[value["path"]] = self.server.lfs[value["oid"]]
                case {"key": "deletedFile", "value": value}:
                    files.pop(value["path"])
                case other:
                    raise AssertionError(other)
        oid = self.server.repositories[repo_id].commit(files, revision, message)
        url = f"{self.server.url}/{repo_id}/commit/{oid}"
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _info(self, repo_id: str, revision: str = "main") -> None:
        found = self._at(repo_id, revision)
        if found is not None:
            self._send(200, self._described(repo_id, *found, with_sizes="blobs" in self.query))

    def _described(
        self, repo_id: str, oid: str, files: Files, *, with_sizes: bool = False
    ) -> dict[str, Any]:
        card = _card(files.get("README.md", b""))
        siblings = [
            {
                "rfilename": name,
                **({"size": len(data), "blobId": _blob(data)} if with_sizes else {}),
            }
            for name, data in files.items()
        ]
        return {
            "_id": oid,
            "id": repo_id.removeprefix("spaces/"),
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": oid,
            "lastModified": "2026-11-26T12:00:00.000Z",
            "private": self.server.repositories[repo_id].private,
            "downloads": 7,
            "likes": 1,
            "library_name": card.get("library_name"),
            "tags": card.get("tags", []),
            "cardData": card,
            "siblings": siblings,
        }

    def _list(self) -> None:
        """List public models that carry all tags, a page at a time."""
        wanted = set(self.query.get("filter", []))
        start = int(self.query.get("cursor", ["0"])[0])
        models = [
            self._described(repo_id, repository.branches["main"], repository.files())
            for repo_id, repository in sorted(self.server.repositories.items())
            if not repository.private
        ]
        models = [model for model in models if wanted <= set(model["tags"])]
        headers = {}
        if len(models) > start + PAGE_SIZE:
            again = "&".join(f"filter={tag}" for tag in wanted)
            url = f"{self.server.url}/api/models?{again}&cursor={start + PAGE_SIZE}&cardData=True"
            headers["Link"] = f'<{url}>; rel="next"'
        self._send(200, models[start : start + PAGE_SIZE], **headers)

    def _tree(self, repo_id: str, revision: str) -> None:
        found = self._at(repo_id, revision)
        if found is not None:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
                for name, data in found[1].items()
            ]
            self._send(200, entries)

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        found = self._at(repo_id, revision)
        if found is None:
            return
        oid, files = found
        if name not in files:
            self._send(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            return
        self._send(200, files[name], ETag=f'"{_blob(files[name])}"', X_Repo_Commit=oid)


def _is_large(file: dict[str, Any]) -> bool:
    """Return whether a file goes through git-LFS: by its name, or because it is no text."""
    return file["path"].endswith(LFS_SUFFIXES) or b"\0" in base64.b64decode(file["sample"])


def _oid(name: str, files: Files) -> str | None:
    """Return what git calls the content of a file, so that the client sees what is unchanged."""
    if name not in files:
        return None
    if name.endswith(LFS_SUFFIXES) or b"\0" in files[name][:512]:
        return hashlib.sha256(files[name]).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(files[name]) + files[name]).hexdigest()


def _blob(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _card(readme: bytes) -> dict[str, Any]:
    match = re.match(rb"---\n(.*?)\n---", readme, re.DOTALL)
    card = yaml.safe_load(match[1]) if match else {}
    return card if isinstance(card, dict) else {}


def _space(content: dict[str, Any]) -> str:
    """Return what stands before the name of what is made or removed."""
    if content.get("type") != "space":
        return ""
    assert content.get("sdk", "docker") == "docker"
    return "spaces/"


_REPO = r"((?:spaces/)?[^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "_whoami"),
    ("POST", r"/api/repos/create", "_create"),
    ("DELETE", r"/api/repos/delete", "_delete"),
    ("POST", r"/api/validate-yaml", "_validate_yaml"),
    ("POST", rf"/api/models/{_REPO}/preupload/(.+)", "_preupload"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "_lfs_batch"),
    ("PUT", r"/lfs/(\w+)", "_lfs_put"),
    ("POST", rf"/api/models/{_REPO}/commit/(.+)", "_commit"),
    ("POST", rf"/api/models/{_REPO}/branch/(.+)", "_branch"),
    ("GET", rf"/api/models/{_REPO}/revision/(.+)", "_info"),
    ("GET", rf"/api/models/{_REPO}/tree/(.+)", "_tree"),
    ("GET", rf"/api/models/{_REPO}", "_info"),
    ("GET", r"/api/models", "_list"),
    ("HEAD", rf"/{_REPO}/resolve/([^/]+)/(.+)", "_resolve"),
    ("GET", rf"/{_REPO}/resolve/([^/]+)/(.+)", "_resolve"),
]
