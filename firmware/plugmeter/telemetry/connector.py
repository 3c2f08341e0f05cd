"""The way to the broker: name, address, TCP, TLS; without ever blocking the thread that goes it."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import threading
from typing import Final, cast

from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.failures import Failure, LinkError, of_error
from plugmeter.wakeup import Wakeup

_MOST_ADDRESSES: Final = 8
_LEAST_TRY_S: Final = 1.0
_TCP_USER_TIMEOUT: Final = 18  # linux/tcp.h; socket has it only where it was built with it

Address = tuple[int, tuple[str | int, ...]]
"""Family and what connect(2) takes."""


class Lookup:
    """getaddrinfo(3) in a thread of its own: it may take half a minute, and cannot be interrupted.

    ``fileno()`` becomes readable when it is done. The thread is a daemon, so nothing waits for it at the end.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._done = Wakeup()
        self.result: list[Address] | OSError | None = None
        threading.Thread(target=self._run, name="link-lookup", daemon=True).start()

    def fileno(self) -> int:
        return self._done.fileno()

    def _run(self) -> None:
        result: list[Address] | OSError
        try:
            result = _addresses(self.host, self.port, 0)
        except OSError as error:
            result = error
        except UnicodeError:  # a label of more than 63 characters, or an empty one
            result = socket.gaierror(socket.EAI_NONAME, "it is no host name")
        self.result = result
        self._done.wake()

    def close(self) -> None:
        self._done.close()


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [
        (family, cast("tuple[str | int, ...]", address)) for family, *_, address in found[:_MOST_ADDRESSES]
    ]


class Connector:
    """One attempt. Wait for ``events`` on ``fileno()``, but not beyond ``deadline_s``; then ``advance``.

    Times are monotonic seconds. A host's addresses are tried in turn, each for its share of ``timeout_s``.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        now_s: float,
        *,
        timeout_s: float,
        user_timeout_s: float,
        lookup: Lookup | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._context = context
        self._timeout_s = timeout_s
        self._user_timeout_s = user_timeout_s
        self._socket: socket.socket | None = None
        self._shaking = False
        self._addresses: list[Address] = []
        self._share_s = timeout_s
        self._last: Failure | None = None
        self.lookup: Lookup | None = None
        self.events = selectors.EVENT_READ
        self.deadline_s = now_s + timeout_s
        self.address = ""
        try:
            numeric = _addresses(host, port, socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):  # a name
            # A lookup that hung the last time goes on: no second thread for the same question.
            self.lookup = lookup or Lookup(host, port)
        else:
            self._take(numeric, now_s)

    def fileno(self) -> int:
        if self._socket is not None:
            return self._socket.fileno()
        assert self.lookup is not None
        return self.lookup.fileno()

    def advance(self, now_s: float) -> socket.socket | None:
        """Go as far as it goes. The socket, once it is connected (and TLS agreed on). Raises LinkError."""
        if self._socket is None:
            assert self.lookup is not None
            if self.lookup.result is not None:
                result = self.lookup.result
                self.lookup.close()
                self.lookup = None
                if isinstance(result, OSError):
                    raise LinkError(of_error(result, "connecting"))
                self._take(result, now_s)
            elif now_s >= self.deadline_s:
                raise LinkError(
                    Failure(
                        "dns",
                        Kind.NETWORK,
                        "the broker's name is not resolved in time",
                    )
                )
            return None
        try:
            return self._step(now_s)
        except OSError as error:
            self._last = self._failure(error)
            self._close_socket()
            if self._last.kind is not Kind.NETWORK:
                raise LinkError(self._last) from error
            self._next_address(now_s)
            return None

    def _failure(self, error: OSError) -> Failure:
        failure = of_error(error, "connecting")
        if self._shaking and failure.cause in ("tcp", "timeout"):
            words = "the broker ends TLS's handshake" if failure.cause == "tcp" else failure.text
            return Failure("tls", Kind.NETWORK, f"{words}: does this port speak TLS?")
        return failure

    def close(self) -> Lookup | None:
        """Give up. A lookup that is still going on is given back, for the next attempt."""
        self._close_socket()
        lookup, self.lookup = self.lookup, None
        return lookup

    def _take(self, addresses: list[Address], now_s: float) -> None:
        self._addresses = addresses
        self._share_s = max(_LEAST_TRY_S, self._timeout_s / max(1, len(addresses)))
        self._next_address(now_s)

    def _next_address(self, now_s: float) -> None:
        while self._addresses:
            family, address = self._addresses.pop(0)
            self.address = str(address[0])
            self.deadline_s = now_s + self._share_s
            try:
                self._begin(family, address)
            except OSError as error:
                self._last = of_error(error, "connecting")
                self._close_socket()
                continue
            return
        raise LinkError(self._last or Failure("dns", Kind.NETWORK, "the broker's name has no address"))

    def _begin(self, family: int, address: tuple[str | int, ...]) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Sent data that nobody acknowledges ends the connection after this time (tcp(7)), and not after a
        # quarter of an hour of retransmissions. An idle one is MQTT's keepalive's business.
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(self._user_timeout_s * 1_000))
        error = sock.connect_ex(address)
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        self.events = selectors.EVENT_WRITE
        self._shaking = False

    def _step(self, now_s: float) -> socket.socket | None:
        sock = self._socket
        assert sock is not None
        if now_s >= self.deadline_s:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if not self._shaking:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            try:
                sock.getpeername()
            except OSError as unconnected:
                if unconnected.errno != errno.ENOTCONN:
                    raise
                return None  # woken up too early
            if self._context is None:
                self._socket = None
                return sock
            sock = self._context.wrap_socket(
                sock, server_hostname=self._host.partition("%")[0], do_handshake_on_connect=False
            )
            self._socket = sock
            self._shaking = True
        assert isinstance(sock, ssl.SSLSocket)
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self.events = selectors.EVENT_READ
            return None
        except ssl.SSLWantWriteError:
            self.events = selectors.EVENT_WRITE
            return None
        self._socket = None
        return sock

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
