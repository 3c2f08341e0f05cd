from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.witnesses.interrupts import InterruptRow, Interrupts, parse_interrupts, read_interrupts

ARM64 = """\
           CPU0       CPU1       
 11:       7214       6003     GICv2  27 Level     arch_timer
 13:          0          0     GICv2  33 Level     uart-pl011
 14:          0          0     GICv2  39 Level   
 45:          0          0  9030000.pl061   3 Edge      GPIO Key Poweroff
 46:          3         39  9030000.pl061   4 Edge      plugmeter:1-1
 47:          1          0  9030000.pl061   5 Edge      plugmeter:1-1.4
IPI0:      2200       1900       Rescheduling interrupts
Err:          0
"""  # noqa: W291  the kernel pads its rows

X86 = """\
            CPU0       CPU1       CPU2       CPU3
   8:          0          0          0          1   IO-APIC   8-edge      rtc0
  16:          5          6          7          8   IO-APIC  16-fasteoi   ehci_hcd:usb1, plugmeter:2-1
  17:          1          1          1          1  INT34C5:00  110  plugmeter:2-1
 NMI:          4          3          2          1   Non-maskable interrupts
 MIS:          0
"""


@pytest.mark.parametrize(
    ("text", "label", "count"),
    [
        (ARM64, "plugmeter:1-1", 42),
        (ARM64, "plugmeter:1-1.4", 1),
        (ARM64, "GPIO Key Poweroff", 0),
        (ARM64, "arch_timer", 13_217),
        (ARM64, "plugmeter:1-2", None),
        (ARM64, "plugmeter", None),
        (ARM64, "Rescheduling interrupts", None),
        (X86, "rtc0", 1),
        (X86, "ehci_hcd:usb1", 26),
        (X86, "plugmeter:2-1", 30),
        ("", "plugmeter:1-1", None),
        ("CPU0\n", "plugmeter:1-1", None),
    ],
)
def test_count_for(text: str, label: str, count: int | None) -> None:
    assert parse_interrupts(text).count_for(label) == count


def test_a_label_with_a_slash_is_found_as_the_kernel_writes_it() -> None:
    assert Interrupts((InterruptRow(9, 4, ("plugmeter:a:b",)),)).count_for("plugmeter:a/b") == 4


def test_a_row_without_consumer_has_no_action() -> None:
    assert parse_interrupts(ARM64).rows[2] == InterruptRow(14, 0, ())


@given(st.text(alphabet=st.sampled_from("0129: ,\n\tCPUabc-é\0")))
def test_the_parser_is_total(text: str) -> None:
    rows = parse_interrupts(text).rows
    assert all(row.irq >= 0 and row.count >= 0 and "" not in row.actions[:0] for row in rows)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3),
            st.from_regex(r"[a-z0-9:.\-]{1,31}", fullmatch=True),
        ),
        max_size=20,
    )
)
def test_what_the_kernel_prints_is_read_back(irqs: list[tuple[list[int], str]]) -> None:
    text = "           CPU0       CPU1       CPU2       \n"
    for irq, (counts, name) in enumerate(irqs):
        text += (
            f"{irq:3}:{''.join(f' {count:10}' for count in counts)} {'pl061':>8} {irq:3} {'Edge':8}  {name}\n"
        )
    assert parse_interrupts(text).rows == tuple(
        InterruptRow(irq, sum(counts), (name,)) for irq, (counts, name) in enumerate(irqs)
    )


def test_the_running_kernel_is_read() -> None:
    interrupts = read_interrupts()
    if interrupts is None:
        pytest.skip("needs a readable /proc/interrupts")
    assert interrupts.rows
    assert any(row.count for row in interrupts.rows)


def test_an_unreadable_file_is_none(tmp_path: Path) -> None:
    assert read_interrupts(tmp_path / "interrupts") is None
