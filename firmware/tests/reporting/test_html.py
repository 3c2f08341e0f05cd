"""The HTML page: whole, alone, the same each time, and safe whatever a report says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.reporting import samples

pytest.importorskip("jinja2", reason="needs the report extras")
pytest.importorskip("matplotlib", reason="needs the report extras")

from plugmeter.reporting import html

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements, ids and texts of a page; fails where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module", params=samples.ALL)
def rendered(request: Any) -> tuple[dict[str, Any], str]:
    report = samples.ALL[request.param]()
    return report, html.render(report)


def test_it_is_the_same_byte_for_byte(rendered: tuple[dict[str, Any], str]) -> None:
    report, text = rendered
    assert html.render(report) == text


def test_it_is_well_formed_and_no_id_comes_twice(rendered: tuple[dict[str, Any], str]) -> None:
    page = parse(rendered[1])
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'(?:url\(|href=")#([^")]+)', rendered[1]))
    assert targets <= set(ids)


def test_it_needs_nothing_from_elsewhere(rendered: tuple[dict[str, Any], str]) -> None:
    text = rendered[1]
    page = parse(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attrs in page.tags:
        assert "src" not in attrs
        for name in ("href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_picture_has_words_and_every_table_headings(rendered: tuple[dict[str, Any], str]) -> None:
    page = parse(rendered[1])
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert bool(pictures)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")


def test_no_colour_is_left_to_one_theme(rendered: tuple[dict[str, Any], str]) -> None:
    for svg in re.findall(r"<svg.*?</svg>", rendered[1], re.DOTALL):
        assert not re.search(r"(?:fill|stroke): #", svg)


def test_an_invalid_run_never_says_how_many_were_lost() -> None:
    said = " ".join(parse(html.render(samples.invalid())).text)
    assert "INVALID" in said
    assert not re.search(r"\d lost", said)
    assert "not measured: the run is INVALID" in said


def test_whatever_a_report_says_stays_text() -> None:
    evil = "<script>alert(1)</script>\"'&"
    report = samples.lossy()
    report["listeners"][0]["comm"] = evil
    report["run"]["rig"] = evil
    report["run"]["host"]["hostname"] = evil
    report["run"]["plan"][evil] = evil
    report["certificate"]["reasons"] = [evil]
    report["certificate"]["valid"] = False
    report["witnesses"][evil] = report["witnesses"]["gpio"]
    report["ports"][evil] = report["ports"]["1-1.1"]
    report["losses"][0]["port"] = evil
    report["certificate"]["lines"][0]["port"] = evil
    text = html.render(report)
    page = parse(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in "".join(page.text)


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_without_the_extras_it_is_one_line(module: str) -> None:
    child = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from plugmeter.errors import UsageError\n"
        "from plugmeter.reporting import html\n"
        "from tests.reporting import samples\n"
        "try: html.render(samples.clean())\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.count("\n") == 1
    assert "pip install 'plugmeter[report]'" in done.stdout
