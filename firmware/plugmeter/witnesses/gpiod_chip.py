"""Finding and opening a GPIO chip, its errors in the user's words, and a board for it that is no Pi.

The chip is the character device /dev/gpiochipN (Documentation/userspace-api/gpio/chardev.rst).
"""

from __future__ import annotations

import errno
import grp
import os
import re
from pathlib import Path

import gpiod
from gpiozero import BadPinFactory, GPIOPinInUse, PinEdgeDetectUnsupported, PinError, PinInvalidPin
from gpiozero.compat import frozendict
from gpiozero.pins import BoardInfo, HeaderInfo, PinInfo

from plugmeter.errors import PlugmeterError

CHIP_VARIABLE = "PLUGMETER_GPIO_CHIP"
DEV = Path("/dev")

# What the kernel calls the chip behind a Raspberry Pi's 40-pin header: Pi 5 and CM5; Pi 4, 400 and
# CM4; all before. There a line's offset is its GPIO number. (A Pi 5's own pinctrl-bcm2712 is not it.)
HEADER_CHIP_LABELS = ("pinctrl-rp1", "pinctrl-bcm2711", "pinctrl-bcm2835")

# What libgpiod's Python binding makes of errno: EINVAL is a ValueError, EOPNOTSUPP a NotImplementedError.
LIBGPIOD_ERRORS = (OSError, ValueError, NotImplementedError)


class GpioChipError(PlugmeterError, BadPinFactory):  # type: ignore[misc]  # gpiozero has no types
    """There is no GPIO chip to be had: none there, not the one that was named, or no permission."""


class LineError(PlugmeterError, PinError):  # type: ignore[misc]  # gpiozero has no types
    """The kernel refuses what is asked of a line."""


class LineBusyError(LineError, GPIOPinInUse):  # type: ignore[misc]  # gpiozero has no types
    """Another program, or the kernel itself, holds the line."""


class NoSuchLineError(LineError, PinInvalidPin):  # type: ignore[misc]  # gpiozero has no types
    """The chip has no line of that number or name."""


class NoInterruptError(LineError, PinEdgeDetectUnsupported):  # type: ignore[misc]  # gpiozero has no types
    """The line can be read, but it has no interrupt, so it has no edges either."""


def open_chip(chip: int | str | None) -> gpiod.Chip:
    """Open the chip that is named: a number (N of /dev/gpiochipN), a path, a device name or a label.

    None takes the environment's PLUGMETER_GPIO_CHIP; without it the chip of a Raspberry Pi's header
    (by its label), and where there is none the chip of the lowest number. Raises GpioChipError.
    """
    wanted: int | str | None = chip if chip is not None else os.environ.get(CHIP_VARIABLE) or None
    if wanted is None:
        return _open_default()
    name = str(wanted)
    if name.isdecimal():
        return _open(DEV / f"gpiochip{name}")
    if name.startswith("/"):
        return _open(Path(name))
    if (DEV / name).exists():
        return _open(DEV / name)
    labels = []
    for path in _chip_paths():
        candidate = _open(path)
        label = candidate.get_info().label
        if label == name:
            return candidate
        candidate.close()
        labels.append(f"{path} ({label})")
    there = ", ".join(labels) or "there is none at all"
    raise GpioChipError(f"no GPIO chip is called {name!r}; take one of these: {there}")


def _open_default() -> gpiod.Chip:
    paths = _chip_paths()
    if not paths:
        raise GpioChipError(
            f"no GPIO chip: this machine has no {DEV}/gpiochip*; run on one that has GPIO lines,"
            f" or take a rig that needs none (injected)"
        )
    first: gpiod.Chip | None = None
    refused: GpioChipError | None = None
    for path in paths:
        try:
            chip = _open(path)
        except GpioChipError as error:
            refused = refused or error
            continue
        if chip.get_info().label in HEADER_CHIP_LABELS:
            if first is not None:
                first.close()
            return chip
        if first is None:
            first = chip
        else:
            chip.close()
    if first is not None:
        return first
    assert refused is not None, "every path either opens or is refused"
    raise refused


