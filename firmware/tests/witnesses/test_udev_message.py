import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.witnesses.udev_message import (
    HEADER_BYTES,
    decode_udev_message,
    encode_udev_message,
    murmur_hash2,
    tag_bloom,
)

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
keys = text.map(lambda key: key.replace("=", "")).filter(bool)
properties = st.dictionaries(keys, text, max_size=12)

STICK = {
    "ACTION": "add",
    "DEVPATH": "/devices/usb1/1-1",
    "SUBSYSTEM": "usb",
    "DEVTYPE": "usb_device",
    "SEQNUM": "4711",
}


@given(properties)
def test_what_is_encoded_decodes_to_itself_in_the_same_order(sent: dict[str, str]) -> None:
    assert list(decode_udev_message(encode_udev_message(sent)).items()) == list(sent.items())


@given(st.binary(max_size=300))
def test_decoding_anything_gives_properties_or_a_reason(message: bytes) -> None:
    try:
        found = decode_udev_message(message)
    except ValueError as error:
        assert str(error)
    else:
        assert all(found)


@given(properties.filter(bool), st.data())
def test_a_damaged_message_is_refused_or_read_never_a_crash(
    sent: dict[str, str], data: st.DataObject
) -> None:
    message = bytearray(encode_udev_message(sent))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] = data.draw(st.integers(0, 255))
    try:
        decode_udev_message(bytes(message[: data.draw(st.integers(0, len(message)))]))
    except ValueError as error:
        assert str(error)


@given(properties.filter(bool))
def test_a_message_cut_short_is_refused(sent: dict[str, str]) -> None:
    message = encode_udev_message(sent)
    for end in (0, 7, HEADER_BYTES - 1, HEADER_BYTES, len(message) - 1):
        with pytest.raises(ValueError, match=r"."):
            decode_udev_message(message[:end])


def test_the_header_is_laid_out_as_udevd_does_it() -> None:
    message = encode_udev_message({**STICK, "TAGS": ":uaccess:"})
    body = len(message) - 40
    assert message[:8] == b"libudev\0"
    assert message[8:12] == bytes.fromhex("feedcafe")
    assert struct.unpack("=III", message[12:24]) == (40, 40, body)
    subsystem, devtype, high, low = struct.unpack(">IIII", message[24:40])
    assert (subsystem, devtype) == (murmur_hash2(b"usb"), murmur_hash2(b"usb_device"))
    assert high << 32 | low == tag_bloom(":uaccess:") != 0


def test_what_is_not_there_hashes_to_nothing() -> None:
    assert encode_udev_message({"SEQNUM": "1"})[24:40] == bytes(16)


def test_tags_add_up_in_the_bloom_filter() -> None:
    assert tag_bloom(":seat:uaccess:") == tag_bloom(":seat:") | tag_bloom(":uaccess:")
    assert 1 <= tag_bloom(":seat:").bit_count() <= 4


@pytest.mark.parametrize(
    "bad", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0y"}, {"A": "\udcff"}], ids=repr
)
def test_a_property_the_format_cannot_carry_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_udev_message(bad)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"A=1", "no NUL"),
        (b"A\0", "not KEY=VALUE"),
        (b"=1\0", "not KEY=VALUE"),
        (b"A=1\0\0", "not KEY=VALUE"),
        (b"A=1\0A=2\0", "twice"),
        (b"A=\xff\0", "not UTF-8"),
    ],
)
def test_the_reason_names_what_is_wrong(body: bytes, reason: str) -> None:
    empty = encode_udev_message({})
    message = empty[:20] + struct.pack("=I", len(body)) + empty[24:] + body
    with pytest.raises(ValueError, match=reason):
        decode_udev_message(message)
