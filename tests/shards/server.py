"""A folder served by http on this machine, as an object store would."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves a folder; cuts the first ``cuts`` connections for shards half-way, counts the bytes that it gave."""

    def __init__(self, folder: Path, cuts: int = 0, parts: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.cuts, self.parts, self.given = folder, cuts, parts, 0
        self.guard = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/x"

    def handle_error(self, *_: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, body: bool) -> None:
        path = self.server.folder / Path(self.path).name
        if not path.exists():
            self.send_error(404)
            return
        size = path.stat().st_size
        ranged = self.headers.get("Range") if self.server.parts else None
        first, last = 0, size - 1
        if ranged:
            left, _, right = ranged.removeprefix("bytes=").partition("-")
            first, last = int(left), min(int(right or last), last)
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        if self.server.parts:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if not body:
            return
        with open(path, "rb") as file:
            file.seek(first)
            part = file.read(last + 1 - first)
        with self.server.guard:
            cut = path.suffix == ".h5" and self.server.cuts > 0
            self.server.cuts -= cut
            self.server.given += len(part) * (path.suffix == ".h5")
        self.wfile.write(part[: len(part) // 2] if cut else part)
