"""Serves metrics, probes and the status over HTTP: bounded in threads, bytes and time, and read-only.

A connection carries one request (HTTP/1.0). Its head must be there, and its answer taken, within
``request_s``: whoever is slower is cut off, so nobody can hold one of the few handlers for long. While all
of them are busy, connections wait in the kernel's backlog; if none becomes free for half a second, all that
wait get a 503. Whatever becomes of a connection is counted.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from http import HTTPStatus
from typing import Final

from plugmeter.lifecycle.address import BACKLOG, Address, identity, listen, remove_socket_file
from plugmeter.lifecycle.exchange import HEAD_LIMIT_BYTES, Exchange, Pages, plain
from plugmeter.progress import Progress

HANDLERS: Final = 4

_TURN_S: Final = 0.5
_LINGER_S: Final = 0.2
_GRACE_S: Final = 0.2

OUTCOMES: Final = ("answered", "refused", "slow", "malformed", "empty", "broken", "defect")
"""What becomes of a connection. Refused: all handlers were busy, or we stop. Malformed: garbage, or too
large. Empty: closed without a request. Broken: gone before the answer. Defect: ours."""

_LOG = logging.getLogger(__name__)


class MetricsServer:
    """A listener, its thread, and at most 4 handler threads.

    ``MetricsServer(address, pages)`` listens at once (PlugmeterError where it cannot); ``start()`` serves.
    """

    def __init__(self, address: Address, pages: Pages, *, request_s: float = 5.0) -> None:
        self.progress = Progress("metrics")
        self.counters: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        """Connections by what became of them."""
        self._listener = listen(address)
        self._made = identity(address)
        self.address = Address(address.path, address.host, 0 if address.path else _port(self._listener))
        """Where it is; the port it got where 0 was asked for."""
        self._pages = pages
        self._request_s = request_s
        self._changed = threading.Condition()
        self._handlers: dict[threading.Thread, socket.socket] = {}
        self._reading: set[socket.socket] = set()
        """Connections whose request is not here yet."""
        self._closing = False
        self._in_trouble = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=self.progress.name, daemon=True)

    def start(self) -> None:
        """Begin to serve. Once only."""
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> bool:
        """Close the listener, then let requests under way finish; whether all did within ``timeout_s``.

        A request that is not all here 0.2 s after that is none. Those that cannot finish (a page that hangs)
        are left behind on daemon threads. Idempotent.
        """
        until_s = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._wake.fileno() >= 0:
            self._wake.send(b"\0")
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():  # stuck: from outside it can be made to listen no more, at least
            self._stop_listening()
        else:
            self._close_listener()
            self._wake.close()
            self._woken.close()
        return self._finish(until_s) and not self._thread.is_alive()

    def _finish(self, until_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: not self._handlers, _within(_GRACE_S, until_s))
            for connection in self._reading:
                _shut(connection, socket.SHUT_RD)
            return self._changed.wait_for(lambda: not self._handlers, _within(None, until_s))

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        try:
            while not self._closing:
                ready = poller.poll(_TURN_S * 1000)
                found = any(descriptor == self._listener.fileno() for descriptor, _ in ready)
                self.progress.woke(found)
                if found and self._has_room():
                    self._hand_over()
                elif found:
                    self._turn_away()
            self._turn_away()
        finally:
            self._close_listener()

    def _has_room(self) -> bool:
        """Waits a little for it; what comes meanwhile waits in the kernel's backlog."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._handlers) < HANDLERS, _TURN_S)
            return not self._closing and len(self._handlers) < HANDLERS

    def _turn_away(self) -> None:
        """A 503 for all that wait: so a few slow ones do not keep the rest waiting for ever."""
        for _ in range(BACKLOG + 1):
            connection = self._accepted()
            if connection is None:
                return
            self._refuse(connection)

    def _refuse(self, connection: socket.socket) -> None:
        self._count("refused")
        with connection:
            connection.settimeout(0)
            try:
                connection.sendall(plain(HTTPStatus.SERVICE_UNAVAILABLE))
                connection.recv(HEAD_LIMIT_BYTES)  # else closing would reset what it has not read yet
            except OSError:
                return  # it has gone, or has sent nothing yet; it is counted

    def _hand_over(self) -> None:
        connection = self._accepted()
        if connection is None:
            return
        handler = threading.Thread(
            target=self._handle, args=(connection,), name=f"{self.progress.name}-request", daemon=True
        )
        with self._changed:
            self._handlers[handler] = connection
            self._reading.add(connection)
        try:
            handler.start()
        except RuntimeError as error:  # no more threads
            _LOG.warning("metrics: %s", error)
            self._done(handler, connection)
            self._refuse(connection)

    def _accepted(self) -> socket.socket | None:
        try:
            connection = self._listener.accept()[0]
        except BlockingIOError:
            return None
        except OSError as error:  # ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM: accept(2)
            self._count("broken")
            if not self._in_trouble:
                _LOG.warning("metrics: cannot accept: %s", error.strerror)
            self._in_trouble = True
            time.sleep(0.1)  # the listener stays readable: do not spin
            return None
        self._in_trouble = False
        return connection

    def _handle(self, connection: socket.socket) -> None:
        outcome = "defect"
        try:
            with connection:
                try:
                    outcome = self._exchange(connection)
                finally:
                    if outcome == "defect":  # its traceback is told by threading.excepthook
                        self._confess(connection)
        finally:
            self._count(outcome)
            self._done(threading.current_thread(), connection)

    def _exchange(self, connection: socket.socket) -> str:
        """One request and its answer; what became of it."""
        until_s = time.monotonic() + self._request_s
        try:
            head, failure = _read_head(connection, until_s)
            with self._changed:
                self._reading.discard(connection)
            if failure is None and not head:
                return "empty"
            answer, outcome = self._answer(head) if failure is None else (plain(failure), "malformed")
            if failure is HTTPStatus.REQUEST_TIMEOUT:
                outcome, until_s = "slow", time.monotonic() + _LINGER_S
            connection.settimeout(max(0.001, until_s - time.monotonic()))
            connection.sendall(answer)  # the limit is for all of it, not for each part
        except TimeoutError:
            return "slow"
        except OSError:
            return "broken"
        _linger(connection)
        return outcome

    def _answer(self, head: bytes) -> tuple[bytes, str]:
        exchange = Exchange(head, self._pages, local=not self.address.path)
        return exchange.wfile.getvalue(), "answered" if exchange.understood else "malformed"

    def _confess(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(_LINGER_S)
            connection.sendall(plain(HTTPStatus.INTERNAL_SERVER_ERROR))
        except OSError:
            return  # it is counted as our defect in any case

    def _done(self, handler: threading.Thread, connection: socket.socket) -> None:
        with self._changed:
            del self._handlers[handler]
            self._reading.discard(connection)
            self._changed.notify_all()

    def _close_listener(self) -> None:
        if self._listener.fileno() < 0:
            return
        try:
            remove_socket_file(self.address, self._made)
        except OSError as error:
            _LOG.warning("metrics: cannot remove %s: %s", self.address, error.strerror)
        self._listener.close()

    def _stop_listening(self) -> None:
        _LOG.warning("metrics: the server's thread does not end; it listens no more")
        _shut(self._listener, socket.SHUT_RDWR)

    def _count(self, outcome: str) -> None:
        with self._changed:
            self.counters[outcome] += 1


def _read_head(connection: socket.socket, until_s: float) -> tuple[bytes, HTTPStatus | None]:
    """A request's head without its empty line; nothing where none was sent; or what to answer instead."""
    head = bytearray()
    while True:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            return b"", HTTPStatus.REQUEST_TIMEOUT
        connection.settimeout(left_s)
        try:
            more = connection.recv(HEAD_LIMIT_BYTES)
        except TimeoutError:
            return b"", HTTPStatus.REQUEST_TIMEOUT
        if not more:
            return b"", HTTPStatus.BAD_REQUEST if head else None
        head += more
        ends = [at + len(end) for end in (b"\r\n\r\n", b"\n\n") if (at := head.find(end)) >= 0]
        if ends and min(ends) <= HEAD_LIMIT_BYTES:
            return bytes(head[: min(ends)]), None
        if len(head) > HEAD_LIMIT_BYTES:
            return b"", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


def _linger(connection: socket.socket) -> None:
    """Take in what the peer still sends: closing with unread data resets, which may cost it our answer."""
    until_s = time.monotonic() + _LINGER_S
    try:
        connection.shutdown(socket.SHUT_WR)
        while (left_s := until_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            if not connection.recv(HEAD_LIMIT_BYTES):
                return
    except OSError:
        return  # it has gone, or goes on sending: it has its answer


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        return  # it is shut already


def _within(most_s: float | None, until_s: float) -> float:
    left_s = max(0.0, until_s - time.monotonic())
    return left_s if most_s is None else min(most_s, left_s)


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])
