"""A plain static file server, the yardstick of deliveries: ranges, ``sendfile``, no questions.

Run as ``python -m tests.benchmarks.static_files FOLDER PORT`` until SIGTERM.
"""

from __future__ import annotations

import contextlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from contracts.sharing.ranges import parse


class Handler(BaseHTTPRequestHandler):
    """Files of one folder by their plain names."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.folder / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = parse(self.headers.get("Range"), size)
        start, end = asked or (0, size)
        self.send_response(200 if asked is None else 206)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if asked is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if with_body:
            # Clients hang up on the probes that they make without a range.
            with path.open("rb") as file, contextlib.suppress(ConnectionError):
                self.connection.sendfile(file, start, end - start)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per request would slow the yardstick down."""


def main(folder: Path, port: int) -> None:
    """Serve ``folder`` on the loopback."""
    Handler.folder = folder
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
