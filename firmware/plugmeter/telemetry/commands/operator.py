"""The operator: takes commands in, answers them, and has them carried out one at a time.

Two threads. ``operator`` (the worker with the sign of life) reads what came in, decides, writes the journal
and answers at once, also while an effect takes minutes; ``effects`` has the other one. What became of a
command is in the journal before it is told. So the broker may lose an answer: what it has retained comes in
again with the next connection, and is then answered from the journal.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from plugmeter.errors import PlugmeterError
from plugmeter.progress import Progress
from plugmeter.telemetry.commands import message
from plugmeter.telemetry.commands.answers import Answers, Publish
from plugmeter.telemetry.commands.effects import Effects
from plugmeter.telemetry.commands.journal import Entry, Journal
from plugmeter.telemetry.commands.limiter import Limiter
from plugmeter.telemetry.commands.message import FINAL, Address, Command, Echo, Refusal, Why
from plugmeter.telemetry.commands.operations import Operations
from plugmeter.telemetry.commands.signing import PublicKey
from plugmeter.telemetry.topics import Topics

_WAKE_S: Final = 1.0
_ECHOES_LIMIT: Final = 4_096
"""Retained answers of ours that wait to be compared with the journal: topics of at most 256 bytes."""


class Inbound(Protocol):
    """A message from the broker, as the link hands it on."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def retain(self) -> bool:
        """It is what the broker had kept: what new subscribers get."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an operator takes on. What is beyond is refused, counted, or both."""

    intake: int = 256
    """Messages that wait to be looked at."""
    waiting: int = 16
    """Commands that are accepted and not carried out yet."""
    commands_burst: int = 64
    commands_per_s: float = 4.0
    answers_burst: int = 32
    answers_per_s: float = 1.0
    """Refusals, with their records; and as many repeated answers."""
    clears_burst: int = 100
    clears_per_s: float = 50.0
    """Answers of forgotten commands, taken away at the broker."""


@dataclass(frozen=True, slots=True)
class _Item:
    topic: str
    payload: bytes
    size_bytes: int


