"""Every parser over every nasty input there is: an answer or one clear refusal, never anything else."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from plugmeter import config, recording
from plugmeter.bench import control
from plugmeter.commands.replay import replayed
from plugmeter.errors import UsageError
from plugmeter.measure import report
from plugmeter.records import Uevent
from plugmeter.reporting.schema import read_report
from plugmeter.rigs import udevd
from plugmeter.sections import Config
from plugmeter.witnesses import snapshot, uevent
from plugmeter.witnesses.netlink_table import parse_proc_netlink

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file() and path.suffix != ".md")


def ids(path: Path) -> str:
    return path.relative_to(CORPUS).as_posix()


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def read_lines(data: bytes) -> None:
    for line in data.splitlines():
        recording.decode(line)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "uevent": lambda data: uevent.parse(data, 1),
    "uevent of a view": lambda data: uevent.parse(memoryview(bytearray(data)), 1),
    "udevd's stand-in": udevd.parse,
    "control": control.told,
    "control, of udevd's group": lambda data: control.told(data[40:]),
    "netlink table": lambda data: parse_proc_netlink(text(data)),
}
REFUSING: dict[str, tuple[Callable[[bytes], object], type[Exception]]] = {
    "recording": (lambda data: list(recording.read_recording(io.BytesIO(data), "file")), UsageError),
    "record": (read_lines, ValueError),
    "config": (lambda data: config.parse(text(data), "file"), UsageError),
    "snapshot": (snapshot.decode, ValueError),
}


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_parser_raises_anything_but_its_own_refusal(path: Path) -> None:
    data = path.read_bytes()
    for parse in PARSERS.values():
        parse(data)
    for parse, refusal in REFUSING.values():
        try:
            parse(data)
        except refusal as error:
            assert str(error)
            if refusal is UsageError and not isinstance(error, config.ConfigError):
                assert len(str(error).splitlines()) == 1
    for read in (config.load, replayed):
        try:
            found = read(str(path))
        except UsageError:
            continue
        if not isinstance(found, Config):
            report.to_json(report.build(found))
    try:
        read_report(path)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("path", sorted((CORPUS / "uevents").iterdir()), ids=ids)
def test_of_the_uevents_only_the_good_ones_are_taken(path: Path) -> None:
    fits = {"good", "64_kib", "many_keys", "seqnum_zero", "port_name_like_no_other"}
    assert isinstance(uevent.parse(path.read_bytes(), 1), Uevent) == (path.stem in fits)


@pytest.mark.parametrize("path", sorted((CORPUS / "recordings").iterdir()), ids=ids)
def test_of_the_recordings_none_is_valid_by_accident(path: Path) -> None:
    try:
        pipeline = replayed(str(path))
    except UsageError:
        return
    assert not report.build(pipeline)["certificate"]["valid"]
