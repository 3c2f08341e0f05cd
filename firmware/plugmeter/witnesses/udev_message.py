"""The message by which udevd tells its listeners of an event: the wire format of group 2.

Layout (systemd: src/libsystemd/sd-device/device-monitor.c, ``monitor_netlink_header``): a header of
40 bytes, then the device's properties as ``KEY=VALUE`` strings, each ended by a NUL. Lengths and
offsets are in the sender's byte order; the magic and the hashes, which socket filters read, are in
network order. ``encode_udev_message`` is what a stand-in for udevd sends; libudev itself is the
judge of it, in the tests.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping

PREFIX = b"libudev\0"
MAGIC = 0xFEEDCAFE

_LENGTHS = struct.Struct("=III")  # header_size, properties_off, properties_len
_HASHES = struct.Struct(">IIII")  # subsystem, devtype, tag bloom high and low
_LENGTHS_OFFSET = len(PREFIX) + 4
_HASHES_OFFSET = _LENGTHS_OFFSET + _LENGTHS.size

HEADER_BYTES = _HASHES_OFFSET + _HASHES.size

_MASK32 = 0xFFFFFFFF


def murmur_hash2(data: bytes, seed: int = 0) -> int:
    """MurmurHash2, 32 bits, as udevd hashes a subsystem, a devtype or a tag (with seed 0).

    Four bytes at a time are taken in the machine's byte order, as the C original does.
    """
    multiplier = 0x5BD1E995
    mixed = (seed ^ len(data)) & _MASK32
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        block = int.from_bytes(data[at : at + 4], sys.byteorder) * multiplier & _MASK32
        block = (block ^ block >> 24) * multiplier & _MASK32
        mixed = (mixed * multiplier & _MASK32) ^ block
    rest = data[whole:]
    if rest:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * multiplier & _MASK32
    mixed = (mixed ^ mixed >> 13) * multiplier & _MASK32
    return mixed ^ mixed >> 15


def tag_bloom(tags: str) -> int:
    """The 64-bit bloom filter of a TAGS property (``:uaccess:seat:``): four bits a tag."""
    bits = 0
    for tag in filter(None, tags.split(":")):
        hashed = murmur_hash2(tag.encode())
        for shift in (0, 6, 12, 18):
            bits |= 1 << (hashed >> shift & 63)
    return bits


def encode_udev_message(properties: Mapping[str, str]) -> bytes:
    """The message udevd would send for a device with these properties, in their order.

    libudev takes it only with DEVPATH (beginning with a slash), SUBSYSTEM, ACTION (one the kernel
    knows) and SEQNUM (not 0), and from uid 0; old versions refuse a message of more than 8192 bytes.

    Raises ValueError for a key or value that the format cannot carry: an empty key, a key with ``=``,
    a NUL anywhere, text that is not UTF-8.
    """
    parts = []
    for key, value in properties.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise ValueError(f"property {key!r}={value!r} does not fit into a udev message")
        parts.append(f"{key}={value}\0".encode())
    body = b"".join(parts)
    # A property that is not there hashes to 0, not to the hash of the empty string.
    subsystem, devtype = properties.get("SUBSYSTEM"), properties.get("DEVTYPE")
    bloom = tag_bloom(properties.get("TAGS", ""))
    return b"".join(
        (
            PREFIX,
            MAGIC.to_bytes(4, "big"),
            _LENGTHS.pack(HEADER_BYTES, HEADER_BYTES, len(body)),
            _HASHES.pack(
                0 if subsystem is None else murmur_hash2(subsystem.encode()),
                0 if devtype is None else murmur_hash2(devtype.encode()),
                bloom >> 32,
                bloom & _MASK32,
            ),
            body,
        )
    )


def decode_udev_message(message: bytes) -> dict[str, str]:
    """The properties in a message of udevd's group, in their order.

    Stricter than libudev, which takes the last of duplicate keys and never looks at properties_len.
    The hashes are not checked: they are there for socket filters, and no reader compares them.

    Raises ValueError, and nothing else, with the reason: not a udev message, a length that does not
    fit, a property without ``=`` or end, a key twice, text that is not UTF-8.
    """
    if not message.startswith(PREFIX):
        raise ValueError("not a udev message: it does not begin with libudev and a NUL")
    if len(message) < HEADER_BYTES:
        raise ValueError(f"header cut short: {len(message)} of {HEADER_BYTES} bytes")
    magic = int.from_bytes(message[len(PREFIX) : _LENGTHS_OFFSET], "big")
    if magic != MAGIC:
        raise ValueError(f"magic is 0x{magic:08x} and not 0x{MAGIC:08x}")
    header_bytes, start, length = _LENGTHS.unpack_from(message, _LENGTHS_OFFSET)
    if header_bytes < HEADER_BYTES or start < header_bytes:
        raise ValueError(f"header of {header_bytes} bytes, properties at {start}")
    if start + length != len(message):
        raise ValueError(f"properties at {start}..{start + length} of a message of {len(message)} bytes")
    return _properties(message[start:])


def _properties(body: bytes) -> dict[str, str]:
    if not body:
        return {}
    if not body.endswith(b"\0"):
        raise ValueError("the last property has no NUL at its end")
    found: dict[str, str] = {}
    for part in body[:-1].split(b"\0"):
        try:
            text = part.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"property {part!r} is not UTF-8") from error
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"property {text!r} is not KEY=VALUE")
        if key in found:
            raise ValueError(f"property {key} is there twice")
        found[key] = value
    return found
