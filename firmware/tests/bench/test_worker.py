"""A benchmark's child: it answers, its errors come over, and it does not outlive its block."""

from __future__ import annotations

import os
from typing import Any

import pytest

from plugmeter.bench.worker import Worker
from plugmeter.errors import PlugmeterError


def test_words_go_both_ways() -> None:
    def body(link: Any) -> Any:
        link.say(doubled=2 * link.hear()["number"])

    with Worker(body) as link:
        assert not link.has_word()
        link.say(number=21)
        assert link.hear() == {"doubled": 42}


def test_an_error_of_the_child_is_raised_here() -> None:
    def body(link: Any) -> Any:
        raise PlugmeterError("no such socket")

    with pytest.raises(PlugmeterError, match="no such socket"), Worker(body) as link:
        link.hear()


def test_a_child_that_ends_without_a_word_is_an_error() -> None:
    with pytest.raises(PlugmeterError, match="has ended"), Worker(lambda link: None) as link:
        link.hear()


def test_a_child_that_waits_for_ever_is_killed_when_the_block_fails() -> None:
    with pytest.raises(KeyError), Worker(lambda link: link.hear()["never"]) as link:
        raise KeyError(link)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
