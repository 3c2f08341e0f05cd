"""Trouble with writing: told once, tried again ever more rarely, told when it is over."""

from __future__ import annotations

from plugmeter.telemetry.trouble import RETRY_S, Trouble

MS = 1_000_000


def test_it_is_told_once_and_its_last_words_are_shown() -> None:
    told: list[str] = []
    trouble = Trouble(told.append, "well again")
    trouble.over()
    assert (trouble.text, told) == (None, [])
    trouble.met("full", 0)
    trouble.met("fuller", 0)
    assert (trouble.text, told) == ("fuller", ["full"])
    trouble.over()
    trouble.over()
    assert (trouble.text, told) == (None, ["full", "well again"])
    trouble.met("broken", 0)
    assert told[2:] == ["broken"]


def test_it_is_tried_again_ever_more_rarely_and_after_its_end_as_at_first() -> None:
    told: list[str] = []
    trouble = Trouble(told.append, "")
    for retry_s in (*RETRY_S, RETRY_S[-1], RETRY_S[-1]):
        trouble.met("full", 7)
        assert trouble.retry_at_ns == 7 + int(retry_s * 1e9)
    trouble.over()
    trouble.met("full", 50 * MS)
    assert trouble.retry_at_ns == 150 * MS
