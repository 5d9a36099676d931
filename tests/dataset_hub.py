"""A dataset of the Hub, served on this machine as the Hub serves it: for the real clients, by way of HF_ENDPOINT."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@contextmanager
def serving(dataset: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a Hub that has these files, by path, in every revision of one dataset and nothing else."""
    handler = type("Handler", (_Handler,), {"dataset": dataset, "files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    dataset: str
    files: Mapping[str, bytes]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(f"/datasets/{self.dataset}/resolve/([0-9a-f]{{40}})/(.+)", path):
            self._file(*match.groups())
        elif match := re.fullmatch(f"/api/datasets/{self.dataset}/revision/([0-9a-f]{{40}})", path):
            self._json({"id": self.dataset, "sha": match[1], "private": False, "tags": [], "siblings": [{"rfilename": name} for name in self.files]})
        elif match := re.fullmatch(f"/api/datasets/{self.dataset}/tree/[0-9a-f]{{40}}/?(.*)", path):
            self._json(self._listing(match[1]))
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _file(self, commit: str, name: str) -> None:
        if name not in self.files:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        self._answer(200, self.files[name], {"X-Repo-Commit": commit, "ETag": f'"{_digest(self.files[name])}"'})

    def _listing(self, folder: str) -> list[dict[str, object]]:
        """What lies in the folder, itself and no deeper."""
        inside = f"{folder}/" if folder else ""
        found: dict[str, dict[str, object]] = {}
        for name, content in self.files.items():
            if name.startswith(inside):
                head, *deeper = name.removeprefix(inside).split("/")
                kind = {"type": "directory", "size": 0} if deeper else {"type": "file", "size": len(content)}
                found[head] = {"path": inside + head, "oid": _digest(content), **kind}
        return list(found.values())

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the tests' stderr."""


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