def _chip_paths() -> list[Path]:
    numbered = [
        (int(match.group(1)), path)
        for path in DEV.glob("gpiochip*")
        if (match := re.fullmatch(r"gpiochip(\d+)", path.name))
    ]
    return [path for _, path in sorted(numbered)]


def _open(path: Path) -> gpiod.Chip:
    try:
        return gpiod.Chip(str(path))
    except FileNotFoundError:
        there = ", ".join(map(str, _chip_paths())) or "none"
        raise GpioChipError(
            f"no GPIO chip at {path} (there are: {there}); name another with {CHIP_VARIABLE}"
        ) from None
    except PermissionError:
        raise GpioChipError(f"no permission to open {path}; {_way_in(path)}") from None
    except LIBGPIOD_ERRORS as error:
        raise GpioChipError(
            f"{path} is not a GPIO chip ({_reason(error)}); name one with {CHIP_VARIABLE}"
        ) from None


def _way_in(path: Path) -> str:
    try:
        group = grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        group = "root"
    if group == "root":
        return "run as root, or let a udev rule give the chip to a group of yours"
    return f"join its group (usermod -aG {group} YOU, then log in anew) or run as root"


def line_error(chip: gpiod.Chip, offset: int, error: Exception) -> LineError:
    """What libgpiod's error about a line means, as the error of ours that says how to mend it."""
    line = f"GPIO line {offset} of {chip.path}"
    number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    if number == errno.EBUSY:
        return LineBusyError(
            f"{line} is held by {_holder(chip, offset)}; stop what holds it or wire another line"
        )
    if number == errno.ENXIO:
        return NoInterruptError(f"{line} has no interrupt, so its edges cannot be seen; wire another line")
    if number in (errno.EPERM, errno.EACCES):
        return LineError(f"{line}: no permission; {_way_in(Path(chip.path))}")
    if number == errno.ENODEV:
        return LineError(f"{line}: the chip is gone; plug it in again and start anew")
    return LineError(f"{line}: the kernel refuses ({_reason(error)}); see dmesg, or wire another line")


def _holder(chip: gpiod.Chip, offset: int) -> str:
    try:
        return repr(chip.get_line_info(offset).consumer or "the kernel")
    except LIBGPIOD_ERRORS:
        return "another program"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def generic_board(chip: gpiod.Chip) -> BoardInfo:
    """A board for a chip that is not a Pi's header: one header, its pins GPIO0 .. GPIOn-1 in one column.

    A line also answers to its number and to the name that the kernel has for it, where that is unique.
    """
    info = chip.get_info()
    kernel_names = [chip.get_line_info(offset).name for offset in range(info.num_lines)]
    return board_of_lines(info.label or info.name, kernel_names)


def board_of_lines(label: str, kernel_names: list[str]) -> BoardInfo:
    """The board of a chip with this label whose line at offset i the kernel calls ``kernel_names[i]``."""
    usual = {
        offset: {offset, str(offset), f"GPIO{offset}", f"lines:{offset + 1}"}
        for offset in range(len(kernel_names))
    }
    taken = {name for names in usual.values() for name in names}
    pins = {}
    for offset, name in enumerate(kernel_names):
        own = name and name not in taken and kernel_names.count(name) == 1
        pins[offset + 1] = PinInfo(
            number=offset + 1,
            name=f"GPIO{offset}",
            names=frozenset(usual[offset] | ({name} if own else set())),
            pull="",
            row=offset + 1,
            col=1,
            interfaces=frozenset({"gpio"}),
        )
    return BoardInfo(
        revision="",
        model=label,
        pcb_revision="",
        released="",
        soc="",
        manufacturer="",
        memory=0,
        storage="",
        usb=0,
        usb3=0,
        ethernet=0,
        eth_speed=0,
        wifi=False,
        bluetooth=False,
        csi=0,
        dsi=0,
        headers=frozendict({"lines": HeaderInfo("lines", len(pins), 1, frozendict(pins))}),
        board="{model}",
    )
