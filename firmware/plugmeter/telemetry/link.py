"""The link: the thread that brings the outbox's records to the broker, and its messages to the daemon.

One thread owns everything here: it looks the broker up, connects, speaks (conversation), waits and connects
again (course). It never blocks but in its selector, so that it can be told to stop at any time, whatever the
broker does. Nothing of MQTT's session is relied on: each connection begins clean, and what was not
acknowledged by the controller is read from the outbox again (docs/decisions/2026-11-22-link.md).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.progress import Progress
from plugmeter.telemetry.backoff import Backoff
from plugmeter.telemetry.breaker import Breaker, Kind
from plugmeter.telemetry.course import Course
from plugmeter.telemetry.documents import Document, Documents
from plugmeter.telemetry.failures import Failure
from plugmeter.telemetry.guard import Diary, Guard
from plugmeter.telemetry.keepalive import Keepalive
from plugmeter.telemetry.link_memory import Acknowledged, Inbound, Memory, Tally
from plugmeter.telemetry.link_requests import Kick, Requests
from plugmeter.telemetry.link_settings import LinkSettings, Timing
from plugmeter.telemetry.link_status import LinkState, LinkStatus
from plugmeter.telemetry.sender import Batch, Encode, Sender, Source
from plugmeter.telemetry.topics import Topics
from plugmeter.telemetry.watch import Watch
from plugmeter.telemetry.window import Window

__all__ = ["Batch", "Inbound", "Link", "LinkSettings", "LinkState", "LinkStatus", "Source", "Timing"]

_LONGEST_SLEEP_S: Final = 1.0
_STOPPING_S: Final = 10.0


class Link:
    """The connection to the broker. Start it once; all public methods may be called from any thread.

    ``diary(event, details)`` and ``inbox`` are called from the link's thread and must not block.
    ``birth()`` and ``will()`` give the status documents of each connection: "online", and "lost", the will.
    ``encode`` is envelope.batch, ``decode_ack`` acks.decode (raises ValueError). ``documents`` are those of
    the link whose place this one takes.
    """

    def __init__(
        self,
        settings: LinkSettings,
        outbox: Source,
        topics: Topics,
        *,
        client_id: str,
        inbox: Callable[[Inbound], None],
        diary: Diary,
        encode: Encode,
        decode_ack: Callable[[bytes], Acknowledged],
        birth: Callable[[], bytes],
        will: Callable[[], bytes],
        timing: Timing | None = None,
        documents: Documents | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.progress = Progress("link")
        timing = timing or Timing()
        self._topics = topics
        tally = Tally()
        window = Window(settings.window, ack_timeout_s=settings.ack_timeout_s)
        self._memory = Memory(
            source=outbox,
            window=window,
            sender=Sender(outbox, encode, topics.device, window),
            documents=Documents() if documents is None else documents,
            keepalive=Keepalive(settings.keepalive_s, floor_s=timing.least_keepalive_s),
            publishing=Breaker(uniform, first_s=timing.breaker_s, longest_s=timing.longest_breaker_s),
            publish_backoff=Backoff(uniform, base_s=timing.retry_s / 2, cap_s=timing.longest_retry_s),
            document_backoff=Backoff(uniform, base_s=timing.retry_s, cap_s=timing.breaker_s),
            inbox=inbox,
            decode_ack=decode_ack,
            guard=Guard(diary, tally.counters),
            tally=tally,
        )
        self._requests = Requests()
        self._watch = Watch()
        self._course = Course(
            settings,
            timing,
            topics,
            self._memory,
            self._requests,
            self._watch,
            client_id=client_id,
            birth=birth,
            will=will,
            uniform=uniform,
            now_s=time.monotonic(),
        )
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._outbox = outbox
        outbox.on_commit(self._committed)

    # --- what others ask for -------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = _STOPPING_S) -> None:
        """End the thread, and the connection without a word (see ``say_goodbye``). Idempotent, quick. Raises
        PlugmeterError for a thread that does not end within ``timeout_s``."""
        self._requests.stop()
        self._outbox.off_commit(self._committed)
        self._watch.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise PlugmeterError("the link does not stop: a callback of it blocks")
        elif not self._thread.ident:  # was never started
            self._release()

    def abandon(self) -> None:
        """For one whose thread hangs: waits for nothing, not even a lock. Should it go on, it ends."""
        self._requests.stop()
        self._outbox.off_commit(self._committed)

    @property
    def documents(self) -> Documents:
        """What is published on each connection; for the link that takes this one's place."""
        return self._memory.documents

    def set_document(
        self,
        topic: str,
        payload: bytes,
        retain: bool = True,
        *,
        passing: bool = False,
        keep_s: int | None = None,
    ) -> bool:
        """Publish now, and again on each connection; the latest of a topic wins.

        Of those that are ``passing`` the oldest is forgotten when there are more than 250: what is answered
        for years must not fill up the place. False if there is no room for it (1,000 topics, 256 KiB each),
        which is counted. The broker is to forget it after ``keep_s``.
        """
        taken = self._memory.documents.set(Document(topic, payload, retain, passing, keep_s))
        self._watch.wake()
        return taken

    def clear_document(self, topic: str, answered: Callable[[int], None]) -> bool:
        """Take away what the broker retains there, now or on the next connection. ``answered`` is called once
        with the reason code of its PUBACK (below 0x80: it is gone), in the link's thread. False as for
        ``set_document``."""
        taken = self._memory.documents.set(Document(topic, b"", answered=answered))
        self._watch.wake()
        return taken

    def remove_document(self, topic: str) -> None:
        """No longer published again. What the broker has stays there."""
        self._memory.documents.remove(topic)

    def drain(self, deadline_ns: int) -> None:
        """Take nothing in any more but acknowledgements; go on publishing. Returns at once.

        Until ``deadline_ns`` (monotonic) a network that failed is tried again at short intervals.
        """
        self._requests.drain(deadline_ns / 1e9)
        self._watch.wake()

    def say_goodbye(self, payload: bytes, timeout_s: float) -> bool:
        """Publish the status "stopped" and disconnect in order, so that the last will is not published.

        Whether the broker has taken it; waits no longer than ``timeout_s`` for that and for it to close the
        connection. Afterwards the link is off and stays so. False at once if there is no connection; but
        where a kick has just ended it (LinkStatus.left_online), another one is made to say it.
        """
        if not self._thread.is_alive():
            return False
        goodbye = self._requests.say_goodbye(Document(self._topics.status, payload))
        if goodbye is None:
            return False
        self._watch.wake()
        if not goodbye.wait(timeout_s):
            self._watch.wake()  # the thread parts now
        return goodbye.delivered

    def kick(self, reason: str, *, silent: bool = False, since_ns: int | None = None) -> None:
        """Drop this connection and connect anew. An open breaker stays open. ``silent``: it is half-open,
        which counts as the silence that it is. ``since_ns``: only if it is the connection that began then
        (LinkStatus.since_ns). Else, and once it drains or says goodbye, it is only counted as
        ``kicks_too_late``."""
        failure = Failure("silence" if silent else "kicked", Kind.NETWORK, reason)
        self._requests.kick(Kick(failure, since_ns))
        self._watch.wake()

    def status(self) -> LinkStatus:
        """How it is doing; at most a second old."""
        return self._course.status

    # --- the thread ----------------------------------------------------------------------------------

    def _committed(self) -> None:
        self._memory.sender.committed()
        self._watch.wake()

    def _run(self) -> None:
        try:
            while not self._requests.stopping:
                self._turn()
            self._course.part(time.monotonic())
            while self._course.parting:  # a moment, for the broker to close
                self._turn()
        finally:
            self._course.end(time.monotonic())
            self._release()

    def _turn(self) -> None:
        readable, writable = self._watch.wait(self._sleep_s())
        self.progress.woke(self._course.turn(time.monotonic(), readable=readable, writable=writable))

    def _sleep_s(self) -> float:
        now_s = time.monotonic()
        next_s = self._course.next_s(now_s)
        return _LONGEST_SLEEP_S if next_s is None else min(_LONGEST_SLEEP_S, max(0.0, next_s - now_s))

    def _release(self) -> None:
        self._memory.source.off_commit(self._committed)
        self._watch.close()
        self._course.close()
