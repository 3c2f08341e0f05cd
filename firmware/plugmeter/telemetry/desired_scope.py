"""What of the configuration may be changed from afar, and by whom: a class for each key. Pure.

Whoever may write to the broker is not the device's owner. So an unsigned wish must not have the device send
its secrets to somebody else, open files that are named from afar, or drive other lines than its file names.
What is signed for ``commands.public_key_file`` is the owner's own will.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from plugmeter.sections import SECTIONS, Config, Outbox
from plugmeter.settings import keys


class Scope(Enum):
    """Who may change a key from afar."""

    ANYBODY = "whoever may write to the broker"
    NO_SECRETS = "signed, or where the device has no credentials"
    SIGNED = "signed only"
    NOBODY = "nobody: the device's own file only"


@dataclass(frozen=True, slots=True)
class Rule:
    """Keys of a section that are of one class, and why."""

    scope: Scope
    section: str
    keys: tuple[str, ...]
    why: str


_A, _C, _S, _N = Scope.ANYBODY, Scope.NO_SECRETS, Scope.SIGNED, Scope.NOBODY

RULES: Final = (
    Rule(_A, "run", ("debounce_ms", "nominal_ms", "lost_after_ms", "storm_quiet_ms", "claim_loss_rate"),
         "what is measured is the controller's to say"),
    Rule(_A, "witnesses", ("gpio", "netlink", "udev", "inotify", "listeners"),
         "what is measured is the controller's to say"),
    Rule(_A, "netlink", ("receive_buffer_bytes", "ring_slots", "reorder_window_ms", "realtime_priority",
                         "lock_memory"), "its limits hold"),
    Rule(_A, "udev", ("receive_buffer_bytes",), "its limits hold"),
    Rule(_S, "inotify", ("directories",), "the names of all files in it are told"),
    Rule(_S, "gpio", ("factory", "chip"), "it decides which lines are driven"),
    Rule(_A, "gpio", ("active_high", "pull", "switch_active_high", "vbus_at_rest"),
         "of the lines that the file names"),
    Rule(_A, "ports", ("sense_gpio",), "it is read and not driven"),
    Rule(_S, "ports", ("switch_gpio",), "what hangs on a line that is driven only the owner knows"),
    Rule(_A, "rig", ("sticks", "cycles", "ports", "gap_ms", "jitter_ms", "density_per_s", "bounce", "seed"),
         "as the command start-run"),
    Rule(_N, "daemon", ("device",), "the topics, and whom a signature is for, go by it"),
    Rule(_N, "daemon", ("state_directory",), "all that is not acknowledged yet is there"),
    Rule(_A, "daemon", ("rig", "run_minutes"), "as the command start-run"),
    Rule(_A, "daemon", ("records",), "what is reported is the controller's to say"),
    Rule(_S, "daemon", ("metrics",), "it makes a socket, or takes a port, that others may count on"),
    Rule(_A, "daemon", ("log_level",), "as the command log-level"),
    Rule(_N, "lifecycle", ("start_s",), "the start is over before anything from afar is known"),
    Rule(_A, "lifecycle", ("drain_s", "stop_cap_s", "stuck_s", "fd_growth", "spin_wakeups_per_s"),
         "its limits hold"),
    Rule(_A, "outbox", ("commit_interval_ms",), "its limits hold"),
    Rule(_A, "outbox", ("max_bytes", "max_age_days"), "less than before only once it is in effect"),
    Rule(_C, "mqtt", ("host", "port", "tls"), "whoever is there is sent the device's credentials"),
    Rule(_C, "mqtt", ("username",), "it is one of the credentials"),
    Rule(_S, "mqtt", ("ca_file", "certificate_file"), "it has the device open a file, and show or trust it"),
    Rule(_N, "mqtt", ("key_file", "password_file"),
         "who names both a file and a broker is sent what is in the file"),
    Rule(_A, "mqtt", ("keepalive_s", "window", "ack_timeout_s"), "its limits hold"),
    Rule(_A, "mqtt", ("discovery_prefix",), "the broker says where a device may publish"),
    Rule(_N, "commands", ("accept", "public_key_file", "rollback_minutes"),
         "it says who may change what"),
)  # fmt: skip
"""Each key of ``sections`` once. A key that is missing here could be changed by nobody."""

_SCOPES: Final[Mapping[tuple[str, str], Rule]] = {
    (rule.section, name): rule for rule in RULES for name in rule.keys
}
_UNKNOWN: Final = Rule(Scope.NOBODY, "", (), "it is in no class")
_CREDENTIALS: Final = ("username", "password_file", "certificate_file", "key_file")
"""A certificate's file may have its key in it."""
_OWN_FILE: Final = "change the device's own file"
_OR_SIGN: Final = f"sign it for commands.public_key_file, or {_OWN_FILE}"


