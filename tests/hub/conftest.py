"""A stand-in for the Hugging Face hub: the part of its HTTP API that segkit uses, in a thread."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_me"


@dataclass
class Repository:
    """Commits by their hashes, each all files by name, and branches."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {branch}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


class StandIn:
    """The hub, whose user is "me".

    Attributes:
        repositories: By owner/name.
        requests: Method and path of each request.
        url: Its address.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.refuses_commits = 0
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def add(self, name: str, private: bool = False, **files: bytes) -> Repository:
        """Make a repository with files, as its web page does."""
        found = self.repositories[name] = Repository(private)
        found.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **files})
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str = "", said: str = "no") -> None:
        self._answer(status, {"error": said}, X_Error_Code=code, X_Error_Message=said)

    def _begin(self) -> tuple[list[str], bytes]:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return path.strip("/").split("/"), body

    @property
    def _is_me(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._is_me):
            self._refuse(404 if self._is_me else 401, "RepoNotFound", "Repository not found")
            return None
        return found

    def do_GET(self) -> None:
        parts, _ = self._begin()
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), "/".join(parts[5:]) or "main"
            found = self._find(name)
            if found is None:
                return
            oid = found.branches.get(revision, revision)
            if oid not in found.commits:
                return self._refuse(404, "RevisionNotFound")
            siblings = [{"rfilename": file} for file in found.commits[oid]]
            held = {"id": name, "private": found.private, "sha": oid, "siblings": siblings}
            return self._answer(200, held)
        name, revision, file = "/".join(parts[:2]), "/".join(parts[3:-1]), parts[-1]
        found = self._find(name)
        if found is None:
            return
        oid = found.branches.get(revision, revision)
        if oid not in found.commits:
            return self._refuse(404, "RevisionNotFound")
        data = found.commits[oid].get(file)
        if data is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self._answer(200, data, ETag=etag, X_Repo_Commit=oid)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        parts, body = self._begin()
        self.hub.stored[parts[-1]] = body
        self._answer(200, ETag='"x"')

    def do_POST(self) -> None:
        parts, body = self._begin()
        if not self._is_me:
            return self._refuse(401, said="Invalid username or password.")
        if parts == ["api", "validate-yaml"]:
            given = json.loads(body)["content"]
            if "license: none\n" in given:
                wrong = {"errors": [{"message": '"license" must be one of [mit]'}], "warnings": []}
                return self._answer(400, wrong)
            return self._answer(200, {"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            given = json.loads(body)
            if given["organization"] != "me":
                return self._refuse(403, said="You don't have the rights to create a model")
            name = f"me/{given['name']}"
            private = given.get("private") or given.get("visibility") == "private"
            self.hub.add(name, bool(private))
            return self._answer(200, {"url": f"{self.hub.url}/{name}"})
        if parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        name, what, branch = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
        found = self.hub.repositories[name]
        if not name.startswith("me/"):
            return self._refuse(403, said="Forbidden")
        if what == "branch":
            found.branches[branch] = found.branches["main"]
            return self._answer(200, {})
        if what == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if self.hub.refuses_commits:
            return self._refuse(self.hub.refuses_commits, said="not now")
        files = dict(found.files(branch))
        for line in map(json.loads, body.splitlines()):
            kind, value = line["key"], line["value"]
            if kind == "header" and value.get("parentCommit") != found.branches[branch]:
                return self._refuse(412, said="A commit has happened since")
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if kind == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            if kind == "deletedFile":
                del files[value["path"]]
        oid = found.commit(branch, files)
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url})


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[StandIn]:
    """A stand-in that huggingface_hub takes for the hub, with an empty cache and a token."""
    from huggingface_hub import constants

    server = StandIn()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.close()
