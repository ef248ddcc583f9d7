"""The page as a reader meets it: opened from disk in Chromium, hovered over, clicked at."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from flaxcomp.report.panels import front
from flaxcomp.report.write import write_report
from flaxcomp.sweep.spec import Metric
from parts import require
from synthetic_runs import study

pytestmark = pytest.mark.integration

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1200,1000",
)  # fmt: skip
METRICS = (Metric(name="val_accuracy", goal="maximize"), Metric(name="params", goal="minimize"))
FRAME = replace(study(seeds=2, temperatures=(None, 1.0, 3.0), exported=6), metrics=METRICS, constraints=("params <= 6000",))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    require(CHROMIUM and DRIVER, "a browser: install the Debian packages chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_report(FRAME, tmp_path_factory.mktemp("a report, from disk"), formats=("html",))


@pytest.fixture
def opened(browser, path):
    """The freshly opened page in light colours; afterwards it must not have complained."""
    browser.get_log("browser")
    browser.get_log("performance")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    browser.get(path.as_uri())
    until(browser, "return document.documentElement.dataset.ready === 'yes'")
    yield browser
    assert browser.get_log("browser") == []


def until(browser, script, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, poll_frequency=0.1).until(lambda its: its.execute_script(script, *arguments))


def choose(browser, label, text):
    from selenium.webdriver.support.ui import Select

    select = browser.find_element("xpath", f"//label[contains(., '{label}')]/select")
    Select(select).select_by_visible_text(text)


def verdict(browser):
    return browser.find_element("css selector", "#front output").text


def diamonds(browser):
    """Descriptions of the marks on the front: its points are the large ones, drawn last."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#front .mark-symbol.role-mark path')]"
        ".map(mark => mark.__data__.datum).filter(datum => datum.kind === 'on the front').map(datum => datum.tip.Trial).sort()"
    )


def brightness(colour):
    """The sum of red, green and blue of a CSS colour, at most 765."""
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def members(x, y, frame=FRAME):
    info = front.info(frame)
    where = "measurement" if "latency_ms" in (x, y) else "trial"
    return sorted(info.points[where][i].trial for i in info.front(x, y) if info.points[where][i].setting in (0, None))


def test_every_panel_is_drawn(opened):
    panels = [section.get_attribute("id") for section in opened.find_elements("tag name", "section")]
    assert panels[0] == "front"
    assert len(panels) == 10
    for place in opened.find_elements("css selector", ".chart"):
        name = place.get_attribute("data-chart")
        marks = opened.execute_script(
            "return arguments[0].querySelectorAll('svg .role-mark path, svg .role-mark line').length", place
        )
        assert marks > 0, name
        assert place.size["width"] > 300, name
        assert place.get_attribute("aria-label"), name
    assert {table.text != "" for table in opened.find_elements("tag name", "table")} == {True}


def test_nothing_is_fetched(opened):
    asked = [
        message["params"]["request"]["url"]
        for entry in opened.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert (
        opened.execute_script(
            "return performance.getEntriesByType('resource').filter(its => !its.name.startsWith('data:')).length"
        )
        == 0
    )


def test_the_front_on_the_page_is_the_exact_one(opened):
    assert diamonds(opened) == members("params", "val_accuracy")
    assert re.match(r"\d+ of 27 trials are on the front of validation accuracy and parameters\.", verdict(opened))


def test_other_metrics_give_another_front(opened):
    before = diamonds(opened)
    choose(opened, "Vertical metric", "Test F (more is better)")
    choose(opened, "Horizontal metric", "Training time (less is better)")
    until(opened, "return document.querySelector('#front svg').textContent.includes('Training time (s)')")
    assert diamonds(opened) == members("train_seconds", "test_f1") != before
    assert "Test figures are for reading: they choose no winner." in verdict(opened)


def test_devices_are_chosen_one_at_a_time_and_emulated_ones_say_so(opened):
    assert not opened.find_element("xpath", "//label[contains(., 'Device')]").is_displayed()
    choose(opened, "Horizontal metric", "Latency (less is better)")
    until(opened, "return document.querySelector('#front svg').textContent.includes('Latency (ms)')")
    assert diamonds(opened) == members("latency_ms", "val_accuracy")
    assert "EMULATED" not in opened.find_element("css selector", "#front svg").get_attribute("textContent")
    choose(opened, "Device", "board0 (emulated board), tflite 2.1, 1 thread, standard, EMULATED")
    until(opened, "return document.querySelector('#front svg').textContent.includes('Latency (ms), EMULATED')")
    assert "EMULATED" in verdict(opened)


def test_hovering_tells_the_trial(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    mark = opened.execute_script(
        "return [...document.querySelectorAll('#front .mark-symbol.role-mark path')]"
        ".filter(mark => mark.__data__.datum.kind === 'on the front').at(-1)"
    )
    tip = opened.execute_script("return arguments[0].__data__.datum.tip", mark)
    ActionChains(opened).scroll_to_element(opened.find_element("css selector", "#winners h2")).perform()
    ActionChains(opened).move_to_element(mark).perform()
    text = until(opened, "const its = document.querySelector('#vg-tooltip-element.visible'); return its && its.innerText")
    assert tip["title"] in text
    for name in ("Trial", "Seed", "Validation accuracy", "Parameters"):
        assert re.search(rf"{name}:?\s+{re.escape(tip[name])}", text), text


def test_tables_sort_and_ids_can_be_copied(opened):
    place = "#winners tbody tr td:nth-child(4)"
    head = opened.find_element("css selector", "#winners th:nth-child(4) button")
    for order, turned in (("ascending", False), ("descending", True)):
        opened.execute_script("arguments[0].click()", head)
        shown = [float(cell.get_attribute("data-order")) for cell in opened.find_elements("css selector", place)]
        assert shown == sorted(shown, reverse=turned)
        assert head.find_element("xpath", "..").get_attribute("aria-sort") == order
    button = opened.find_element("css selector", "#winners .copy")
    opened.execute_script("arguments[0].click()", button)
    until(opened, "return arguments[0].classList.contains('done')", button)


def test_dark_readers_get_a_dark_page(opened):
    def colours():
        return opened.execute_script(
            "return [getComputedStyle(document.body).backgroundColor,"
            " document.querySelector('#front svg .role-axis-title text').getAttribute('fill')]"
        )

    page, title = colours()
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    until(opened, "return document.documentElement.dataset.mode === 'dark'")
    until(
        opened,
        "return document.querySelector('#front svg .role-axis-title text')?.getAttribute('fill') !== arguments[0]",
        title,
    )
    dark_page, dark_title = colours()
    assert brightness(page) > 600
    assert brightness(dark_page) < 120
    assert dark_title != title
    opened.find_element("id", "mode").click()
    assert opened.execute_script("return document.documentElement.dataset.mode") == "light"


def test_a_narrow_window_needs_no_sideways_scrolling(opened):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        until(opened, "return innerWidth === 400")
        until(opened, "return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        width, window = opened.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert width <= window
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
