"""The uplink: the link that leads to the controller at present, and what the daemon tells of itself there."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Final

from plugmeter.daemon import documents
from plugmeter.daemon.footprints import Footprints
from plugmeter.daemon.hearing import Hearing, Message
from plugmeter.daemon.recorder import Recorder
from plugmeter.daemon.runs import Runs
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.allowance import Allowance
from plugmeter.lifecycle.figures import Figures
from plugmeter.sections import Config
from plugmeter.telemetry import acks, discovery, envelope
from plugmeter.telemetry.failures import is_denial, reason_words
from plugmeter.telemetry.link import Link, LinkSettings, LinkState
from plugmeter.telemetry.outbox import Outbox
from plugmeter.telemetry.topics import Topics

LOG: Final = logging.getLogger("plugmeter.daemon")

_COURTESY_S: Final = 0.5
_NO_TIME_S: Final = 0.02
_END_S: Final = 1.0
"""What the link's thread may take to end, in the daemon's last second."""
_STOP_S: Final = 10.0
_POLL_S: Final = 0.001
_ANSWERS_NS: Final = 200_000_000
"""A broker that owes an answer for longer may be dead."""
_MANY_CLEARED: Final = 100
_CALM_NS: Final = 3_000_000_000
_REST_AGAIN_NS: Final = 30_000_000_000


class Uplink:
    """There is no link where ``mqtt.host`` is empty, or before ``open``: then nothing is published.

    ``answer``, ``withdraw``, ``publish_meta``, ``link`` and ``heard`` are for any thread, all else is for the
    main one. ``reported`` gives the document of that name; ``command``, ``desire``, ``call``: see Hearing.
    """

    def __init__(
        self,
        device: str,
        config: Config,
        outbox: Outbox,
        runs: Runs,
        recorder: Recorder,
        footprints: Footprints,
        *,
        reported: Callable[[], bytes],
        command: Callable[[Message], None],
        desire: Callable[[bytes], None],
        call: Callable[[Callable[[], None]], Future[None]],
    ) -> None:
        self._device = device
        self._config = config
        self._outbox = outbox
        self._runs = runs
        self._recorder = recorder
        self._footprints = footprints
        self._ours: frozenset[str] = frozenset()
        """The topics that the latest link retains, or is to clear."""
        self._clearings: SimpleQueue[tuple[str, str, int]] = SimpleQueue()
        """Brokers, topics, and what they answered."""
        self._reported = reported
        self._topics = Topics(device)
        self._hearing = Hearing(
            self._topics,
            command=command,
            desire=desire,
            birth=self.publish_meta,  # Home Assistant has started: it wants to hear of us again
            call=call,
        )
        self._link: Link | None = None
        self._settings: LinkSettings | None = None
        """Those of the latest link."""
        self._cleared = 0
        """Answers that were taken away since the rest was asked for. The operator's thread counts."""
        self._cleared_ns = 0
        self._rest_at_ns = 0
        self._told_meta = b""
        self._told_stream = ""
        self._plugger: tuple[str, tuple[str, ...]] | None = None
        """Rig and ports of the latest run."""

    # -- the link -------------------------------------------------------------------------------

    @property
    def link(self) -> Link | None:
        """The one there is."""
        return self._link

    @property
    def heard(self) -> Counter[str]:
        """What came in from the broker, by what it was."""
        return self._hearing.counters

    def open(self) -> None:
        """Begin to connect. Raises UsageError for settings that no link can be made of."""
        if self._config.mqtt.host:
            self._open(LinkSettings.from_config(self._config, self._device, warn=LOG.warning))

    def configure(self, config: Config, settings: LinkSettings, *, forgiving: bool) -> None:
        """Another broker, perhaps: the old one hears that we leave it on purpose. ``settings`` are those of
        ``config``: nothing is read here that could fail. ``forgiving``: there is another link also where the
        old one's breaker is open. That waits for a person, and who reloads is one: the files are read
        anew."""
        changed = config.mqtt != self._config.mqtt
        forgiven = forgiving and self._link is not None and self._link.status().state is LinkState.BROKEN
        self._config = config
        if changed or forgiven:
            self._change(settings)

    def prove(self, before: Link | None) -> None:
        """Have the controller be reached with the configuration that is in effect now; ``before`` is the link
        there was until then."""
        if self._link is not None and self._link is before:
            self._link.kick("another configuration: the controller is to be reached with it")

    def reached_since_ns(self) -> int | None:
        """When the connection began (time.monotonic_ns), if the controller was reached by it: if it has
        acknowledged something. A broker proves nothing."""
        if self._link is None:
            return None
        status = self._link.status()
        reached = status.state is LinkState.CONNECTED and (status.last_ack_ns or 0) > status.since_ns
        return status.since_ns if reached else None

    def restart(self) -> None:
        """The remedy for a link that is stuck: another takes its place, and the broker drops the old one's
        connection for its. Should the old one's thread go on, it ends."""
        if self._link is not None and self._settings is not None:
            self._link.abandon()
            self._open(self._settings)

    def drain(self, cap_ns: int) -> None:
        """See Link.drain."""
        if self._link is not None:
            self._link.drain(cap_ns)

    def say_goodbye(self, reason: str, limit_s: float, allowance: Allowance) -> None:
        """The death on purpose, within ``limit_s``; 0 where no time is left for it. All of it is to take no
        longer than ``allowance`` has."""
        if self._link is None:
            return
        if limit_s:
            self._send_the_last(allowance.share_s(limit_s / 2, _END_S))
        try:
            self._part(self._link, reason[:500], allowance.share_s(limit_s, _END_S), _END_S)
        except PlugmeterError as error:
            LOG.error("%s; it is left behind", error)

    def _open(self, settings: LinkSettings) -> None:
        link = Link(
            settings,
            self._outbox,
            self._topics,
            client_id=f"plugmeter-{self._device}",
            inbox=self._hearing.take,
            diary=lambda event, details: self._recorder.keep("link", {"event": event, "details": details}),
            documents=self._link.documents if self._link is not None else None,
            encode=envelope.batch,
            decode_ack=acks.decode,
            birth=lambda: self._status("online"),
            will=lambda: self._status("lost"),
        )
        self._link, self._settings = link, settings
        self._told_stream = self._outbox.stream
        self._hearing.prefix = settings.discovery_prefix
        self.publish_meta()
        self.publish_reported(self._reported())
        self._clear_the_past(link, settings)
        link.start()

    def _clear_the_past(self, link: Link, settings: LinkSettings) -> None:
        """What this broker retains of us and we publish no more: under another name, or another prefix."""
        broker = f"{settings.host}:{settings.port}"
        topics = self._topics
        ours = {topics.status, topics.meta, topics.summary, topics.reported}
        if settings.discovery_prefix:
            ours.add(discovery.config_topic(self._device, settings.discovery_prefix))
        for topic in self._ours - ours:
            link.remove_document(topic)
        past = [topic for topic in self._footprints.at(broker) if topic not in ours]
        self._footprints.leave(broker, sorted(ours))
        for topic in past:
            link.clear_document(topic, partial(self._cleared_at, broker, topic))
        self._ours = frozenset(ours.union(past))

    def _cleared_at(self, broker: str, topic: str, code: int) -> None:
        self._clearings.put((broker, topic, code))

    def _note_clearings(self) -> None:
        while not self._clearings.empty():
            broker, topic, code = self._clearings.get_nowait()
            if is_denial(code):
                LOG.warning("%s does not let us clear %s (%s): do so by hand", broker, topic,
                            reason_words(code))  # fmt: skip
            if code < 0x80 or is_denial(code):  # else it may be done another time
                self._footprints.clear(broker, [topic])

    def _change(self, settings: LinkSettings) -> None:
        old = self._link
        if old is not None:
            try:
                self._part(old, "another configuration", 0.0)
            except PlugmeterError as error:
                LOG.error("%s; it is left behind", error)
                old.abandon()
        if settings.host:
            self._open(settings)
        else:
            self._link = None

    def _part(self, link: Link, reason: str, limit_s: float, end_s: float = _STOP_S) -> None:
        if not link.say_goodbye(self._status("stopped", reason), limit_s or _courtesy_s(link)):
            LOG.info("the broker has not taken the goodbye: its status of this device is not the latest")
        link.stop(end_s)

    def _send_the_last(self, limit_s: float) -> None:
        """The record of the last transition came when all the others were acknowledged. That this one is as
        well is committed when the outbox is closed."""
        until = time.monotonic() + limit_s
        if self._outbox.flush(limit_s):
            while not self._outbox.all_acknowledged and time.monotonic() < until:
                time.sleep(_POLL_S)

    # -- what is published on it ----------------------------------------------------------------

    def tick(self) -> None:
        """Once a second."""
        self._note_clearings()

    def _hear_the_rest(self) -> None:
        """Behind so many old answers the broker may have held back commands, and never tries again on this
        connection."""
        now_ns = time.monotonic_ns()
        is_calm = now_ns - self._cleared_ns >= _CALM_NS and now_ns >= self._rest_at_ns
        if self._cleared >= _MANY_CLEARED and is_calm:
            self._cleared = 0
            self._rest_at_ns = now_ns + _REST_AGAIN_NS
            if self._link is not None:
                self._link.kick("many old answers are taken away: what was behind them is to be heard")

    def look(self) -> None:
        """Once a second, while running: what is desired is looked at, if there is anything new; and what
        wants another connection gets it, which none that stops has time for."""
        if self._link is not None and self._outbox.stream != self._told_stream:
            self._told_stream = self._outbox.stream
            self._link.kick("another stream began: status and last will are to name it")
        self._hear_the_rest()
        self._hearing.look()

    def refresh(self) -> None:
        """``meta`` anew if it has changed: the ports are known once the run has begun."""
        if self._meta() != self._told_meta:
            self.publish_meta()

    def publish_summary(self, figures: Callable[[], Figures]) -> None:
        """How the daemon is doing."""
        if self._link is None:
            return
        now = figures()
        summary = documents.summary(now, self._outbox.glance(), self._runs.run_id, time.time_ns())
        self._publish(self._topics.summary, summary)

    def publish_meta(self) -> None:
        """What the device is; for Home Assistant, too."""
        meta = self._told_meta = self._meta()
        self._publish(self._topics.meta, meta)
        if self._hearing.prefix:
            topic, payload = discovery.config(self._device, json.loads(meta), prefix=self._hearing.prefix)
            self._publish(topic, payload)

    def publish_reported(self, payload: bytes) -> None:
        """Which configuration is in effect, and what became of the desired one."""
        self._publish(self._topics.reported, payload)

    def answer(self, topic: str, payload: bytes, keep_s: int | None) -> None:
        """The state of a command; empty where one that was kept is to be taken away. There will be any number
        of them; the journal has them all."""
        if not payload:
            self._cleared += 1
            self._cleared_ns = time.monotonic_ns()
        if self._link is not None:
            self._link.set_document(topic, payload, passing=True, keep_s=keep_s)

    def withdraw(self, topic: str) -> None:
        """The controller has cleared an answer."""
        if self._link is not None:
            self._link.remove_document(topic)

    def _publish(self, topic: str, payload: bytes) -> None:
        if self._link is not None:
            self._link.set_document(topic, payload)

    def _meta(self) -> bytes:
        ready = self._runs.ready
        if ready is not None:
            self._plugger = ready.rig, ready.ports
        # Between two runs it is as in the last one.
        configured = self._config.daemon.rig, tuple(port.name for port in self._config.ports)
        rig, ports = self._plugger or configured
        return documents.meta(self._config, rig, ports, documents.host())

    def _status(self, state: str, reason: str | None = None) -> bytes:
        return documents.status(state, self._outbox.stream, time.time_ns(), reason)


def _courtesy_s(link: Link) -> float:
    """How long goodbye may take when no time is left for it: a broker that answers hears it, and one that
    is dead costs nothing."""
    status = link.status()
    owes_ns = 0 if status.unanswered_ns is None else time.monotonic_ns() - status.unanswered_ns
    answers = status.state is LinkState.CONNECTED and owes_ns < _ANSWERS_NS
    return _COURTESY_S if answers or status.left_online else _NO_TIME_S
