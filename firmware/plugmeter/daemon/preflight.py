"""What can be known to be wrong before anything is started: all of it at once, and nothing starts half."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.runner.means import check_means
from plugmeter.runner.plans import plan_of
from plugmeter.sections import Config
from plugmeter.telemetry.commands.signing import load_public_key
from plugmeter.telemetry.link import LinkSettings


def check(config: Config, device: str, warn: Callable[[str], None]) -> LinkSettings:
    """The link's settings, so that nobody has to read their files again, which may be gone by then.

    ``device`` is its name in topics. Raises PlugmeterError with a line for each thing that is wrong:
    credentials, keys, folders, the rig; a UsageError if one of them is a mistake, which no other time will
    mend. ``warn`` gets a line for each that is only unwise.
    """
    read: list[LinkSettings] = []
    checks = (
        lambda: read.append(LinkSettings.from_config(config, device, warn=warn)),
        *_checks(config),
    )
    problems = [problem for each in checks if (problem := _problem(each)) is not None]
    if problems:
        text = "\n".join(map(str, problems))
        raise (UsageError if any(isinstance(each, UsageError) for each in problems) else PlugmeterError)(text)
    (settings,) = read
    return settings


def _checks(config: Config) -> Iterator[Callable[[], object]]:
    if config.commands.public_key_file:
        yield lambda: load_public_key(Path(config.commands.public_key_file))
    if config.daemon.rig != "none":
        yield lambda: plan_of(config, {})
        yield lambda: check_means(config.daemon.rig)
    yield lambda: _metrics(config.daemon.metrics)
    yield lambda: _state_directory(Path(config.daemon.state_directory))


def _problem(check: Callable[[], object]) -> PlugmeterError | None:
    try:
        check()
    except PlugmeterError as error:
        return error
    return None


def _metrics(text: str) -> None:
    if text.startswith("unix:") and not Path(text.removeprefix("unix:")).parent.is_dir():
        raise UsageError(f"daemon.metrics = {text}: its folder is not there; make it, or name another socket")


def _state_directory(path: Path) -> None:
    """It must be writable, or to be made in what is there; it is not made here. That it is not may pass: a
    file system is mounted read-only for a while, or not yet."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UsageError(f"daemon.state_directory = {path}: {there} is no folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PlugmeterError(
            f"daemon.state_directory = {path}: {there} cannot be written to; name another one, or run as root"
        )
