"""A loopback server with as much of three hubs as their clients ask for, and plain artifacts.

Hugging Face (`/api/models/...`, `/REPO/resolve/...`), ModelScope (`/api/v1/...`), a package index
(`/simple/...`), and for ClearML `/auth.login` and `/artifacts/N.bin`. All content comes from seeds.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import random
import threading
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REPO = "org/model"
REVISION = "0123456789abcdef0123456789abcdef01234567"
ARTIFACT_BYTES = 2000


def repo_files() -> dict[str, bytes]:
    """Return the files of the model repository: two weights and some small ones."""
    source = random.Random(7)
    return {
        "config.json": json.dumps({"model_type": "test", "layers": 12}, indent=1).encode(),
        "tokenizer.json": source.randbytes(300_000).hex().encode(),
        "model-00001.safetensors": source.randbytes(24 << 20),
        "nested/model-00002.safetensors": source.randbytes(8 << 20),
    }


def artifact(number: int) -> bytes:
    """Return one of ClearML's artifacts."""
    return random.Random(number).randbytes(ARTIFACT_BYTES)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Mapping[str, bytes]
    packages: Path | None

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        path = urllib.parse.unquote(url.path)
        for kind in (self._hugging_face, self._modelscope, self._clearml, self._package):
            found = kind(path, query)
            if found is not None:
                body, headers = found
                self._send(body, headers, with_body=with_body)
                return
        self._send(b"{}", {}, with_body=with_body, status=HTTPStatus.NOT_FOUND)

    def _send(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        with_body: bool,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        total = len(body)
        wanted = self.headers.get("Range")
        if wanted and status is HTTPStatus.OK:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1, total) if last else total
            body = body[int(first) : stop]
            status = HTTPStatus.PARTIAL_CONTENT
            headers = {**headers, "Content-Range": f"bytes {first}-{stop - 1}/{total}"}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _hugging_face(
        self, path: str, _query: Mapping[str, str]
    ) -> tuple[bytes, dict[str, str]] | None:
        if path.startswith(f"/api/models/{REPO}/tree/"):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": _digest(data)[:40]}
                for name, data in self.files.items()
            ]
            return _json(rows)
        if path.startswith(f"/api/models/{REPO}"):
            names = [{"rfilename": name} for name in self.files]
            return _json({"id": REPO, "modelId": REPO, "sha": REVISION, "siblings": names})
        if path.startswith(f"/{REPO}/resolve/"):
            data = self.files.get(path.split("/", 5)[5])
            if data is None:
                return None
            headers = {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": REVISION}
            return data, {**headers, "X-Linked-Size": str(len(data))}
        return None

    def _modelscope(
        self, path: str, query: Mapping[str, str]
    ) -> tuple[bytes, dict[str, str]] | None:
        prefix = f"/api/v1/models/{REPO}"
        if not path.startswith(prefix):
            return None
        rest = path.removeprefix(prefix)
        if rest == "/revisions":
            row = {"Revision": "master", "CreatedAt": 1_700_000_000, "CommitId": REVISION}
            found = {"RevisionMap": {"Branches": [row], "Tags": []}}
            return _json({"Code": 200, "Success": True, "Data": found})
        if rest == "/repo/files":
            rows = [
                {
                    "Path": name, "Name": name.rpartition("/")[2], "Type": "blob",
                    "Size": len(data), "Sha256": _digest(data), "Revision": REVISION,
                    "CommittedDate": 1_700_000_000, "IsLFS": True,
                }
                for name, data in self.files.items()
            ]  # fmt: skip
            found = {"Files": rows, "LatestCommitter": {"CommitId": REVISION}}
            return _json({"Code": 200, "Success": True, "Data": found})
        if rest == "/repo" and query.get("FilePath") in self.files:
            data = self.files[query["FilePath"]]
            return data, {"ETag": f'"{_digest(data)}"', "X-Linked-Size": str(len(data))}
        if rest == "":
            return _json({"Code": 200, "Success": True, "Data": {"Id": 1, "Name": "model"}})
        return None

    def _clearml(self, path: str, _query: Mapping[str, str]) -> tuple[bytes, dict[str, str]] | None:
        if path == "/auth.login":
            claims = base64.urlsafe_b64encode(b'{"exp": 4000000000, "iat": 1700000000}').decode()
            token = f"eyJhbGciOiJIUzI1NiJ9.{claims.rstrip('=')}.c2ln"
            return _json({"meta": {"result_code": 200}, "data": {"token": token}})
        if not path.startswith("/artifacts/"):
            return None
        return artifact(int(path.removeprefix("/artifacts/").removesuffix(".bin"))), {}

    def _package(self, path: str, _query: Mapping[str, str]) -> tuple[bytes, dict[str, str]] | None:
        if self.packages is None or not path.startswith("/simple/"):
            return None
        cached = {"Cache-Control": "max-age=600"}
        name = path.rstrip("/").rpartition("/")[2]
        file = self.packages / name
        if file.is_file():
            return file.read_bytes(), {**cached, "Content-Type": "application/zip"}
        links = "".join(
            f'<a href="/simple/files/{wheel.name}">{wheel.name}</a>\n'
            for wheel in sorted(self.packages.iterdir())
            if wheel.name.startswith(name.replace("-", "_"))
        )
        return links.encode(), {**cached, "Content-Type": "text/html"}


def _json(value: object) -> tuple[bytes, dict[str, str]]:
    headers = {"Content-Type": "application/json", "X-Repo-Commit": REVISION}
    return json.dumps(value).encode(), headers


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def serving(packages: Path | None = None) -> Iterator[str]:
    """Serve for the block; yield the address, `http://127.0.0.1:PORT`."""

    class Handler(_Handler):
        pass

    Handler.files = repo_files()
    Handler.packages = packages
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
