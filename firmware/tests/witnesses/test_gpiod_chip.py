from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from gpiozero import BadPinFactory, GPIOPinInUse, PinError, PinInvalidPin

from plugmeter.errors import PlugmeterError
from plugmeter.witnesses.gpiod_chip import (
    CHIP_VARIABLE,
    GpioChipError,
    LineBusyError,
    NoInterruptError,
    NoSuchLineError,
    board_of_lines,
)
from plugmeter.witnesses.gpiod_factory import GpiodFactory

ROOT = Path(__file__).parents[3]
HAS_CHIP = any(Path("/dev").glob("gpiochip*"))


@pytest.mark.parametrize(
    ("chip", "words"),
    [
        ("/dev/gpiochip4096", "no GPIO chip at /dev/gpiochip4096"),
        (4096, "no GPIO chip at /dev/gpiochip4096"),
        ("4096", "no GPIO chip at /dev/gpiochip4096"),
        ("no-such-label", "no GPIO chip is called 'no-such-label'"),
        ("/dev/null", "/dev/null is not a GPIO chip"),
        ("null", "/dev/null is not a GPIO chip"),
        ("/", "/ is not a GPIO chip"),
    ],
)
def test_a_chip_that_cannot_be_had_is_one_clear_line(chip: int | str, words: str) -> None:
    with pytest.raises(GpioChipError, match=words) as caught:
        GpiodFactory(chip)
    assert "\n" not in str(caught.value)


def test_the_environment_names_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHIP_VARIABLE, "/dev/gpiochip4096")
    with pytest.raises(GpioChipError, match="no GPIO chip at /dev/gpiochip4096"):
        GpiodFactory()


@pytest.mark.skipif(HAS_CHIP, reason="runs on the host: a machine without a GPIO chip")
def test_a_machine_without_a_chip_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHIP_VARIABLE, raising=False)
    with pytest.raises(GpioChipError, match="this machine has no /dev/gpiochip"):
        GpiodFactory()


@pytest.mark.privileged
def test_a_chip_without_permission_says_how_to_get_in() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who may not")
    script = (
        "import os, sys; from plugmeter.witnesses.gpiod_chip import open_chip, GpioChipError\n"
        "os.setgroups([]); os.setuid(65534)\n"
        "try: open_chip(sys.argv[1])\n"
        "except GpioChipError as error: print(error)"
    )
    # libgpiod looks whether it is a chip before it opens, so nothing but a chip will do here.
    chip = next((str(path) for path in Path("/dev").glob("gpiochip*")), None)
    if chip is None:
        pytest.skip("runs in the guest: a GPIO chip to be refused")
    done = subprocess.run(
        [sys.executable, "-c", script, chip],
        env={"PYTHONPATH": str(ROOT / "firmware")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"no permission to open {chip}; ")
    assert "run as root" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "gpiozero_kind"),
    [
        (GpioChipError, BadPinFactory),
        (LineBusyError, GPIOPinInUse),
        (LineBusyError, PinError),
        (NoSuchLineError, PinInvalidPin),
        (NoInterruptError, PinError),
    ],
)
def test_errors_are_ours_and_gpiozeros(kind: type[Exception], gpiozero_kind: type[Exception]) -> None:
    error = kind("one line")
    assert isinstance(error, PlugmeterError)
    assert isinstance(error, gpiozero_kind)
    assert str(error) == "one line"


def test_a_board_that_is_no_pi_names_its_lines() -> None:
    board = board_of_lines("9030000.pl061", ["", "relay", "twice", "twice", "GPIO0", "", "", "7"])
    names = {pin.name for pin in board.headers["lines"].pins.values()}
    assert names == {f"GPIO{offset}" for offset in range(8)}
    for name, offset in [(3, 3), ("3", 3), ("GPIO3", 3), ("relay", 1), ("GPIO0", 0), ("7", 7)]:
        assert [pin.name for _, pin in board.find_pin(name)] == [f"GPIO{offset}"]
    assert list(board.find_pin("twice")) == []
    assert board.to_gpio("relay") == "GPIO1"
    assert hash(board.headers["lines"].pins[1])


def test_a_board_that_is_no_pi_can_be_printed() -> None:
    board = board_of_lines("9030000.pl061", [""] * 8)
    assert "9030000.pl061" in f"{board:mono board}"
    assert "GPIO7" in f"{board:mono headers}"


def test_gpiozero_finds_the_factory_by_its_entry_point(tmp_path: Path) -> None:
    # As an installation would have it: the metadata is made of pyproject's own table.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["gpiozero_pin_factories"]
    metadata = tmp_path / "plugmeter-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugmeter\nVersion: 0\n")
    table = "".join(f"{name} = {target}\n" for name, target in points.items())
    (metadata / "entry_points.txt").write_text(f"[gpiozero_pin_factories]\n{table}")
    script = (
        "from gpiozero import Device\n"
        "try: Device.ensure_pin_factory()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "else: print(type(Device.pin_factory).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            "PYTHONPATH": f"{tmp_path}:{ROOT / 'firmware'}",
            "GPIOZERO_PIN_FACTORY": "plugmeter-gpiod",
            CHIP_VARIABLE: "/dev/gpiochip4096",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("GpioChipError no GPIO chip at /dev/gpiochip4096")
