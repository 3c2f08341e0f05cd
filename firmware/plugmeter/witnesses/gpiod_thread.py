"""The one thread of a ``GpiodFactory`` that reads events for gpiozero's callbacks."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from types import TracebackType


class EventThread:
    """Calls a pin's reader whenever its line request has events.

    The thread starts with the first ``watch``. ``close`` wakes it through an eventfd and waits at
    most ``JOIN_S`` seconds for a callback that is still running; the thread is a daemon, so such a
    callback cannot hold up the interpreter's exit either. A reader or callback that raises is reported by
    ``threading.excepthook``, as in any thread, and the other pins go on; a reader whose line is gone
    is not watched any more (it would be ready for ever).
    """

    JOIN_S = 0.5

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._readers: dict[int, Callable[[], object]] = {}
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None

    def watch(self, fd: int, read: Callable[[], object]) -> None:
        """Call ``read`` in the thread whenever ``fd`` is readable, until ``forget``."""
        with self._lock:
            if self._epoll is None:
                self._epoll = self._start()
            if fd not in self._readers:
                self._epoll.register(fd, select.EPOLLIN)
            self._readers[fd] = read

    def forget(self, fd: int) -> None:
        """No more calls for ``fd``; one that runs at this moment runs on."""
        with self._lock:
            if self._readers.pop(fd, None) is not None and self._epoll is not None:
                self._epoll.unregister(fd)

    def close(self) -> None:
        """End the thread; idempotent, and callable from a callback. A later ``watch`` starts a new one."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            os.eventfd_write(self._wake, 1)
            self._epoll = None
            self._readers.clear()
        if thread is not threading.current_thread():
            thread.join(self.JOIN_S)

    def _start(self) -> select.epoll:
        epoll, self._wake = select.epoll(), os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(
            target=self._run, args=(epoll, self._wake), name=self._name, daemon=True
        )
        self._thread.start()
        return epoll

    def _run(self, epoll: select.epoll, wake: int) -> None:
        # The descriptors end with the thread, so that close() never pulls them from under it.
        with epoll:
            while True:
                for fd, mask in epoll.poll():
                    if fd == wake:
                        os.close(wake)
                        return
                    self._call(fd, mask)

    def _call(self, fd: int, mask: int) -> None:
        with self._lock:
            read = self._readers.get(fd)
        if read is None:
            return
        with _Reported():
            read()
        if mask & (select.EPOLLERR | select.EPOLLHUP):
            self.forget(fd)


class _Reported:
    """An exception in a callback is the callback's: report it as the thread would, and carry on."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None:
            return False
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
        return True
