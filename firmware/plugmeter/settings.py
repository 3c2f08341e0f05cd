"""Keys that know their own documentation and limits, and a table checked against them.

A section of the configuration is a frozen dataclass whose fields are made by ``key``. From that one
place come the check of what a user wrote (``read_section``) and the commented file that documents it
(``config.document``). Nothing here raises for what the user wrote: everything wrong with it is said
in one line each, so that all of it can be mended at once.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

Section = TypeVar("Section")

PROBLEMS_SHOWN = 20
"""More than this many problems in one file are counted and not shown."""

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    tuple: "a list of texts in quotes",
}


@dataclass(frozen=True, slots=True)
class Key:
    """All that is known of one key but its name and its default.

    ``kind`` is bool, int, float, str or tuple (of str). ``low`` and ``high`` are inclusive, for numbers
    and for the length of a tuple. ``pattern`` must match a whole text, or each text of a tuple, and
    ``pattern_text`` says so in words.
    """

    kind: type
    doc: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    pattern_text: str = ""
    required: bool = False
    power_of_two: bool = False

    def limits(self) -> str:
        """What a value of this key must be, in words that follow "it must be"."""
        if self.choices:
            return " or ".join(", ".join(shown(choice) for choice in self.choices).rsplit(", ", 1))
        if self.pattern_text:
            return self.pattern_text
        words = "a power of two" if self.power_of_two else _KINDS[self.kind]
        if self.low is not None and self.high is not None:
            words += f", {self.low} to {self.high}"
        return f"{words} {self.unit}".rstrip()


def key(
    default: Any,  # noqa: ANN401  the type is the field's own
    doc: str,
    *,
    kind: type | None = None,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    pattern: str = "",
    pattern_text: str = "",
    power_of_two: bool = False,
) -> Any:  # noqa: ANN401  as dataclasses.field
    """A dataclass field that is a key. ``kind`` is for a default that has not got it: None, MISSING."""
    required = default is MISSING
    known = Key(
        kind or type(default), doc, unit, low, high, choices, pattern, pattern_text, required, power_of_two
    )
    if required:
        return field(metadata={"key": known})
    return field(default=default, metadata={"key": known})


def keys(section: type) -> dict[str, Key]:
    """The keys of a section, in the order of their documentation."""
    return {each.name: each.metadata["key"] for each in fields(section) if "key" in each.metadata}


class Problems:
    """What is wrong with one file: a line each, at most ``PROBLEMS_SHOWN`` of them, the rest counted."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def add(self, line: str) -> None:
        self._count += 1
        if self._count <= PROBLEMS_SHOWN:
            self._lines.append(line)

    def add_unknown(self, what: str, name: str, guess: Callable[[], str]) -> None:
        """That ``name`` (its full path) is no known ``what``; ``guess`` finds what may have been meant."""
        if self._count >= PROBLEMS_SHOWN:  # guessing is slow, and nobody would see its result
            self._count += 1
            return
        near = guess()
        self.add(f"unknown {what} {name}" + (f"; did you mean {near}?" if near else ""))

    def lines(self) -> tuple[str, ...]:
        more = self._count - len(self._lines)
        return (*self._lines, f"and {more} more problems") if more else tuple(self._lines)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that a slip of the finger away from ``name`` is, or nothing."""
    return next(iter(difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.6)), "")


def shown(value: object) -> str:
    """A value as the user wrote it, on one line and never long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"  # str() refuses from 4,300 digits on
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=not value.isprintable()) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def path(*names: str) -> str:
    """The dotted path of a key as TOML writes it, on one line: ports."1-1.1".sense_gpio."""
    bare = re.compile(r"[A-Za-z0-9_-]+")
    return ".".join(name if len(name) <= 60 and bare.fullmatch(name) else shown(name) for name in names)


def read_section(
    section: type[Section],
    table: object,
    where: str,
    problems: Problems,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
    **given: object,
) -> Section | None:
    """A section from its TOML table, or None with everything that is wrong with it in ``problems``.

    ``where`` is the section's path, ``elsewhere`` the paths of keys that belong to other sections;
    ``given`` are fields of the dataclass that are no keys.
    """
    known = keys(section)
    if not isinstance(table, Mapping):
        problems.add(f"{where} = {shown(table)}: it must be a section: [{where}], with its keys below it")
        return None
    values: dict[str, object] = dict(given)
    sound = True
    for name, raw in table.items():
        here = f"{where}.{path(name)}"
        if name not in known:
            problems.add_unknown("key", here, partial(_meant, name, where, known, elsewhere))
            sound = False
            continue
        wrong = _wrong(raw, known[name])
        if wrong:
            problems.add(f"{here} = {shown(raw)}{wrong}; it must be {known[name].limits()}")
            sound = False
            continue
        values[name] = _converted(raw, known[name])
    for name, each in known.items():
        if each.required and name not in table:
            problems.add(f"{where}.{name} is missing: {each.doc}")
            sound = False
    return section(**values) if sound else None


def _meant(name: str, where: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    near = nearest(name, known)
    return f"{where}.{near}" if near else elsewhere.get(name, "")


def _converted(raw: Any, known: Key) -> object:  # noqa: ANN401  checked by _wrong
    if known.kind is float:
        return float(raw)
    return tuple(raw) if known.kind is tuple else raw


def _wrong(raw: object, known: Key) -> str:
    """What is wrong with a value, in words that follow it; empty where nothing is."""
    if known.kind is tuple:
        if not isinstance(raw, list):
            return f" is {_kind_of(raw)}"
        for item in raw:
            if not isinstance(item, str) or not re.fullmatch(known.pattern, item):
                return f" has {shown(item)} in it"
        if not _within(len(raw), known):
            return f" has {len(raw)} items"
        return ""
    accepted = (int, float) if known.kind is float else (known.kind,)
    if type(raw) not in accepted:
        return f" is {_kind_of(raw)}"
    if isinstance(raw, str):
        if known.choices:
            near = nearest(raw, known.choices)
            if raw not in known.choices:
                return f" is not known (did you mean {shown(near)}?)" if near else " is not known"
        elif known.pattern and not re.fullmatch(known.pattern, raw):
            return " cannot be"
    elif isinstance(raw, int | float) and not isinstance(raw, bool) and not _within(raw, known):
        return " is out of range"
    elif known.power_of_two and isinstance(raw, int) and raw.bit_count() != 1:
        return " is not a power of two"
    return ""


def _within(number: float, known: Key) -> bool:
    if isinstance(number, float) and not math.isfinite(number):
        return False
    return (known.low is None or number >= known.low) and (known.high is None or number <= known.high)


def _kind_of(raw: object) -> str:
    if isinstance(raw, Mapping):
        return "a section"
    if isinstance(raw, list):
        return "a list"
    return _KINDS.get(type(raw), "a date or time")
