"""A stand-in for the Hub on 127.0.0.1, for tests with the real client and no network.

It serves a folder: `models/OWNER/NAME/…`, `datasets/OWNER/NAME/…`, `spaces/OWNER/NAME/…`, each a repository
with one branch, `main`, whose commit hash follows from the files. It takes downloads (HEAD, ranges), creation
of repositories, preupload, LFS batches and commits, and can be told to fail. It knows nothing of medassist.

    with HubServer(folder) as hub:
        hub.add_file("models", "ann/tiny", "config.json", b"{}")
        hub.fail(r"/resolve/", status=503)               # or code="GatedRepo", hang_s=30, times=1, cut_at=9
        run([...], env={**os.environ, **hub.env(home)})  # a process of its own: the client reads HF_ENDPOINT
        hub.requests                                     # what was asked, in order
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".parquet", ".arrow")
ERROR_STATUS = {"GatedRepo": 403, "RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404}
_REPO = r"(?P<owner>[^/]+)/(?P<name>[^/]+)"
_ROUTES = [(method, re.compile(pattern + "$"), handler) for method, pattern, handler in (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET", rf"/api/(?P<kind>models|datasets|spaces)/{_REPO}(/revision/(?P<rev>[^/]+))?", "info"),
    ("GET", rf"/api/(?P<kind>models|datasets|spaces)/{_REPO}/tree/(?P<rev>[^/]+)(/(?P<path>.+))?", "tree"),
    ("POST", rf"/api/(?P<kind>models|datasets|spaces)/{_REPO}/paths-info/(?P<rev>[^/]+)", "paths_info"),
    ("POST", rf"/api/(?P<kind>models|datasets|spaces)/{_REPO}/preupload/(?P<rev>[^/]+)", "preupload"),
    ("POST", rf"/api/(?P<kind>models|datasets|spaces)/{_REPO}/commit/(?P<rev>[^/]+)", "commit"),
    ("POST", rf"/((?P<kind>datasets|spaces)/)?{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs-store/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("GET", rf"/((?P<kind>datasets|spaces)/)?{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    ("HEAD", rf"/((?P<kind>datasets|spaces)/)?{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
)]


@dataclass
class Seen:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False, default=b"")
    sent: int = 0  # bytes of the answer's body


@dataclass
class _Failure:
    pattern: re.Pattern[str]
    status: int
    code: str
    message: str
    headers: dict[str, str]
    method: str | None
    times: int | None
    hang_s: float
    cut_at: int | None


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None):
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class HubServer:
    """The server. `token`, where set, is needed for writing, and for reading `private` repositories."""

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.folder, self.token = folder, token
        self.requests: list[Seen] = []
        self.created: list[dict[str, Any]] = []
        self.private: set[tuple[str, str]] = set()
        self.commits: list[str] = []
        self.lfs: dict[str, bytes] = {}
        self.extra_names: dict[tuple[str, str], list[str]] = {}  # names listed without a file behind them
        self._failures: list[_Failure] = []
        self._closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def env(self, home: Path) -> dict[str, str]:
        """Environment variables that lead a process's Hub client here, with no login and its own cache."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1"}

    def fail(self, pattern: str, status: int = 0, *, code: str = "", message: str = "",
             method: str | None = None, headers: dict[str, str] | None = None, times: int | None = None,
             hang_s: float = 0.0, cut_at: int | None = None) -> None:
        """Lets requests whose path matches fail: with a status or an X-Error-Code, by silence, or half-way.

        Args:
            times: how many requests fail so; None for all.
            hang_s: seconds without an answer; then the connection closes.
            cut_at: bytes of the body after which the connection closes.
        """
        status = status or ERROR_STATUS.get(code, 500)
        self._failures.append(_Failure(re.compile(pattern), status, code, message, headers or {}, method,
                                       times, hang_s, cut_at))

    def heal(self) -> None:
        """Takes back everything that `fail` was told."""
        self._failures.clear()

    def repo_path(self, kind: str, repo_id: str) -> Path:
        return self.folder / kind / repo_id

    def add_file(self, kind: str, repo_id: str, path: str, content: bytes | str) -> None:
        """Puts a file into a repository, which is made if it does not exist."""
        target = self.repo_path(kind, repo_id) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def files(self, kind: str, repo_id: str) -> dict[str, bytes]:
        """Path → content of a repository."""
        root = self.repo_path(kind, repo_id)
        found = sorted(p for p in root.rglob("*") if p.is_file())
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in found}

    def sha(self, kind: str, repo_id: str) -> str:
        """The commit hash of `main`."""
        digest = hashlib.sha1(repo_id.encode())
        for name, content in self.files(kind, repo_id).items():
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()

    def paths(self, method: str | None = None) -> list[str]:
        """Paths of the requests so far."""
        return [r.path for r in self.requests if method in (None, r.method)]

    def sent(self, pattern: str = "/resolve/") -> int:
        """Bytes of files that went out in answer to requests whose path matches."""
        return sum(r.sent for r in self.requests if r.method == "GET" and re.search(pattern, r.path))

    def failure(self, method: str, path: str) -> _Failure | None:
        for failure in self._failures:
            if failure.times == 0 or failure.method not in (None, method) or not failure.pattern.search(path):
                continue
            if failure.times is not None:
                failure.times -= 1
            return failure
        return None

    def hang(self, seconds: float) -> None:
        self._closing.wait(seconds)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_lfs(path: str, sample: bytes, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > 10_000_000 or b"\0" in sample


def _entry(path: str, content: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
    if _is_lfs(path, content[:512], len(content)):
        row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return row


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
        self.cut_at: int | None = None
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.seen = Seen(self.command, path, headers, self.body)
        self.hub.requests.append(self.seen)
        try:
            self._fail_if_told(path)
            for method, pattern, name in _ROUTES:
                match = pattern.match(path) if method == self.command else None
                if match:
                    return getattr(self, f"_{name}")(**match.groupdict())
            raise _RefusalError(404, message=f"no route for {self.command} {path}")
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            message = refusal.message or refusal.code
            headers |= {**refusal.headers, "X-Error-Message": message}
            self._json({"error": message}, refusal.status, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fail_if_told(self, path: str) -> None:
        failure = self.hub.failure(self.command, path)
        if failure is None:
            return
        if failure.hang_s:
            self.hub.hang(failure.hang_s)
            self.close_connection = True
            raise ConnectionResetError
        self.cut_at = failure.cut_at
        if failure.cut_at is None:
            raise _RefusalError(failure.status, failure.code, failure.message, failure.headers)

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body if self.cut_at is None else body[:self.cut_at]
        self.seen.sent += len(body)
        self.wfile.write(body)
        if self.cut_at is not None:
            self.close_connection = True

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(value).encode(), status, headers)

    # Who may

    def _has_token(self) -> bool:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return bool(sent) and self.hub.token in (None, sent)

    def _need_token(self) -> None:
        if not self._has_token():
            raise _RefusalError(401, message="Invalid username or password.")

    def _repo(self, kind: str | None, owner: str, name: str, rev: str | None = None
              ) -> tuple[str, str, dict[str, bytes]]:
        kind, repo_id = kind or "models", f"{owner}/{name}"
        hidden = (kind, repo_id) in self.hub.private and not self._has_token()
        if hidden or ".." in repo_id or not self.hub.repo_path(kind, repo_id).is_dir():
            raise _RefusalError(404 if self._has_token() else 401, "RepoNotFound", "Repository not found")
        if rev not in (None, "main", self.hub.sha(kind, repo_id)):
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return kind, repo_id, self.hub.files(kind, repo_id)

    # Reading

    def _whoami(self) -> None:
        self._need_token()
        self._json({"type": "user", "name": "ann", "fullname": "Ann", "orgs": [],
                    "auth": {"type": "access_token",
                             "accessToken": {"role": "write", "displayName": "test"}}})

    def _info(self, kind: str, owner: str, name: str, rev: str | None) -> None:
        kind, repo_id, files = self._repo(kind, owner, name, rev)
        siblings: list[dict[str, Any]] = []
        for path, content in files.items():
            row = _entry(path, content)
            lfs = row.get("lfs")
            siblings.append({"rfilename": path, "size": row["size"], "blobId": row["oid"]} | (
                {"lfs": {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 134}} if lfs else {}))
        siblings += [{"rfilename": n, "size": 1} for n in self.hub.extra_names.get((kind, repo_id), [])]
        head = re.match(rb"---\n(.*?\n)---\n", files.get("README.md", b""), re.DOTALL)
        card = yaml.safe_load(head[1]) if head else {}
        self._json({"_id": "0", "id": repo_id, "cardData": card, "modelId": repo_id, "author": owner,
                    "sha": self.hub.sha(kind, repo_id), "private": (kind, repo_id) in self.hub.private,
                    "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "createdAt": "2026-01-01T00:00:00.000Z", "siblings": siblings})

    def _tree(self, kind: str, owner: str, name: str, rev: str, path: str | None) -> None:
        _, _, files = self._repo(kind, owner, name, rev)
        prefix = f"{path.strip('/')}/" if path else ""
        rows = list(_list(files, prefix, self.query.get("recursive", ["false"])[0].lower() in ("true", "1")))
        if prefix and not rows:
            raise _RefusalError(404, "EntryNotFound", f"{path} does not exist on 'main'")
        self._json(rows)

    def _paths_info(self, kind: str, owner: str, name: str, rev: str) -> None:
        _, _, files = self._repo(kind, owner, name, rev)
        is_json = "json" in self.headers.get("Content-Type", "")
        wanted = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        rows: list[dict[str, Any]] = []
        for path in wanted:
            if path in files:
                rows.append(_entry(path, files[path]))
            elif any(f.startswith(f"{path}/") for f in files):
                rows.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self._json(rows)

    def _resolve(self, kind: str | None, owner: str, name: str, rev: str, path: str) -> None:
        kind, repo_id, files = self._repo(kind, owner, name, rev)
        commit = {"X-Repo-Commit": self.hub.sha(kind, repo_id)}
        if path not in files:
            raise _RefusalError(404, "EntryNotFound", "Entry not found", commit)
        content = files[path]
        row = _entry(path, content)
        headers = {**commit, "ETag": f'"{row["oid"]}"', "Accept-Ranges": "bytes",
                   "Content-Type": "application/octet-stream"}
        if "lfs" in row:
            headers |= {"ETag": f'"{row["lfs"]["oid"]}"', "X-Linked-Etag": f'"{row["lfs"]["oid"]}"',
                        "X-Linked-Size": str(len(content))}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not span:
            return self._send(content, headers=headers)
        first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(content[first:last + 1], 206, headers)
        return None

    # Writing

    def _create(self) -> None:
        self._need_token()
        wanted = json.loads(self.body)
        kind, repo_id = f"{wanted.get('type') or 'model'}s", f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        if self.hub.repo_path(kind, repo_id).is_dir():
            return self._json({"error": "You already created this repo", "url": url}, 409)
        self.hub.repo_path(kind, repo_id).mkdir(parents=True)
        self.hub.created.append(wanted)
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.hub.private.add((kind, repo_id))
        self._json({"url": url, "name": repo_id, "id": "0"})
        return None

    def _validate_yaml(self) -> None:
        """As the Hub does: a model's `base_model` must have the form of an id."""
        content = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?\n)---\n", content, re.DOTALL)
        base = re.search(r"^base_model: *(.*)$", head[1] if head else "", re.MULTILINE)
        if base and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base[1].strip("'\" ")):
            message = f'"base_model" with value {base[1]} is not valid. Use a model id.'
            return self._json({"errors": [{"message": message}], "warnings": []}, 400)
        warnings = [] if head else [{"message": "empty or missing yaml metadata"}]
        self._json({"errors": [], "warnings": warnings})
        return None

    def _preupload(self, kind: str, owner: str, name: str, rev: str) -> None:
        self._need_token()
        _, _, files = self._repo(kind, owner, name, rev)
        rows = []
        for file in json.loads(self.body)["files"]:
            path, lfs = file["path"], _is_lfs(file["path"], base64.b64decode(file["sample"]), file["size"])
            old = _entry(path, files[path]) if path in files else None
            oid = old and (old["lfs"]["oid"] if lfs and "lfs" in old else old["oid"])
            mode = "lfs" if lfs else "regular"
            rows.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": rows})

    def _lfs_batch(self, kind: str | None, owner: str, name: str) -> None:
        self._need_token()
        self._repo(kind, owner, name)
        store = f"{self.hub.url}/lfs-store"
        objects = [o if o["oid"] in self.hub.lfs else
                   {**o, "actions": {"upload": {"href": f"{store}/{o['oid']}", "header": {}}}}
                   for o in json.loads(self.body)["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _RefusalError(400, message="content does not match its hash")
        self.hub.lfs[oid] = self.body
        self._send(b"", headers={"ETag": f'"{oid}"'})

    def _commit(self, kind: str, owner: str, name: str, rev: str) -> None:
        self._need_token()
        kind, repo_id, _ = self._repo(kind, owner, name, rev)
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif row["key"] == "file":
                self.hub.add_file(kind, repo_id, value["path"], base64.b64decode(value["content"]))
            elif row["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    raise _RefusalError(400, message=f"LFS object {value['oid']} was not uploaded")
                self.hub.add_file(kind, repo_id, value["path"], self.hub.lfs[value["oid"]])
            elif row["key"] == "deletedFile":
                (self.hub.repo_path(kind, repo_id) / value["path"]).unlink()
        sha = self.hub.sha(kind, repo_id)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}",
                    "hookOutput": ""})


def _list(files: dict[str, bytes], prefix: str, recursive: bool) -> Iterator[dict[str, Any]]:
    """Entries of a tree below `prefix`, folders included."""
    folders: set[str] = set()
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix):].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folder = prefix + "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                yield {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        if recursive or len(parts) == 1:
            yield _entry(path, content)
