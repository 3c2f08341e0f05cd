import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.errors import PlugmeterError
from plugmeter.records import Device, Presence
from plugmeter.witnesses.snapshot import Loaded, Snapshot, boot_id, decode, load, save

STICK = Device(port="1-1", busnum=1, devnum=4, vendor_id="0781", product_id="5567", serial="A1 ä")
PRESENCE = Presence(t_ns=123, reason="end", devices=(STICK,))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "presence.json"
    assert load(path) == Loaded(None)
    save(path, PRESENCE)
    assert load(path) == Loaded(Snapshot(PRESENCE, boot_id()))
    save(path, Presence(t_ns=5, reason="start"), boot="another")
    assert load(path) == Loaded(Snapshot(Presence(t_ns=5, reason="start"), "another"))
    assert [file.name for file in tmp_path.iterdir()] == ["presence.json"]


def test_numbers_count_only_within_one_boot() -> None:
    moved = Presence(t_ns=1, reason="start", devices=(Device("1-1", 1, 9, "0781", "5567", "A1 ä"),))
    assert [c.kind for c in Snapshot(PRESENCE, "a").changes_to(Snapshot(moved, "a"))] == ["replaced"]
    assert Snapshot(PRESENCE, "a").changes_to(Snapshot(moved, "b")) == []


def test_the_boot_has_a_name(tmp_path: Path) -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()
    assert boot_id(tmp_path) == ""


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b'{"format": "other"}', b"[" * 100_000, None],
    ids=["empty", "cut", "list", "not UTF-8", "other format", "deep", "bit flipped"],
)
def test_a_damaged_file_is_put_aside_and_said(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "presence.json"
    save(path, PRESENCE)
    bad = path.read_bytes().replace(b"0781", b"0791") if damage is None else damage
    path.write_bytes(bad)
    found = load(path)
    assert found.snapshot is None
    assert "damaged" in found.problem
    assert "\n" not in found.problem
    assert not path.exists()
    assert (tmp_path / "presence.json.damaged-1").read_bytes() == bad
    assert load(path) == Loaded(None)


def test_damaged_files_are_kept_apart_and_not_without_end(tmp_path: Path) -> None:
    path = tmp_path / "presence.json"
    for number in range(20):
        path.write_text(f"bad {number}")
        load(path)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 16
    assert (tmp_path / "presence.json.damaged-1").read_text() == "bad 0"


json_values = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda part: st.lists(part))


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_decoding_anything_gives_a_snapshot_or_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)


@pytest.mark.parametrize("key", ["boot_id", "t_ns", "reason", "devices", "crc32", "format"])
@pytest.mark.parametrize("value", [None, 7, "x", [1], {"port": 1}, True, [{"port": "1-1"}]], ids=repr)
def test_each_field_is_checked(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "presence.json"
    save(path, PRESENCE)
    whole = json.loads(path.read_text())
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps({**whole, key: value}).encode())
    del whole[key]
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps(whole).encode())


def test_what_cannot_be_written_is_one_line_and_the_old_file_stays(tmp_path: Path) -> None:
    with pytest.raises(PlugmeterError, match="cannot keep the USB snapshot"):
        save(tmp_path / "nowhere" / "presence.json", PRESENCE)
    path = tmp_path / "presence.json"
    path.mkdir()
    (path / "old").touch()  # rename over a directory that is not empty fails, after the writing
    with pytest.raises(PlugmeterError, match="choose a place"):
        save(path, PRESENCE)
    assert (path / "old").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["presence.json"]
    with pytest.raises(PlugmeterError, match="cannot read the USB snapshot"):
        load(path)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/null"])
def test_a_device_is_no_snapshot_and_stays_where_it_is(name: str) -> None:
    with pytest.raises(PlugmeterError, match="no regular file"):
        load(Path(name))
    with pytest.raises(PlugmeterError, match="no regular file"):
        save(Path(name), PRESENCE)
    assert Path(name).is_char_device()


def test_a_file_far_too_large_is_refused_and_not_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "presence.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(PlugmeterError, match="too large"):
        load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["presence.json"]
