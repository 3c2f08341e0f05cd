"""The retained documents that say how the device is: status, meta, summary. Pure."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from plugmeter import __version__
from plugmeter.lifecycle.figures import Figures
from plugmeter.moments import rfc3339
from plugmeter.sections import Config
from plugmeter.telemetry.record import Account

_ENCODE: Final = msgspec.json.Encoder().encode


def status(state: str, stream: str, time_ns: int, reason: str | None = None) -> bytes:
    """The status document; ``state`` is online, stopped or lost."""
    return _ENCODE({"state": state, "stream": stream, "time": rfc3339(time_ns), "reason": reason})


def meta(config: Config, rig: str, ports: Sequence[str], host: dict[str, str]) -> bytes:
    """What the device is. ``rig`` and ``ports`` are those of the latest run, if there was one."""
    return _ENCODE(
        {
            "version": __version__,
            "host": host,
            "ports": list(ports),
            "rig": rig,
            "capabilities": list(config.commands.accept),
            "schema": "v1",
        }
    )


def host() -> dict[str, str]:
    """The machine that we run on."""
    system = platform.uname()
    return {
        "machine": system.machine,
        "kernel": system.release,
        "hostname": system.node,
        "python": platform.python_version(),
    }


def summary(figures: Figures, account: Account, run_id: str, time_ns: int) -> bytes:
    """How it is doing."""
    run: dict[str, Any] | None = None
    if figures.run is not None and run_id:
        now = figures.run
        decided = now.matched + now.late + now.lost
        run = {
            "run": run_id,
            "rig": now.rig,
            "expected": now.expected,
            "matched": now.matched,
            "late": now.late,
            "lost": now.lost,
            "loss_rate": now.lost / decided if decided else 0.0,
            "verdict": None,
            "certificate": None,
        }
        if now.certificate and now.state not in ("starting", "running", "ending", "failed"):
            run["certificate"] = now.certificate == "valid"
            run["verdict"] = now.certificate.upper()
    process = figures.process
    return _ENCODE(
        {
            "time": rfc3339(time_ns),
            "stage": figures.stage,
            "outbox": {
                "stream": account.stream,
                "produced": account.produced,
                "acknowledged": account.acknowledged,
                "tombstoned": account.tombstoned,
                "pending": account.pending,
                "oldest_pending": account.oldest_pending,
                "unannounced": account.unannounced,
            },
            "run": run,
            "health": {
                "uptime_s": process.uptime_ns / 1e9 if process else 0.0,
                "rss_bytes": process.rss_bytes if process else 0,
            },
        }
    )
