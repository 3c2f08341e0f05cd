"""What all tests share: Hypothesis without deadlines, and no skips in .ci/run.

With PLUGMETER_REQUIRE_ALL=1 a skip for want of something is a failure.

A test that cannot run here skips with a reason that starts with "needs ". (One that "runs in the guest" is
run there by the same command, which counts that it did; see guest/test_guest.py.) On a developer's machine
that is fine. In .ci/run it is not: there everything must be had, or the tests prove less than they say.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# A slow or busy machine is no failure of the code: no example is timed.
settings.register_profile("plugmeter", deadline=None)
settings.load_profile("plugmeter")

_REQUIRE_ALL = os.environ.get("PLUGMETER_REQUIRE_ALL", "") not in ("", "0")


def _forbidden_skip(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason of a skip that .ci/run does not accept, or nothing."""
    if not _REQUIRE_ALL or not report.skipped or hasattr(report, "wasxfail"):
        return ""
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    return reason if reason.startswith("needs ") else ""


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = _forbidden_skip(report)
    if reason:
        report.outcome = "failed"
        report.longrepr = f"skipped, with PLUGMETER_REQUIRE_ALL=1: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail(report)
    return report
