"""Reports as runs make them: whole under the schema, and their figures agree with one another.

``report(losses=...)`` draws every episode of a run from a seed and adds up what it drew, so that a
sample cannot contradict itself. The intervals come from scipy, not from our own statistics.
"""

from __future__ import annotations

import bisect
import random
from typing import Any

from scipy.stats import beta

LOSS_STAGES = (
    "before_uevent",
    "socket_queue",
    "udevd",
    "udev_socket_queue",
    "devtmpfs",
    "inotify_queue",
    "unknown",
)
_BOUNDS_US = [float(f"{10 ** (k / 6):.3g}") for k in range(60)]
# median and sigma of a log-normal, in us
_LATENCIES = {
    "edge_to_uevent_plug": (112_000.0, 0.05),
    "edge_to_uevent_pull": (1_900.0, 0.35),
    "uevent_to_udev": (640.0, 0.5),
    "edge_to_node": (85.0, 0.6),
}


def clopper_pearson(lost: int, n: int) -> list[float]:
    if n == 0:
        return [0.0, 1.0]
    low = 0.0 if lost == 0 else float(beta.ppf(0.025, lost, n - lost + 1))
    high = 1.0 if lost == n else float(beta.ppf(0.975, lost + 1, n - lost))
    return [low, high]


def report(
    episodes: int = 1200,
    losses: dict[str, int] | None = None,
    *,
    seed: int = 7,
    truth: str = "simulated",
    machine: str = "x86_64",
    reasons: tuple[str, ...] = (),
    late: int = 0,
    interrupted: bool = False,
    slower: float = 1.0,
    uevents_per_episode: int = 16,
) -> dict[str, Any]:
    """A report of ``episodes`` stable episodes, of which ``losses`` (stage to count) were lost in bursts."""
    draw = random.Random(seed)
    lost = {stage: (losses or {}).get(stage, 0) for stage in LOSS_STAGES}
    lost_total = sum(lost.values())
    captured = episodes - lost_total
    duration_s = max(0.5, episodes * 0.05)
    ports = [f"1-1.{k}" for k in range(1, 5)]
    fates = _fates(draw, episodes, lost)
    port_rows: dict[str, dict[str, Any]] = {
        port: {
            "expected": 0,
            "matched": 0,
            "late": 0,
            "lost": 0,
            "ambiguous": 0,
            "state": "idle",
            "illegal_transitions": 0,
        }
        for port in ports
    }
    bucket_ms = max(100, round(duration_s * 1000 / 120))
    buckets = int(duration_s * 1000 // bucket_ms) + 1 if episodes else 0
    expected_line = [0] * buckets
    captured_line = [0] * buckets
    losses_found = []
    late_left = late
    for index, fate in enumerate(fates):
        port = ports[index % len(ports)]
        row = port_rows[port]
        t_ms = (index + draw.random()) * duration_s * 1000 / max(1, episodes)
        row["expected"] += 1
        bucket = min(buckets - 1, int(t_ms // bucket_ms))
        expected_line[bucket] += 1
        if fate is None:
            captured_line[bucket] += 1
            kind = "late" if late_left > 0 else "matched"
            late_left -= kind == "late"
            row[kind] += 1
        else:
            row["lost"] += 1
            losses_found.append(
                {
                    "port": port,
                    "ordinal": row["expected"],
                    "action": "plug" if (index // len(ports)) % 2 == 0 else "pull",
                    "t_ms": round(t_ms, 3),
                    "stage": fate,
                }
            )
    matched = sum(row["matched"] for row in port_rows.values())
    late = sum(row["late"] for row in port_rows.values())
    interval = clopper_pearson(lost_total, episodes)
    latencies, histograms = _latencies(draw, captured, slower)
    runs = _runs(fates)
    needed = 2995 + lost_total * 1600
    emitted = episodes * uevents_per_episode
    socket_lost = lost["socket_queue"] * uevents_per_episode
    return {
        "schema": "plugmeter-report/1",
        "version": "0.1.0",
        "run": {
            "rig": "injected" if truth == "simulated" else "relay",
            "seed": seed,
            "ports": ports,
            "witnesses": ["gpio", "netlink", "udev", "inotify"],
            "started_at": "2026-11-21T20:35:00Z",
            "duration_s": duration_s,
            "interrupted": interrupted,
            "host": {"machine": machine, "kernel": "6.12.107+deb13-" + machine, "hostname": "bench-1"},
            "plan": {"sticks": 120, "cycles": 5, "density_per_s": 20.0, "gap_ms": 50},
            "debounce_ms": 100,
            "nominal_ms": 3000,
            "lost_after_ms": 30000,
        },
        "truth": truth,
        "certificate": {
            "valid": not reasons,
            "truth": truth,
            "reasons": list(reasons),
            "lines": [
                {
                    "port": port,
                    "factory": "MockFactory" if truth == "simulated" else "GpiodFactory",
                    "edges": row["expected"],
                    "driven": row["expected"] if truth == "simulated" else None,
                    "interrupts": None if truth == "simulated" else row["expected"],
                }
                for port, row in port_rows.items()
            ],
        },
        "expected": episodes,
        "expected_plugs": episodes - episodes // 2,
        "expected_pulls": episodes // 2,
        "captured": captured,
        "matched": matched,
        "late": late,
        "ambiguous": 0,
        "duplicates": 0,
        "orphans": 0,
        "excused": 0,
        "undecided": 0,
        "lost": lost,
        "loss_rate": lost_total / episodes if episodes else 0.0,
        "loss_ci95": interval,
        "loss_ci95_by_storm": [max(0.0, interval[0] * 0.6), min(1.0, interval[1] * 1.4)]
        if lost_total
        else None,
        "loss_episodes": {
            "count": len(runs),
            "longest": max(runs, default=0),
            "mean": sum(runs) / len(runs) if runs else 0.0,
        },
        "events_needed": {
            "claim_rate": 0.001,
            "confidence": 0.95,
            "total": needed,
            "more": max(0, needed - episodes),
        },
        "latency_us": latencies,
        "latency_histogram_us": histograms,
        "clocks": {
            "gpio_to_netlink": {"offset_us": 1.2, "drift_ppm": 0.01, "residual_us": 3.4, "n": captured}
            if captured > 1
            else None,
            "netlink_to_udev": None,
        },
        "witnesses": {
            "gpio": _witness(episodes, {}),
            "netlink": _witness(emitted, {"socket_queue": socket_lost} if socket_lost else {}),
            "udev": _witness(emitted - socket_lost, {}),
            "inotify": _witness(captured * 9, {}),
        },
        "listeners": [
            {"pid": 211, "comm": "systemd-udevd", "groups": 1, "drops": 0},
            {"pid": 940, "comm": "upowerd", "groups": 2, "drops": lost_total * 3},
            {"pid": 1203, "comm": "plugmeter", "groups": 1, "drops": socket_lost},
        ],
        "coldplug": {
            "at_start": 3,
            "before_start": None,
            "resyncs": 0,
            "found_by_resync": {"appeared": 0, "vanished": 0},
            "at_end": 3,
        },
        "seqnums": {
            "first": 4801 if emitted else 0,
            "last": 4800 + emitted if emitted else 0,
            "received": emitted - socket_lost,
            "holes": socket_lost,
            "lost": socket_lost,
            "foreign": 0,
            "reordered": 0,
            "duplicates": 0,
        },
        "emitted": emitted,
        "ports": port_rows,
        "storms": {"count": max(1, episodes // 240) if episodes else 0, "largest": min(240, episodes)},
        "losses": losses_found[:1000],
        "losses_omitted": max(0, len(losses_found) - 1000),
        "timeline": {"bucket_ms": bucket_ms, "expected": expected_line, "captured": captured_line},
        "conservation": {"holds": True, "violations": []},
    }


def clean(**more: Any) -> dict[str, Any]:
    """The demo: 120 sticks, 5 cycles, nothing lost."""
    return report(1200, **more)


def lossy(**more: Any) -> dict[str, Any]:
    return report(2400, {"before_uevent": 4, "socket_queue": 41, "udevd": 6, "devtmpfs": 1}, late=9, **more)


def invalid(**more: Any) -> dict[str, Any]:
    """Nothing known to be lost, and yet no measurement: the truth has holes."""
    return report(
        600,
        truth="gpio",
        reasons=(
            "port 1-1.2: line_seqno jumps from 118 to 121, 2 edges were dropped",
            "port 1-1.4: 150 edges, but 152 interrupts",
        ),
        **more,
    )


def empty(**more: Any) -> dict[str, Any]:
    """A run in which nobody plugged anything."""
    return report(0, **more)


ALL = {"clean": clean, "lossy": lossy, "invalid": invalid, "empty": empty}


def _fates(draw: random.Random, episodes: int, lost: dict[str, int]) -> list[str | None]:
    """Each episode's stage of loss, or None; losses lie in bursts, as the congestion latch makes them."""
    fates: list[str | None] = [None] * episodes
    left = [stage for stage, n in lost.items() for _ in range(n)]
    while left:
        at = draw.randrange(episodes)
        for place in range(at, min(episodes, at + draw.randint(1, 8))):
            if left and fates[place] is None:
                fates[place] = left.pop()
    return fates


def _runs(fates: list[str | None]) -> list[int]:
    runs: list[int] = []
    before = False
    for fate in fates:
        if fate is not None:
            if before:
                runs[-1] += 1
            else:
                runs.append(1)
        before = fate is not None
    return runs


def _latencies(
    draw: random.Random, captured: int, slower: float
) -> tuple[dict[str, Any], dict[str, list[list[float]]]]:
    latencies: dict[str, Any] = {}
    histograms: dict[str, list[list[float]]] = {}
    for stage, (median, sigma) in _LATENCIES.items():
        n = captured // 2 if stage.startswith("edge") else captured
        if not n:
            continue
        values = sorted(
            median
            * slower
            * draw.lognormvariate(0.0, sigma)
            * (draw.uniform(2, 9) if draw.random() < 0.01 else 1)
            for _ in range(n)
        )
        p50, p95, p99 = (round(values[min(n - 1, int(q * n))], 1) for q in (0.50, 0.95, 0.99))
        latencies[stage] = {
            "count": n,
            "min": round(values[0], 1),
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "max": round(values[-1], 1),
            "tail_jitter": round(p99 - p50, 1),
            "negative": 0,
            "over_range": 0,
        }
        counts: dict[float, int] = {}
        for value in values:
            bound = _BOUNDS_US[bisect.bisect_left(_BOUNDS_US, value)]
            counts[bound] = counts.get(bound, 0) + 1
        histograms[stage] = [[bound, count] for bound, count in sorted(counts.items())]
    return latencies, histograms


def _witness(offered: int, lost_by_cause: dict[str, int]) -> dict[str, Any]:
    lost = sum(lost_by_cause.values())
    return {
        "offered": offered,
        "delivered": offered - lost,
        "lost": lost,
        "pending": 0,
        "lost_by_cause": lost_by_cause,
        "uncounted_gaps": 0,
        "conserved": True,
    }
