"""One HTTP request and its answer, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Final

HEAD_LIMIT_BYTES: Final = 8_192


@dataclass(frozen=True, slots=True)
class Request:
    """What a page may know of a request."""

    path: str
    """Without the query."""
    accept: str


@dataclass(frozen=True, slots=True)
class Response:
    """A page."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Callable[[Request], "Response | None"]
"""Answers a request, on the handler's thread; None for a page that is not there."""


class Exchange(BaseHTTPRequestHandler):
    """http.server's parser between two buffers: a head in, an answer in ``wfile`` out, and no socket."""

    protocol_version = "HTTP/1.0"
    default_request_version = "HTTP/1.0"
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    rfile: BytesIO
    wfile: BytesIO

    def __init__(self, head: bytes, pages: Pages, local: bool) -> None:
        # All of it happens here, and not in the base class's __init__, which wants a socket and a server.
        self.rfile, self.wfile = BytesIO(head), BytesIO()
        self.client_address = ("", 0)
        self.understood = False
        self._local = local
        self._pages = pages
        self.requestline = self.command = ""
        self.request_version = self.protocol_version
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(HEAD_LIMIT_BYTES)
        if self.parse_request():
            self._respond()

    def _respond(self) -> None:
        if len(self.requestline.split()) < 3:  # HTTP/0.9, which has no status line to answer with
            self.send_error(HTTPStatus.BAD_REQUEST, "say which HTTP: GET /metrics HTTP/1.0")
        elif self.command not in ("GET", "HEAD"):
            self._send(Response(b"GET or HEAD\n", status=HTTPStatus.METHOD_NOT_ALLOWED))
        elif not self._is_meant():
            self._send(Response(b"this is for loopback only\n", status=HTTPStatus.MISDIRECTED_REQUEST))
        else:
            self.understood = True
            path = self.path.partition("?")[0]
            found = self._pages(Request(path, self.headers.get("Accept", "")))
            self._send(found or Response(b"there is no such page\n", status=HTTPStatus.NOT_FOUND))

    def _is_meant(self) -> bool:
        """A web page may point a name of its own at 127.0.0.1 and read us: Host is that name then."""
        host = self.headers.get("Host", "").strip().lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return not self._local or name in ("", "127.0.0.1", "localhost", "[::1]")

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def version_string(self) -> str:
        """The Server header."""
        return "plugmeter"

    def log_message(self, format: str, *args: object) -> None:
        """Requests are counted, not logged."""


def plain(status: HTTPStatus) -> bytes:
    """A whole answer that says no more than its status."""
    body = f"{status.value} {status.phrase}\n"
    return (
        f"HTTP/1.0 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()
