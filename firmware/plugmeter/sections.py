"""Every key of the configuration, with its default, its limits and its documentation: one class a section."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field

from plugmeter.settings import key

PORTS_LIMIT = 256
MOST_RIG_PORTS = 44
"""The lines of gpiozero's mock board, which stand for VBUS (rigs.lines)."""
_GIB = 1_073_741_823
"""SO_RCVBUF is an int that the kernel doubles (socket(7)): half of INT_MAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """[run]: what counts as an episode, as late and as lost."""

    debounce_ms: int = key(
        100,
        "How long VBUS must stay stable to count as an episode; shorter pulses are ambiguous."
        " The USB core waits just as long.",
        unit="ms", low=1, high=10_000,
    )  # fmt: skip
    nominal_ms: int = key(
        3_000,
        "An enumeration that comes later than this after its episode is late.",
        unit="ms", low=1, high=600_000,
    )  # fmt: skip
    lost_after_ms: int = key(
        30_000,
        "An episode whose enumeration has not come after this time is lost.",
        unit="ms", low=2, high=3_600_000,
    )  # fmt: skip
    storm_quiet_ms: int = key(
        1_000,
        "Episodes with less than this between them belong to one storm; losses come in bursts, so the"
        " bootstrap draws whole storms.",
        unit="ms", low=1, high=600_000,
    )  # fmt: skip
    claim_loss_rate: float = key(
        0.001,
        'The loss rate to be claimed ("under 0.1 %"): the report says how many more events that takes.',
        low=1e-9, high=0.5,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """[witnesses]: who is asked."""

    gpio: bool = key(
        True, "The GPIO lines that sense VBUS: the ground truth. Without it no run earns a certificate."
    )
    netlink: bool = key(True, "The kernel's own uevents.")
    udev: bool = key(True, "The events that udevd sends on.")
    inotify: bool = key(True, "Device nodes that appear and vanish.")
    listeners: bool = key(True, "What the kernel drops for every uevent socket of this machine.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Netlink:
    """[netlink]: the kernel uevent witness."""

    receive_buffer_bytes: int = key(
        134_217_728,
        "The socket's receive buffer. More than net.core.rmem_max takes root (or CAP_NET_ADMIN).",
        unit="bytes", low=4_096, high=_GIB,
    )  # fmt: skip
    ring_slots: int = key(
        2_048,
        "Slots of the ring between receive thread and pipeline; beyond them the rest waits in the socket.",
        low=16, high=65_536, power_of_two=True,
    )  # fmt: skip
    reorder_window_ms: int = key(
        500,
        "A hole in SEQNUM that is still there after this time is a loss: the kernel may swap two events.",
        unit="ms", low=1, high=60_000,
    )  # fmt: skip
    realtime_priority: int = key(
        10,
        "SCHED_FIFO priority of the receive thread where it is permitted; 0 leaves it an ordinary thread.",
        low=0, high=99,
    )  # fmt: skip
    lock_memory: bool = key(
        True, "Lock the ring in memory where it is permitted (mlock), so that no page fault delays a read."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Udev:
    """[udev]: the witness of udevd's events."""

    receive_buffer_bytes: int = key(
        134_217_728,
        "The socket's receive buffer. More than net.core.rmem_max takes root (or CAP_NET_ADMIN).",
        unit="bytes", low=4_096, high=_GIB,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inotify:
    """[inotify]: the witness of device nodes."""

    directories: tuple[str, ...] = key(
        ("/dev",),
        "The folders to watch for nodes that are created, changed or deleted. The injected rig watches only"
        " the folder of its own simulated nodes.",
        low=1, high=64, pattern=r"/[^\0]{0,4094}", pattern_text='a list of full paths, such as ["/dev"]',
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpio:
    """[gpio]: how the lines of [ports] are read and driven."""

    factory: str = key(
        "plugmeter-gpiod",
        "The gpiozero pin factory. Others (lgpio, mock, ...) work, but pass on no kernel numbers, without"
        " which a run earns no certificate.",
        pattern=r"[A-Za-z][A-Za-z0-9_.-]{0,63}", pattern_text="the name of a gpiozero pin factory",
    )  # fmt: skip
    chip: str = key(
        "",
        "The GPIO chip: /dev/gpiochip0, gpiochip0 or its label. Empty finds the one of the Pi's header.",
        pattern=r"[^\0-\x1f\x7f]{0,255}", pattern_text="a chip's path, name or label, or empty",
    )  # fmt: skip
    active_high: bool = key(True, "Whether a high sense line means that VBUS is on.")
    pull: str = key(
        "none",
        "The bias of the sense lines. A divider from VBUS wants none.",
        choices=("none", "up", "down"),
    )  # fmt: skip
    switch_active_high: bool = key(
        True, "Whether a high switch line turns VBUS on. For the relay rig, which alone switches VBUS."
    )
    vbus_at_rest: bool = key(
        False, "Whether the relay rig leaves VBUS on before its first step and after its last."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """[ports."NAME"]: the GPIO lines of one USB port, which is named as the kernel names it (1-1.4)."""

    name: str
    sense_gpio: int = key(
        MISSING,
        "The GPIO line that senses this port's VBUS.",
        kind=int, low=0, high=1_023,
    )  # fmt: skip
    switch_gpio: int | None = key(
        None,
        "The GPIO line that switches this port's VBUS, for the relay rig. May be left out.",
        kind=int, low=0, high=1_023,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """[rig]: what is plugged, how often and how fast. Options of the command line win over it; the passive
    rig obeys none of it."""

    sticks: int = key(120, "How many different USB sticks take turns.", low=1, high=1_000_000)
    cycles: int = key(1, "How often each of them is plugged and pulled.", low=1, high=1_000_000)
    ports: int = key(
        8,
        "Ports of the injected and gadget rigs, which simulate them; gadget has 32 at most. The relay rig and"
        " --real-lines take those of [ports].",
        low=1, high=MOST_RIG_PORTS,
    )  # fmt: skip
    gap_ms: int = key(
        0,
        "The least time between two changes of one port, from 50 ms on. 0 takes what the rig needs:"
        " 250 ms where it simulates, 1000 ms where a real kernel enumerates.",
        unit="ms", low=0, high=3_600_000,
    )  # fmt: skip
    jitter_ms: int = key(
        15, "Each change comes earlier or later by up to this.", unit="ms", low=0, high=60_000
    )
    density_per_s: float = key(
        0.0,
        "Plugs a second over all ports; 0 plugs as fast as gap_ms allows.",
        unit="per second", low=0, high=1_000_000,
    )  # fmt: skip
    bounce: str = key(
        "none",
        "How contacts bounce: contact is a burst of edges at each change, dip a short loss of VBUS between.",
        choices=("none", "contact", "dip"),
    )  # fmt: skip
    seed: int = key(1, "The same seed plugs the same sticks at the same times.", low=0, high=2**63 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """[daemon]: what `plugmeter run` does of its own accord, and where it keeps its state."""

    device: str = key(
        "",
        "This device's name in MQTT topics. Empty takes the host name.",
        pattern=r"([a-z0-9][a-z0-9_-]{0,62})?",
        pattern_text="a to z, 0 to 9, _ and -, at most 63 of them, or empty",
    )  # fmt: skip
    state_directory: str = key(
        "/var/lib/plugmeter",
        "Where the outbox, the journal of commands and all else is kept that outlasts a power cut.",
        pattern=r"/[^\0\n]{1,4000}", pattern_text="a full path",
    )  # fmt: skip
    rig: str = key(
        "passive",
        "The rig of the run that starts with the daemon; none waits for a command.",
        choices=("none", "passive", "injected", "gadget", "relay"),
    )  # fmt: skip
    run_minutes: int = key(
        60,
        "A passive run ends with a report after this time, and the next one begins. Other rigs end with"
        " their plan, and begin again.",
        unit="minutes", low=1, high=10_080,
    )  # fmt: skip
    records: str = key(
        "verdicts",
        "What is reported: verdicts, gaps and reports, or all, with every edge and uevent of a run.",
        choices=("verdicts", "all"),
    )  # fmt: skip
    metrics: str = key(
        "unix:/run/plugmeter/metrics.sock",
        "Where OpenMetrics, /livez, /readyz and the status are served: a Unix socket, or a port of the"
        " loopback address. Empty serves nothing, and then plugmeter status has only the last snapshot.",
        pattern=r"(unix:/[^\0\n]{1,100}|127\.0\.0\.1:\d{1,5}|\[::1\]:\d{1,5})?",
        pattern_text="an address: unix:/full/path, 127.0.0.1:PORT or [::1]:PORT, or empty",
    )  # fmt: skip
    log_level: str = key(
        "info", "What is told in the journal.", choices=("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """[lifecycle]: how long starting and stopping may take, and when something counts as wrong."""

    start_s: int = key(
        60, "The daemon must be ready after this time, or it ends.", unit="seconds", low=1, high=3_600
    )
    drain_s: float = key(
        10.0,
        "Stopping: how long the last records may take to reach the controller. Each recent stop that did not"
        " suffice makes it half as long again, up to 30 s. What is left then stays on disk.",
        unit="seconds", low=0.1, high=30,
    )  # fmt: skip
    stop_cap_s: float = key(
        60.0,
        "While the backlog shrinks, stopping may go on beyond its deadline, but never beyond this.",
        unit="seconds", low=1, high=600,
    )  # fmt: skip
    stuck_s: float = key(
        20.0,
        "A worker that does not move for so long is stuck. Less than plugmeter.service's WatchdogSec, or the"
        " daemon is restarted before the worker is.",
        unit="seconds",
        low=0.5,
        high=3_600,
    )
    fd_growth: int = key(
        64,
        "So many more open descriptors than after the start, and still rising, are a leak.",
        low=4, high=100_000,
    )  # fmt: skip
    spin_wakeups_per_s: int = key(
        2_000,
        "A loop that wakes up so often and finds nothing to do spins.",
        unit="per second", low=10, high=10_000_000,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """[outbox]: the records that the controller has not acknowledged yet."""

    commit_interval_ms: int = key(
        200,
        "Records are committed in groups, at most so far apart: what a power cut can cost.",
        unit="ms", low=1, high=10_000,
    )  # fmt: skip
    max_bytes: int = key(
        268_435_456,
        "The database grows to this; then the oldest records of the lowest class go, and a tombstone says"
        " which.",
        unit="bytes", low=1_048_576, high=1_099_511_627_776,
    )  # fmt: skip
    max_age_days: float = key(
        90.0,
        "Records that are older go likewise, from an hour (1/24 of a day) on. 0 keeps them.",
        unit="days", low=0, high=3_650,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    """[mqtt]: the broker."""

    host: str = key(
        "",
        "The broker's name or address. Empty reports to nobody: the records wait in the outbox.",
        pattern=r"[A-Za-z0-9._:%-]{0,255}", pattern_text="a host name or an address, or empty",
    )  # fmt: skip
    port: int = key(0, "Its port. 0 takes 8883 with TLS and 1883 without.", low=0, high=65_535)
    tls: bool = key(False, "Whether the connection is encrypted and the broker's certificate checked.")
    ca_file: str = key(
        "",
        "The certificates that the broker's may be signed by (PEM). Empty takes the system's.",
        pattern=r"(/[^\0\n]{1,4000})?", pattern_text="a full path, or empty",
    )  # fmt: skip
    certificate_file: str = key(
        "",
        "This device's own certificate (PEM), for a broker that asks for one.",
        pattern=r"(/[^\0\n]{1,4000})?", pattern_text="a full path, or empty",
    )  # fmt: skip
    key_file: str = key(
        "",
        "The private key to it (PEM, not encrypted).",
        pattern=r"(/[^\0\n]{1,4000})?", pattern_text="a full path, or empty",
    )  # fmt: skip
    username: str = key(
        "", "User name at the broker.", pattern=r"[^\0\x01-\x1f]{0,255}", pattern_text="a name, or empty"
    )
    password_file: str = key(
        "",
        "A file with the password in its first line. A name without a slash is a systemd credential.",
        pattern=r"[^\0\n]{0,4000}", pattern_text="a full path, the name of a credential, or empty",
    )  # fmt: skip
    keepalive_s: int = key(
        60,
        "The longest time between two signs of life. It starts at a quarter, and grows while the link is"
        " stable.",
        unit="seconds", low=4, high=3_600,
    )  # fmt: skip
    window: int = key(20, "Messages under way at once, if the broker allows as many.", low=1, high=20)
    ack_timeout_s: float = key(
        30.0,
        "Records that the controller has not acknowledged after this time are sent again.",
        unit="seconds", low=0.2, high=3_600,
    )  # fmt: skip
    discovery_prefix: str = key(
        "homeassistant",
        "Home Assistant's discovery topic, under which the device announces itself. Empty does not.",
        pattern=r"[A-Za-z0-9_/-]{0,100}", pattern_text="a topic without + and #, or empty",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """[commands]: what the controller may have this device do. It cannot be changed from afar."""

    accept: tuple[str, ...] = key(
        ("start-run", "stop-run", "selftest", "resync", "config", "log-level", "restart", "hwtest"),
        "The operations that are obeyed; an empty list obeys none.",
        low=0, high=8, pattern=r"(start-run|stop-run|selftest|resync|config|log-level|restart|hwtest)",
        pattern_text="a list of start-run, stop-run, selftest, resync, config, log-level, restart, hwtest",
    )  # fmt: skip
    public_key_file: str = key(
        "",
        "An Ed25519 public key (PEM). With it only commands signed with its private key are obeyed.",
        pattern=r"(/[^\0\n]{1,4000})?", pattern_text="a full path, or empty",
    )  # fmt: skip
    rollback_minutes: float = key(
        10.0,
        "A configuration from afar is given up if the controller is not reached with it within this time.",
        unit="minutes", low=0.05, high=1_440,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration. ``source`` is where it came from and no part of its value."""

    run: Run = Run()
    witnesses: Witnesses = Witnesses()
    netlink: Netlink = Netlink()
    udev: Udev = Udev()
    inotify: Inotify = Inotify()
    gpio: Gpio = Gpio()
    ports: tuple[Port, ...] = ()
    rig: Rig = Rig()
    daemon: Daemon = Daemon()
    lifecycle: Lifecycle = Lifecycle()
    outbox: Outbox = Outbox()
    mqtt: Mqtt = Mqtt()
    commands: Commands = Commands()
    source: str = field(default="", compare=False)


SECTIONS: dict[str, type] = {
    "run": Run,
    "witnesses": Witnesses,
    "netlink": Netlink,
    "udev": Udev,
    "inotify": Inotify,
    "gpio": Gpio,
    "rig": Rig,
    "daemon": Daemon,
    "lifecycle": Lifecycle,
    "outbox": Outbox,
    "mqtt": Mqtt,
    "commands": Commands,
}
