"""The controller as a process: the receiver's thread, the page's threads, and an orderly end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from plugmeter.controller.broker import BrokerSettings
from plugmeter.controller.receiver import Receiver
from plugmeter.controller.store import Store
from plugmeter.errors import PlugmeterError

_STOP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """What ``plugmeter controller serve`` was told."""

    broker: BrokerSettings
    client_id: str
    share: str | None
    listen: tuple[str, int] | None
    """Address and port of the page; None for none."""
    keep_days: int | None = None
    """For how long records are kept; None for ever."""
    token: str | None = None
    """What the page asks for, if anything."""
    hosts: frozenset[str] = frozenset()
    """Names that the page answers to on a loopback address, beside those of this machine."""


def serve(settings: ServiceSettings, store: Store, tell: Callable[[str], None]) -> int:
    """Run until SIGTERM or SIGINT; 0 then. Raises PlugmeterError where the page's address cannot be had."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():  # a second one: the default, which ends at once; nothing acknowledged is lost
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    receiver = Receiver(
        settings.broker,
        store,
        client_id=settings.client_id,
        share=settings.share,
        tell=tell,
        keep_days=settings.keep_days,
    )
    page = None
    try:
        if settings.listen is not None:
            from plugmeter.controller.page import Page

            page = Page(store, receiver.status, settings.listen, settings.token, settings.hosts)
            tell(f"page: {page.url}")
        receiver.start()
        if page is not None:
            page.start()
        while not stop.wait(0.5) and receiver.alive:
            pass
        drained = receiver.stop(_STOP_S)
        if receiver.failure is not None:
            raise receiver.failure
        if not drained:
            raise PlugmeterError(f"the receiver did not end within {_STOP_S:g} s")
        counters = receiver.status().counters
        tell(f"ended: {counters['records']} records stored, {counters['duplicates']} had come before")
        return 0
    finally:
        if page is not None:
            page.stop()
        store.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """One line for the journal or the terminal, at once."""
    print(f"plugmeter: {text}", file=sys.stderr, flush=True)
