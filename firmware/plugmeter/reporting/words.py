"""How figures and names of a report are written, alike in the terminal and in the HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LOSS_STAGES: Mapping[str, str] = {
    "before_uevent": "before the uevent: hub, debounce, enumeration or emission",
    "socket_queue": "our socket in the kernel's group overflowed",
    "udevd": "udevd had it not, or did not pass it on",
    "udev_socket_queue": "our socket in udevd's group overflowed",
    "devtmpfs": "the uevent came, its node in /dev never did",
    "inotify_queue": "inotify's queue overflowed",
    "unknown": "what was observed does not say",
}
"""Stage of loss to what it means, in the order of the way of an event."""

LATENCY_STAGES: Mapping[str, str] = {
    "edge_to_uevent_plug": "VBUS up → uevent add",
    "edge_to_uevent_pull": "VBUS down → uevent remove",
    "uevent_to_udev": "uevent → udev event",
    "edge_to_node": "VBUS up → node in /dev",
}


def clean(text: str) -> str:
    """A name out of a report, made harmless for a terminal: process names are anybody's to choose."""
    return "".join(c if c.isprintable() else "?" for c in text)


def count(n: int) -> str:
    """1234567 as ``1,234,567``."""
    return f"{n:,}"


def duration_us(us: float) -> str:
    """A time to three digits with the unit that suits it: ``85.0 µs``, ``1.24 ms``, ``2.50 min``."""
    for limit, size, unit in ((1e3, 1.0, "µs"), (1e6, 1e3, "ms"), (120e6, 1e6, "s"), (7200e6, 60e6, "min")):
        if abs(us) < limit * 0.9995:
            return f"{_three_digits(us / size)} {unit}" if abs(us) >= 1 else f"{us:.2g} µs"
    return f"{_three_digits(us / 3600e6)} h"


def percent(share: float) -> str:
    """A share as a percentage with two decimals, more where it would else read as nothing."""
    value = share * 100
    if value != 0 and abs(value) < 0.01:
        return f"{value:.2g} %"
    if 99.995 <= value < 100:
        return "99.99 %"  # not all of it
    return f"{value:.2f} %"


def interval(bounds: Sequence[float]) -> str:
    """``0 … 0.31 %``, an interval of shares."""
    low, high = (percent(bound).removesuffix(" %") for bound in bounds)
    return f"{'0' if bounds[0] == 0 else low} … {'0' if bounds[1] == 0 else high} %"


def truth(report: Mapping[str, Any]) -> str:
    """What the run's truth rests on."""
    return "GPIO truth" if report["truth"] == "gpio" else "simulated truth"


def lost_total(report: Mapping[str, Any]) -> int:
    """Lost episodes over all stages."""
    return sum(report["lost"].values())


def is_valid(report: Mapping[str, Any]) -> bool:
    """Whether its figures of loss are a measurement."""
    return bool(report["certificate"]["valid"])


def verdict(report: Mapping[str, Any]) -> str:
    """The report in one sentence. An INVALID run never says how many were lost."""
    if not is_valid(report):
        reasons = report["certificate"]["reasons"] or ["the certificate gives no reason"]
        more = len(reasons) - 1
        return f"INVALID: {clean(reasons[0])}" + (f" (and {more} more)" if more else "")
    cut_short = ", interrupted" if report["run"]["interrupted"] else ""
    opening = f"VALID ({truth(report)}{cut_short}): "
    if report["expected"] == 0:
        return opening + "nothing was expected, so nothing is known of losses"
    aside = "".join(
        f", {count(report[key])} {word}"
        for key, word in (("excused", "excused"), ("undecided", "undecided"))
        if report[key]
    )
    return (
        f"{opening}{count(report['expected'])} expected, {count(report['captured'])} captured, "
        f"{count(lost_total(report))} lost{aside}; "
        f"loss {percent(report['loss_rate'])} (95 %: {interval(report['loss_ci95'])})"
    )


def claim(report: Mapping[str, Any]) -> str:
    """How far the run is from the claim that it could support."""
    needed = report["events_needed"]
    what = f"a loss rate under {percent(needed['claim_rate'])} at {needed['confidence'] * 100:g} % confidence"
    if not is_valid(report):
        return f"An INVALID run supports no claim; {what} takes {count(needed['total'])} valid events."
    if needed["more"] == 0:
        return f"Supported: {what} ({count(needed['total'])} events suffice)."
    more = f"{count(needed['more'])} more events without another loss"
    return f"For {what}: {more}, {count(needed['total'])} in all."


def bursts(report: Mapping[str, Any]) -> str:
    """How the losses lay together; empty where there were none."""
    found = report["loss_episodes"]
    if not found["count"]:
        return ""
    together = f"in {count(found['count'])} burst{'s' if found['count'] != 1 else ''}"
    longest = f"longest {count(found['longest'])}, mean {found['mean']:.1f}"
    by_storm = report["loss_ci95_by_storm"]
    if by_storm is None:
        return f"Losses lay {together} ({longest}); too few storms for an interval that respects it."
    return f"Losses lay {together} ({longest}); interval by storm: {interval(by_storm)}."


def groups(mask: int) -> str:
    """The uevent groups of a listener in words."""
    words = [word for bit, word in ((1, "kernel"), (2, "udev")) if mask & bit]
    return "+".join(words) if words else "none"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"
