import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.witnesses.netlink_table import NetlinkTable, Row, parse_proc_netlink

HEADER = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
# As printed by Linux 6.18.
TABLE = (
    HEADER
    + "000000006f60f899 0   0          00000000 0        0        0     2        0        4       \n"
    + "00000000a0974cd7 15  0          00000000 0        0        0     2        0        1026    \n"
    + "00000000b1974cd7 15  4294963138 00000003 2816     0        0     2        196      30500   \n"
)


def test_uevent_sockets_are_read_and_others_are_not() -> None:
    assert parse_proc_netlink(TABLE) == NetlinkTable(
        rows=(
            Row(port_id=0, groups=0, rmem_bytes=0, drops=0, inode=1026),
            Row(port_id=4294963138, groups=3, rmem_bytes=2816, drops=196, inode=30500),
        )
    )


def test_groups_are_hexadecimal() -> None:
    (row,) = parse_proc_netlink(HEADER + "0 15 7 80000010 0 0 0 2 0 9\n").rows
    assert row.groups == 0x80000010


def test_columns_are_found_by_name() -> None:
    text = "Inode Drops New Groups Rmem Pid Eth\n9 8 x 2 5 7 15\n"
    assert parse_proc_netlink(text).rows == (Row(port_id=7, groups=2, rmem_bytes=5, drops=8, inode=9),)


@pytest.mark.parametrize(
    ("text", "rows", "malformed"),
    [
        ("", 0, 0),
        ("\n\n", 0, 0),
        ("nonsense\n", 0, 1),
        (TABLE.removeprefix(HEADER), 0, 3),
        (HEADER, 0, 0),
        (TABLE + "x\n", 2, 1),
        (TABLE + "0 15 7 0000zz01 0 0 0 2 0 9\n", 2, 1),
        (TABLE + "0 15 -7 00000001 0 0 0 2 0 9\n", 2, 1),
        (TABLE + "0 15 7 00000001 0 0 0 2 0\n", 2, 1),
        (TABLE + "0 15 7 00000001 0 0 0 2 ٣ 9\n", 2, 1),
        (TABLE + "0 15 7 00000001 0 0 0 2 " + "9" * 5000 + " 9\n", 2, 1),
    ],
)
def test_lines_that_make_no_sense_are_counted(text: str, rows: int, malformed: int) -> None:
    table = parse_proc_netlink(text)
    assert (len(table.rows), table.malformed) == (rows, malformed)


@given(st.text(), st.booleans())
def test_any_text_is_parsed(text: str, with_header: bool) -> None:
    table = parse_proc_netlink(HEADER + text if with_header else text)
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(table.rows) + table.malformed <= len(lines)
