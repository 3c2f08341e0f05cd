"""What the self-diagnosis looks at: frozen values, read elsewhere (``procfs``, ``tcp_info``, the daemon).

All times are CLOCK_MONOTONIC in nanoseconds, unless their name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """A worker's sign of life (``plugmeter.progress.Progress``) at one moment."""

    name: str
    wakeups: int
    work: int


@dataclass(frozen=True, slots=True)
class LinkSample:
    """The link to the broker at one moment."""

    state: str
    """off, connecting, connected, waiting or broken; the detectors ask for connected only."""
    connected_since_ns: int | None
    oldest_unacknowledged_ns: int | None
    """When the oldest message went out that the peer has answered in no way yet; None for no such message."""
    last_received_ns: int | None
    """When the link's program last read anything from the peer."""
    tls_failures: int
    """Failed TLS handshakes so far; a counter."""
    fileno: int | None = None
    """The socket, for ``tcp_info.read_tcp``."""
    distrusts: bool = False
    """A failed handshake was taken for one that will fail again, and the breaker opened for it."""
    tls_cause: str = ""
    """What the last failed handshake failed of, in words."""
    twin: bool = False
    """The broker has closed connections as soon as they were made."""


@dataclass(frozen=True, slots=True)
class RunSample:
    """The runs at one moment."""

    failures: int
    """In a row. One that ends well ends the row, and so does one that has lasted for a while, a person who
    ends it or another configuration."""
    since_ns: int
    """When the first of the row failed."""
    reason: str
    """What the last of them failed of, in one line."""


@dataclass(frozen=True, slots=True)
class TcpSample:
    """What the kernel knows of a TCP connection (struct tcp_info, include/uapi/linux/tcp.h)."""

    state: int
    """1 is ESTABLISHED (include/net/tcp_states.h)."""
    retransmits: int
    """Of the segment at the head of the queue, in a row: 0 again with the peer's next ACK."""
    probes: int
    """Unanswered probes of a closed window or of keepalive, in a row."""
    backoff: int
    unacked: int
    """Segments under way that the peer's kernel has not acknowledged."""
    total_retransmits: int
    last_data_received_ms: int
    """How long ago the last data came in; since the connection's beginning where none ever did."""
    last_ack_received_ms: int
    rtt_us: int

    @property
    def is_unanswered(self) -> bool:
        """Whether the peer's kernel itself is silent: what was sent is sent again, or probed for."""
        return (self.unacked > 0 and self.retransmits > 0) or self.probes > 1


@dataclass(frozen=True, slots=True)
class ThreadSample:
    """One thread of this process."""

    name: str
    """Its Python name, or the kernel's (comm) for threads that Python does not know."""
    tid: int
    state: str
    """R runs, S sleeps, D sleeps in the kernel and cannot be woken, ... (proc_pid_stat(5))."""
    cpu_ns: int
    """User and system time so far, to the clock tick (10 ms)."""


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """This process."""

    rss_bytes: int
    peak_rss_bytes: int
    cpu_ns: int
    """User and system time of all threads so far."""
    uptime_ns: int
    """Since the process began (CLOCK_BOOTTIME: a suspended machine's time counts)."""
    descriptors: int
    descriptor_limit: int
    """RLIMIT_NOFILE's soft limit."""
    thread_count: int
    threads: tuple[ThreadSample, ...] = ()
    """Empty where they were not asked for, or could not be opened for want of descriptors."""
    kinds: tuple[tuple[str, int], ...] = ()
    """Open descriptors by what they are, most first: socket, pipe, eventpoll, or a file's path. Of the
    ``kinds_of`` highest numbers, where a leak piles up; empty where they were not asked for."""
    kinds_of: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """All that the detectors look at, at one moment; what is None or empty is not judged."""

    now_ns: int
    workers: tuple[WorkerSample, ...] = ()
    process: ProcessSample | None = None
    link: LinkSample | None = None
    tcp: TcpSample | None = None
    """Of the link's socket."""
    run: RunSample | None = None