class Operator:
    """``recover`` comes first and begins the work; ``handle`` may then be called from any thread.

    ``publish(topic, payload, keep_s)`` is to retain the payload at the broker for so long (an empty one takes
    away what is there), ``withdrawn(topic)`` says that the
    controller has cleared it, ``record(kind, data)`` is to keep a record of kind "command". They are called
    from both threads, and must neither block for long nor raise.
    """

    def __init__(
        self,
        journal: Journal,
        topics: Topics,
        device: str,
        accept: Collection[str],
        public_key: PublicKey | None,
        operations: Operations,
        publish: Publish,
        record: Callable[[str, Mapping[str, Any]], None],
        *,
        withdrawn: Callable[[str], None] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        limits: Limits = Limits(),
    ) -> None:
        self.progress = Progress("operator")
        self._journal = journal
        self._topics = topics
        self._device = device
        self._accept = tuple(accept)
        self._verify = public_key.verify if public_key else None
        self._withdrawn = withdrawn
        self._now_ns = now_ns
        self._limits = limits
        self._answers = Answers(journal, topics, publish, record, now_ns)
        self._effects = Effects(journal, operations, self._answers.tell, now_ns)
        self._intake: queue.Queue[_Item | None] = queue.Queue(limits.intake)
        self._turned_away: dict[str, None] = {}  # topics of messages that found the intake full
        self._echoes: dict[str, Echo] = {}  # topics with the answers of ours that the broker has kept
        self._lock = threading.Lock()  # of _turned_away, _echoes and _counters
        self._counters: Counter[str] = Counter()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="operator", daemon=True)
        # Only the worker's own:
        self._owed: dict[str, None] = {}  # ids whose state is to be published once more
        self._stale: dict[str, None] = {}  # topics of answers whose commands are forgotten
        self._withheld = 0
        self._commands_limiter = Limiter(limits.commands_burst, limits.commands_per_s)
        self._refusals_limiter = Limiter(limits.answers_burst, limits.answers_per_s)
        self._repeats_limiter = Limiter(limits.answers_burst, limits.answers_per_s)
        self._clears_limiter = Limiter(limits.clears_burst, limits.clears_per_s)

    @property
    def counters(self) -> dict[str, int]:
        """What came in and what became of it: received, accepted, repeated, echoes, cleared, refused_<why>,
        turned_away (found the intake full), withheld (refusals without answer and record, for their number),
        echoes_left (too many to be compared with the journal), outdated (answers of forgotten commands, taken
        away), unread (the journal could not be read, so no
        state was repeated), defects."""
        with self._lock:
            return {**self._counters, "defects": self._effects.defects}

    @property
    def trouble(self) -> str | None:
        """One line while the journal cannot be written: then nothing is begun."""
        return self._effects.trouble

    @property
    def executing(self) -> tuple[str, str, int] | None:
        """(op, id, monotonic ns of its beginning) of the command that is being carried out."""
        return self._effects.executing

    def configure(self, accept: Collection[str], public_key: PublicKey | None) -> None:
        """From the next message on other operations are obeyed, or of another signer. What was accepted
        already stands."""
        self._accept = tuple(accept)
        self._verify = public_key.verify if public_key else None

    def handle(self, inbound: Inbound) -> None:
        """Take in a message. Never blocks, never raises.

        With each connection the broker hands out all that it has kept, our own answers mostly: they must take
        no place from commands, and none of them must be taken for one.
        """
        size = len(inbound.payload)
        payload = inbound.payload if size <= message.PAYLOAD_LIMIT_BYTES else b""
        if self._closing:  # the next daemon gets what the broker has kept
            self._count("turned_away")
            return
        where = message.address(inbound.topic, self._device)
        echo = message.echo(where, payload)
        if echo is not None:
            self._hear(where, echo, inbound.retain)
            return
        try:
            self._intake.put_nowait(_Item(inbound.topic, payload, size))
        except queue.Full:
            with self._lock:
                self._counters["turned_away"] += 1
                if size and len(self._turned_away) < self._limits.intake:
                    self._turned_away[inbound.topic] = None

    def _hear(self, where: Address, echo: Echo, is_retained: bool) -> None:
        with self._lock:
            self._counters["received"] += 1
            self._counters["echoes"] += 1
            if not is_retained or where.topic is None:
                return  # our own, on its way; or nobody's
            if len(self._echoes) >= _ECHOES_LIMIT and where.topic not in self._echoes:
                self._counters["echoes_left"] += 1
                return
            is_first = not self._echoes
            self._echoes[where.topic] = echo
        if is_first:
            try:
                self._intake.put_nowait(None)
            except queue.Full:
                pass  # then it has something to wake up for

    def recover(self) -> None:
        """Carry on what the last end of the daemon interrupted, and begin to work. Raises PlugmeterError."""
        self._effects.recover(self._accept)
        self._worker.start()

    def close(self, timeout_s: float = 2.0) -> bool:
        """Take on nothing more, and wait for what is being carried out. The next ``recover`` carries on what
        is left. False: something is still being carried out after ``timeout_s``."""
        end = time.monotonic() + timeout_s
        self._closing = True
        try:
            self._intake.put_nowait(None)
        except queue.Full:
            pass  # then it has something to wake up for
        for thread in (self._effects.close(), self._worker):
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def _work(self) -> None:
        while not self._closing:
            try:
                item = self._intake.get(timeout=_WAKE_S)
            except queue.Empty:
                item = None
            self.progress.woke(item is not None)
            if item is not None:
                self._receive(item)
            self._settle()

    def _receive(self, item: _Item) -> None:
        self._count("received")
        where = message.address(item.topic, self._device)
        outcome = message.parse(
            item.topic, item.payload, device=self._device, verify=self._verify, size_bytes=item.size_bytes
        )
        if isinstance(outcome, message.Cleared):
            self._count("cleared")
            self._owed.pop(where.id, None)
            if self._withdrawn and where.topic:
                self._withdrawn(where.topic)
        elif not isinstance(outcome, Echo):  # those do not come here
            refusal = outcome if isinstance(outcome, Refusal) else self._take_on(outcome)
            if refusal:
                self._refuse(where, refusal)

    def _take_on(self, command: Command) -> Refusal | None:
        """Accept a good command, or a repeated one; or say why not."""
        now_ns = self._now_ns()
        try:
            known = self._journal.find(command.id)
            if known is not None:
                return self._repeat(command, known)
            marks = self._journal.forgotten_ns, self._journal.lost_ns
            refusal = message.admit(command, self._accept, now_ns, *marks) or self._busy()
            if refusal:
                return refusal
            entry = self._journal.accept(command, now_ns)
        except PlugmeterError as error:
            return Refusal(Why.JOURNAL, str(error))
        self._count("accepted")
        for op, command_id in self._journal.take_forgotten():
            self._outdate(self._topics.command(op, command_id))
        self._answers.tell(entry)
        self._effects.add(entry)
        return None

    def _busy(self) -> Refusal | None:
        """What comes while the daemon ends is accepted all the same: the next one carries it on."""
        if self._effects.waiting >= self._limits.waiting:
            return Refusal(Why.BUSY, f"{self._effects.waiting} commands wait already: send it again later")
        if not self._commands_limiter.take(time.monotonic_ns()):
            return Refusal(Why.BUSY, "too many commands in a short time: send it again later")
        return None

    def _repeat(self, command: Command, known: Entry) -> Refusal | None:
        if not known.is_of(command):
            return Refusal(
                Why.ID_REUSED,
                f"{command.id} is the id of another {known.op}, which is {known.state}: each command needs an"
                " id of its own",
            )
        if command.expires_ns > known.expires_ns:
            self._journal.prolong(known.id, command.expires_ns)
        self._count("repeated")
        self._owed[known.id] = None
        return None

    def _correct(self, where: Address, echo: Echo) -> None:
        """The broker has kept an answer of ours; not the last one, if we ended before that reached it. Or one
        of a command that is forgotten here: it goes, for brokers hand out only so many with a connection
        (mosquitto 1,000), and drop what is behind them, new commands too."""
        assert where.topic is not None  # _hear
        try:
            known = self._journal.find(where.id)
        except PlugmeterError:
            self._count("unread")  # what the broker has kept comes in again with the next connection
            return
        if known is None:
            lost_ns = self._journal.lost_ns or 0  # what was before that is nowhere else
            if echo.state in FINAL and echo.time_ns is not None and echo.time_ns > lost_ns:
                self._outdate(where.topic)
        elif known.op == where.op and known.state != echo.state:
            self._owed[known.id] = None

    def _outdate(self, topic: str) -> None:
        if len(self._stale) < _ECHOES_LIMIT:  # what is left comes in again with the next connection
            self._stale[topic] = None

    def _turn_away(self, where: Address) -> None:
        """A message that found the intake full, and that nobody has read. What was accepted under its topic
        stands, and is said again."""
        try:
            known = self._find(where)
        except PlugmeterError:
            self._count("unread")  # it may be a known one: its answer is not to be lost for this
            return
        if known is not None:
            self._owed[known.id] = None
        else:
            self._refuse(where, Refusal(Why.BUSY, "too many messages at once: send it again later"))

    def _refuse(self, where: Address, refusal: Refusal) -> None:
        """Refuse; what was accepted under this topic stands: if the refusal is told at all, then that again
        right behind it. Answers and records are limited in number."""
        self._count(f"refused_{refusal.why}")
        try:
            known = self._find(where)
        except PlugmeterError:
            self._count("unread")
            known = None
        if self._refusals_limiter.take(time.monotonic_ns()):
            self._answers.refuse(where, refusal, self._withheld)
            self._withheld = 0
            if known is not None:
                self._say_again(known.id)
            return
        self._count("withheld")
        self._withheld += 1
        if known is not None:
            self._owed[known.id] = None

    def _find(self, where: Address) -> Entry | None:
        """The command that was accepted under this topic. Raises PlugmeterError: the journal's."""
        if where.topic is None:
            return None
        known = self._journal.find(where.id)
        return known if known is not None and known.op == where.op else None

    def _clear(self, topic: str) -> None:
        try:
            known = self._journal.find(message.address(topic, self._device).id)
        except PlugmeterError:
            self._count("unread")
            return
        if known is None:  # else the id has come again meanwhile
            self._count("outdated")
            self._answers.clear(topic)

    def _say_again(self, command_id: str) -> None:
        try:
            self._answers.repeat(command_id)
        except PlugmeterError:
            self._count("unread")

    def _settle(self) -> None:
        """What waits for its turn: messages that were turned away, answers that are owed."""
        with self._lock:
            turned_away, self._turned_away = self._turned_away, {}
            echoes, self._echoes = self._echoes, {}
        for topic, echo in echoes.items():
            self._correct(message.address(topic, self._device), echo)
        for topic in turned_away:
            self._turn_away(message.address(topic, self._device))
        while self._owed and self._repeats_limiter.take(time.monotonic_ns()):
            command_id = next(iter(self._owed))
            del self._owed[command_id]
            self._say_again(command_id)
        while self._stale and self._clears_limiter.take(time.monotonic_ns()):
            topic = next(iter(self._stale))
            del self._stale[topic]
            self._clear(topic)
        if self._withheld and self._refusals_limiter.take(time.monotonic_ns()):
            self._answers.tell_withheld(self._withheld)
            self._withheld = 0
        self._effects.revive()

    def _count(self, what: str) -> None:
        with self._lock:
            self._counters[what] += 1
