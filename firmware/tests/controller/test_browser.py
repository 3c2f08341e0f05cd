"""The page in a real browser: what a person sees, on wide and narrow screens, by day and by night."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

from plugmeter.controller.store import Store, open_store
from plugmeter.telemetry.record import Tombstone
from tests.controller.bookings import OTHER, STREAM, document, message, receive, run_ended, verdicts
from tests.controller.devices import account, stored, summary, verdict
from tests.controller.test_page import fill, serving
from tests.telemetry.broker import eventually

ONLINE = {"state": "online", "stream": STREAM, "time": "2026-11-21T10:00:00Z", "reason": None}


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        options.binary_location = chromium
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
            f"--user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        opened = webdriver.Chrome(options=options, service=Service(driver))
        yield opened
        opened.quit()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(str(tmp_path / "controller.db"))
    yield opened
    opened.close()


def screen(browser: WebDriver, width: int, height: int = 900, *, dark: bool = False) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def complaints(browser: WebDriver) -> list[str]:
    """What the browser's console says since it was asked last: errors, and what the policy forbade."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")  # type: ignore[attr-defined]  # of Chromium's driver only
        if "favicon" not in entry["message"]
    ]


def text_of(browser: WebDriver, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def some_losses(store: Store) -> None:
    now_ns = time.time_ns()
    records = [
        stored(n, "verdict", verdict(n, lost=n % 9 == 0, port=f"1-1.{n % 4 + 1}"), now_ns - n * 10**11)
        for n in range(1, 300)
    ]
    receive(
        store,
        message(records, [Tombstone(300, 309, 0, "full", now_ns)]),
        document("status", ONLINE),
        document("summary", summary(account(STREAM, 400, 299, 10, 310))),
    )


def test_the_fleet_comes_alive_by_itself(browser: WebDriver, store: Store) -> None:
    """From empty to a device to a loss, without a reload, and keeping the focus."""
    screen(browser, 1280)
    with serving(store) as page:
        browser.get(page.url)
        assert "No device has reported yet" in text_of(browser, "main")
        browser.execute_script("window.untouched = true")
        receive(store, document("status", ONLINE), document("summary", summary(account(STREAM, 7, 0, 0, 1))))
        eventually(lambda: bool(browser.find_elements(By.LINK_TEXT, "bench-1")), "the device appears")
        link = browser.find_element(By.LINK_TEXT, "bench-1")
        browser.execute_script("arguments[0].focus()", link)
        assert text_of(browser, "td[data-name=Backlog]") == "7"
        receive(store, message(verdicts(1, 2)), document("summary", summary(account(STREAM, 9, 2, 0, 3))))
        receive(store, message([stored(3, "verdict", verdict(3, lost=True))]))
        eventually(lambda: text_of(browser, "td[data-name='Lost, 24 h']") == "1", "the loss appears")
        assert browser.switch_to.active_element == link, "it is still the same element, and has the focus"
        assert browser.execute_script("return window.untouched") is True, "nothing was reloaded"
        link.click()
        eventually(lambda: text_of(browser, "h1") == "bench-1", "the device's view")
        assert browser.title == "bench-1 · Plugmeter"
        assert complaints(browser) == []


def test_hostile_devices_stay_text(browser: WebDriver, store: Store) -> None:
    fill(store)
    screen(browser, 1280)
    with serving(store) as page:
        for path in ("", "device/bench-1?hours=720"):
            browser.get(page.url + path)
            assert "<script>alert(1)</script>" in text_of(browser, "body")
            assert browser.find_elements(By.CSS_SELECTOR, "img, iframe, object, body script") == []
            browser.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
            eventually(lambda: bool(browser.execute_script(_REFRESHED)), "it refreshes itself")
            assert browser.find_elements(By.CSS_SELECTOR, "img, iframe, object, body script") == []
            assert complaints(browser) == [], "and no script was even tried"


def test_losses_are_drawn_by_stage_and_port(browser: WebDriver, store: Store) -> None:
    some_losses(store)
    screen(browser, 1280)
    with serving(store) as page:
        browser.get(f"{page.url}device/bench-1")
        bars = browser.find_elements(By.CSS_SELECTOR, "svg.columns rect.stage-socket_queue")
        assert bars
        assert all(bar.rect["height"] > 1 and bar.rect["width"] > 4 for bar in bars)
        colour = bars[0].value_of_css_property("fill")
        swatch = browser.find_element(By.CSS_SELECTOR, ".key .swatch").value_of_css_property(
            "background-color"
        )
        assert colour.replace(" ", "")[4:-1] in swatch.replace(" ", ""), "the key has the bars' colours"
        ports = [
            row.text.split()[0]
            for row in browser.find_elements(By.CSS_SELECTOR, "[data-part=ports] tbody tr")
        ]
        assert sorted(ports) == ["1-1.1", "1-1.2", "1-1.3", "1-1.4"]
        assert "300 to 309" in text_of(browser, "[data-part=streams]")
        browser.find_element(By.LINK_TEXT, "week").click()
        eventually(lambda: "hours=168" in browser.current_url, "the week")
        assert browser.find_element(By.CSS_SELECTOR, "[aria-current]").text == "week"
        assert complaints(browser) == []


def test_drops_are_drawn_over_time_for_each_listener(browser: WebDriver, store: Store) -> None:
    """And a run that ends while one looks adds to them, without a reload."""
    hour_ms = 3_600_000
    now_ms = time.time_ns() // 1_000_000
    receive(
        store,
        document("status", ONLINE),
        message(
            [
                run_ended(1, now_ms - 5 * hour_ms, ("udevd", 40), ("udisksd", 0)),
                run_ended(2, now_ms - 3 * hour_ms, ("udevd", 0)),
                run_ended(3, now_ms - 40 * hour_ms, ("udevd", 900), ("upowerd", 3)),
            ]
        ),
    )
    screen(browser, 1280)

    def rows() -> dict[str, list[str]]:
        found = browser.find_elements(By.CSS_SELECTOR, "[data-part=listeners] tbody tr")
        return {row.find_element(By.TAG_NAME, "th").text: [each.text for each in cells(row)] for row in found}

    def cells(row: WebElement) -> list[WebElement]:
        return row.find_elements(By.TAG_NAME, "td")

    def bars() -> list[str]:
        return [
            str(bar.get_attribute("class"))
            for bar in browser.find_elements(
                By.CSS_SELECTOR, "[data-part=listeners] tr[data-key^=udevd] svg rect"
            )
        ]

    with serving(store) as page:
        browser.get(f"{page.url}device/bench-1?hours=24")
        found = rows()
        assert list(found) == ["udevd", "upowerd", "udisksd"]
        assert found["udevd"][1:3] == ["940", "40"]
        assert found["upowerd"][1:3] == ["3", "no run ended"]
        assert found["udisksd"][1:3] == ["0", "0"]
        drawn = bars()
        assert len(drawn) == 24
        assert (drawn.count("lost"), drawn.count("clear"), drawn.count("none")) == (1, 1, 22)
        assert "in the last 24 hours" in text_of(browser, "[data-part=listeners]")
        receive(store, message([run_ended(4, time.time_ns() // 1_000_000, ("udevd", 2))]))
        eventually(lambda: rows()["udevd"][1:3] == ["942", "42"], "the new drops appear")
        assert bars()[-1] == "lost" or bars()[-2] == "lost", "in the column of now"
        browser.find_element(By.LINK_TEXT, "week").click()
        eventually(lambda: "hours=168" in browser.current_url, "the week")
        assert rows()["udevd"][1:3] == ["942", "942"]
        assert complaints(browser) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_every_screen_and_can_be_read(
    browser: WebDriver, store: Store, width: int, dark: bool
) -> None:
    """Nothing sticks out sideways; every text stands out from its ground by 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    some_losses(store)
    lost = {**ONLINE, "state": "lost", "stream": OTHER, "reason": "a reason without an end " * 8}
    name = "a-device-with-a-very-long-name-as-far-as-a-name-may-be-63-chars"
    receive(store, document("status", lost, device=name))
    screen(browser, width, dark=dark)
    with serving(store, None, state="waiting", reason="connection refused") as page:
        for path in ("", "device/bench-1", f"device/{name}"):
            browser.get(page.url + path)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, path
            assert browser.execute_script(_FAINT) == [], path


def test_it_says_when_it_is_not_fresh(browser: WebDriver, store: Store) -> None:
    some_losses(store)
    screen(browser, 1280)
    with serving(store) as page:
        browser.get(page.url)
        assert not browser.find_element(By.CSS_SELECTOR, ".offline").is_displayed()
    eventually(
        lambda: browser.find_element(By.CSS_SELECTOR, ".offline").is_displayed(),
        "the page says it is not fresh",
    )
    assert "the controller has not answered since" in text_of(browser, ".offline")
    complaints(browser)


def test_it_can_be_used_without_javascript(browser: WebDriver, store: Store) -> None:
    some_losses(store)
    screen(browser, 1280)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        with serving(store) as page:
            browser.get(f"{page.url}device/bench-1")
            assert "socket queue" in text_of(browser, "[data-part=ports]")
            assert "Without JavaScript" in text_of(browser, "footer")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_every_table_and_picture_has_a_name(browser: WebDriver, store: Store) -> None:
    fill(store)
    screen(browser, 1280)
    with serving(store) as page:
        for path in ("", "device/bench-1?hours=720"):
            browser.get(page.url + path)
            found = json.loads(browser.execute_script(_NAMELESS))
            assert found == [], path
            assert len(browser.find_elements(By.TAG_NAME, "h1")) == 1


_REFRESHED = """
return performance.getEntriesByType("resource").some((e) => e.initiatorType === "fetch" && e.responseEnd > 0);
"""

_FAINT = r"""
const rgb = (text) => {
  rgb.canvas ||= document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const canvas = rgb.canvas;
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = (c) => c.slice(0, 3).map((v) => linear(v / 255))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const found = rgb(getComputedStyle(at).backgroundColor);
    if (found[3] > 0.99) return found;
  }
  return [255, 255, 255, 1];
};
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.nodeValue.trim());
  if (!own || !element.checkVisibility() || element.closest(".skip, .hidden, noscript, title, pre")) continue;
  const style = getComputedStyle(element);
  const ink = rgb(element instanceof SVGElement ? style.fill : style.color);
  const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(element.outerHTML.slice(0, 120));
}
return faint;
"""

_NAMELESS = r"""
const nameless = [];
for (const svg of document.querySelectorAll("svg")) {
  if (svg.getAttribute("aria-hidden") !== "true" && !svg.getAttribute("aria-label")) nameless.push("svg");
}
for (const cell of document.querySelectorAll("thead th")) {
  if (cell.scope !== "col" || !cell.textContent.trim()) nameless.push("th");
}
for (const section of document.querySelectorAll("main section[aria-labelledby]")) {
  if (!document.getElementById(section.getAttribute("aria-labelledby"))) nameless.push("section");
}
for (const link of document.querySelectorAll("a")) {
  if (!link.textContent.trim() && !link.getAttribute("aria-label")) nameless.push("a");
}
return JSON.stringify(nameless);
"""