def rule_of(section: str, name: str) -> Rule:
    """The class of a key that there is; of a port's, ``section`` is "ports"."""
    return _SCOPES.get((section, name), _UNKNOWN)


def forbidden(overlay: Mapping[str, Any]) -> tuple[str, ...]:
    """What of an overlay may be changed from afar by nobody, signed or not; a line each."""
    lines = []
    for section, changes in overlay.items():
        known = keys(SECTIONS[section]) if section in SECTIONS else {}
        never = [name for name in known if rule_of(section, name).scope is Scope.NOBODY]
        if known and len(never) == len(known):
            lines.append(f"[{section}] cannot be changed from afar: {_OWN_FILE}")
        elif isinstance(changes, Mapping):
            lines += [
                f"{section}.{name} cannot be changed from afar: {_OWN_FILE}"
                for name in sorted(never)
                if name in changes
            ]
    return tuple(lines)


def unsigned(base: Config, wanted: Config) -> tuple[str, ...]:
    """Why what is not signed may not make ``wanted`` of the device's own file ``base``, a line for each
    reason; empty where it may."""
    changed = tuple(_changed(base, wanted))
    secret = any(getattr(base.mqtt, name) for name in _CREDENTIALS)
    lines = []
    if bound := _named(changed, Scope.NO_SECRETS) if secret else "":
        lines.append(
            f"{bound} cannot be changed from afar without a signature while this device has credentials,"
            f" which it would send to whoever is there: {_OR_SIGN}"
        )
    elif base.mqtt.tls and not wanted.mqtt.tls:
        lines.append(f"mqtt.tls cannot be turned off from afar without a signature: {_OR_SIGN}")
    for rule in dict.fromkeys(rule_of(section, name) for section, name, _ in changed):
        if rule.scope is Scope.SIGNED:
            which = ", ".join(path for section, name, path in changed if rule_of(section, name) is rule)
            lines.append(f"{which} cannot be changed from afar without a signature ({rule.why}): {_OR_SIGN}")
    return tuple(lines)


def on_trial(kept: Config, wanted: Config) -> Config:
    """What is in effect of ``wanted`` while a rollback may still come: not what destroys records, for a
    rollback brings none of them back. The outbox has the wider limits of both."""
    ages = (kept.outbox.max_age_days, wanted.outbox.max_age_days)
    wider: Outbox = replace(
        wanted.outbox,
        max_bytes=max(kept.outbox.max_bytes, wanted.outbox.max_bytes),
        max_age_days=max(ages) if all(ages) else 0.0,  # 0 keeps them
    )
    return replace(wanted, outbox=wider)


def _named(changed: tuple[tuple[str, str, str], ...], scope: Scope) -> str:
    return ", ".join(path for section, name, path in changed if rule_of(section, name).scope is scope)


def _changed(base: Config, wanted: Config) -> Iterator[tuple[str, str, str]]:
    """(section, key, path) of what is another value. A port that is taken away drives nothing."""
    for section, known in SECTIONS.items():
        before, after = getattr(base, section), getattr(wanted, section)
        for name in keys(known):
            if getattr(before, name) != getattr(after, name):
                yield section, name, f"{section}.{name}"
    switches = {port.name: port.switch_gpio for port in base.ports}
    senses = {port.name: port.sense_gpio for port in base.ports}
    for port in wanted.ports:
        if port.sense_gpio != senses.get(port.name):
            yield "ports", "sense_gpio", f'ports."{port.name}".sense_gpio'
        if port.switch_gpio is not None and port.switch_gpio != switches.get(port.name):
            yield "ports", "switch_gpio", f'ports."{port.name}".switch_gpio'
