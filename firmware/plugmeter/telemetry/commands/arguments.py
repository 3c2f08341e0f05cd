"""The operations, and what arguments each of them takes: one class each. Pure.

The limits of a run's plan are those of [rig]; what only the whole plan can show (a jitter above the gap) is
found when the operation is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any, Final

from plugmeter.sections import Daemon, Rig
from plugmeter.settings import Key, Problems, key, keys, nearest, path, read_section

OPS: Final = ("start-run", "stop-run", "selftest", "resync", "config", "log-level", "restart", "hwtest")

LONGEST_RUN_S: Final = 604_800
LONGEST_LOG_MINUTES: Final = 1_440


def _as_in(section: type, name: str) -> Any:  # noqa: ANN401  a dataclass field, as settings.key
    """The key of the configuration, optional here: without it the configuration's own value holds."""
    known: Key = keys(section)[name]
    return key(
        None, known.doc, kind=known.kind, unit=known.unit, low=known.low, high=known.high,
        choices=known.choices, pattern=known.pattern, pattern_text=known.pattern_text,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NoArguments:
    """stop-run, selftest, resync, restart, hwtest: nothing to be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """start-run: a run, instead of the one under way."""

    rig: str | None = key(
        None,
        "The rig. Left out, it is that of [daemon].",
        kind=str,
        choices=tuple(each for each in keys(Daemon)["rig"].choices if each != "none"),
    )
    sticks: int | None = _as_in(Rig, "sticks")
    cycles: int | None = _as_in(Rig, "cycles")
    ports: int | None = _as_in(Rig, "ports")
    gap_ms: int | None = _as_in(Rig, "gap_ms")
    jitter_ms: int | None = _as_in(Rig, "jitter_ms")
    density_per_s: float | None = _as_in(Rig, "density_per_s")
    seed: int | None = _as_in(Rig, "seed")
    duration_s: int | None = key(
        None,
        "The run ends after this time at the latest.",
        kind=int,
        unit="seconds",
        low=1,
        high=LONGEST_RUN_S,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLevel:
    """log-level: what is told in the journal."""

    level: str = key(MISSING, "What is told.", kind=str, choices=keys(Daemon)["log_level"].choices)
    minutes: int | None = key(
        None,
        "For how long; then it is again as configured. Left out: until the daemon ends.",
        kind=int,
        unit="minutes",
        low=1,
        high=LONGEST_LOG_MINUTES,
    )


ARGUMENTS: Final[Mapping[str, type]] = {
    "start-run": StartRun,
    "stop-run": NoArguments,
    "selftest": NoArguments,
    "resync": NoArguments,
    "log-level": LogLevel,
    "restart": NoArguments,
    "hwtest": NoArguments,
}
"""All but config, whose one argument is a configuration: {"config": {section: {key: value}}}."""


def read(op: str, raw: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """The arguments of an operation of ``OPS`` as given, and what is wrong with them, a line each."""
    if op == "config":
        return _read_config(raw)
    problems = Problems()
    for name in (each for each, value in raw.items() if value is None):
        problems.add(f"{path('arguments', name)} = null: leave it out instead")
    given = {name: value for name, value in raw.items() if value is not None}
    read_section(ARGUMENTS[op], given, "arguments", problems)
    return dict(raw), problems.lines()


def _read_config(raw: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Only the shape: what its sections and keys are is checked against the device's own file (desired)."""
    problems = Problems()
    for name in raw:
        if name != "config":
            problems.add_unknown("key", path("arguments", name), partial(nearest, name, ("config",)))
    config = raw.get("config")
    if "config" not in raw:
        problems.add('arguments.config is missing: {"config": {"run": {"debounce_ms": 120}}}')
    elif not isinstance(config, Mapping) or not all(isinstance(each, Mapping) for each in config.values()):
        problems.add("arguments.config must be sections with their keys: {section: {key: value}}")
    return dict(raw), problems.lines()
