"""JSON from strangers: one object, without what two readers could understand in two ways. Pure."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

DEPTH_LIMIT: Final = 16
"""How deep objects and lists may be in each other: ours need 5."""


class MalformedError(ValueError):
    """One line that says why it is no such JSON."""


def read_object(data: bytes | str) -> dict[str, Any]:
    """The one JSON object in ``data``. Raises MalformedError and nothing else, whatever it is given.

    Refused is also what JSON readers disagree about: a name twice in one object, NaN and Infinity, half a
    surrogate pair (which no UTF-8 can carry on), numbers of thousands of digits.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except MalformedError:
        raise
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8: byte {error.start + 1} cannot be text") from None
    except RecursionError:
        raise MalformedError("nested too deep") from None
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError:  # int() for more than 4,300 digits
        raise MalformedError("a number has too many digits") from None
    if not isinstance(value, dict):
        raise MalformedError("it must be one JSON object: {...}")
    if _depth(value) > DEPTH_LIMIT:
        raise MalformedError("nested too deep")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedError("a text has half a surrogate pair in it") from None
    return value


def canonical(value: object) -> str:
    """The same text for the same value: names sorted, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # add gives None, which is the point
        raise MalformedError(f"{json.dumps(twice)[:60]} is there twice")
    return value


def _constant(name: str) -> NoReturn:
    raise MalformedError(f"{name} is no JSON")


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise MalformedError("a number is too large")
    return number


def _depth(value: object) -> int:
    """Of what json.loads could build, so no deeper than the interpreter's own limit; without recursion."""
    deepest, level = 0, [value]
    while level:
        containers = [each for each in level if isinstance(each, dict | list)]
        deepest += bool(containers)
        level = [item for each in containers for item in (each.values() if isinstance(each, dict) else each)]
    return deepest
