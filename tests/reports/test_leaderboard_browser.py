"""The leaderboard in a real browser: with mouse, keyboard, phone, for a screen reader, and without script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.cli.pages import write_page
from uamix_bench.reports.leaderboard import leaderboard
from uamix_bench.scoring.protocol import Protocol

Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Select = pytest.importorskip("selenium.webdriver.support.select").Select
CSS = "css selector"
SERIOUS = ("serious", "critical")


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    """The index, freshly opened at the width of a desk; no console message and no request for anything but files."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(f"file://{site / 'index.html'}")
    yield browser
    assert browser.get_log("browser") == []
    assert all(url.startswith(f"file://{site}") for url in requests(browser))


def requests(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def names(page: Any) -> list[str]:
    """The models of the table on show, in order, of the first group."""
    rows = page.find_elements(CSS, "#settings > section:not([hidden]) .table tbody:first-of-type tr:not([hidden]) th")
    return [row.text for row in rows if row.is_displayed()]


def heading(page: Any, text: str) -> Any:
    buttons = page.find_elements(CSS, "#settings > section:not([hidden]) thead button")
    return next(button for button in buttons if button.text == text)


def shown(page: Any) -> list[str]:
    return [one.get_attribute("id") for one in page.find_elements(CSS, "#settings > section") if one.is_displayed()]


def test_a_click_on_a_heading_sorts(page: Any) -> None:
    assert names(page) == ["uamix", "audiomae", "beats", "m2d"]
    heading(page, "voxceleb1@1").click()
    assert names(page)[-1] == "m2d"  # it has no result there, and what is missing stays last
    heading(page, "model").click()
    assert names(page) == ["audiomae", "beats", "m2d", "uamix"]
    heading(page, "model").send_keys(Keys.ENTER)
    assert names(page) == ["uamix", "m2d", "beats", "audiomae"]
    sorted_by = page.find_elements(CSS, "#settings > section:not([hidden]) th[aria-sort]")
    assert [(one.text.split()[0], one.get_attribute("aria-sort")) for one in sorted_by] == [("model", "descending")]


def test_typing_filters_rows_and_says_how_many_are_left(page: Any) -> None:
    box = page.find_element(CSS, "#settings > section:not([hidden]) input[type=search]")
    box.send_keys("mae audioset")
    assert names(page) == ["audiomae"]
    assert page.find_element(CSS, "#settings > section:not([hidden]) [role=status]").text.startswith("1 of ")
    box.clear()
    box.send_keys(Keys.SPACE, Keys.BACKSPACE)
    assert len(names(page)) == 4


def test_way_and_shot_are_chosen(page: Any) -> None:
    assert shown(page) == ["5w1s"]
    way, shot = (Select(page.find_element(CSS, f"select[name={name}]")) for name in ("way", "shot"))
    assert [option.text for option in way.options] == ["5", "8", "10"]
    shot.select_by_visible_text("5")
    assert shown(page) == ["5w5s"]
    way.select_by_visible_text("10")
    assert shown(page) == ["10w5s"]
    way.select_by_visible_text("8")  # which was evaluated with one shot only
    assert shown(page) == ["8w1s-script-window-owned-1-script-e"]
    assert shot.first_selected_option.text == "1"


def test_a_drawer_opens_and_closes_by_keyboard(page: Any) -> None:
    link = page.find_element(CSS, "#settings > section:not([hidden]) td a")
    page.execute_script("arguments[0].focus()", link)
    link.send_keys(Keys.ENTER)  # leads to the page of the column, over which the drawer is open
    dialog = page.find_element(CSS, "dialog")
    assert dialog.is_displayed()
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    link = page.find_element(CSS, "thead a")
    page.execute_script("arguments[0].focus()", link)
    link.send_keys(Keys.ENTER)
    assert dialog.is_displayed()
    assert "uamix on esc50@1, 5-way 1-shot" in dialog.text
    assert "SHA-256" in dialog.text
    assert "uamix-bench fewshot --model uamix=WEIGHTS --name uamix --task esc50" in dialog.text
    assert page.execute_script("return arguments[0].contains(document.activeElement)", dialog)
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert page.switch_to.active_element == link


def test_the_theme_is_the_readers(page: Any) -> None:
    def paper() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    for scheme in ("dark", "light"):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        before = paper()
        page.find_element(CSS, ".theme").click()
        assert paper() != before
        page.execute_script("delete document.documentElement.dataset.theme; localStorage.clear()")
    page.find_element(CSS, ".theme").click()
    page.refresh()
    assert page.execute_script("return document.documentElement.dataset.theme") == "dark"
    page.execute_script("localStorage.clear()")


@pytest.mark.over_3s
def test_axe_finds_nothing_serious(browser: Any, records: Any, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    results = records.grid(tasks=2, ways=(5,), shots=(1, 5), models=2)
    results.append(records.result("logmel", protocol=Protocol(), complete=False, clips_sha256="a" * 64))
    built = leaderboard(results)
    for name, text in {"index.html": built.html, **built.files}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    def serious(where: str = "html", **options: Any) -> list[str]:
        found = axe.run(browser, context=[where], options=options)
        assert found["passes"]
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"] if one["impact"] in SERIOUS
        ]

    colours = {"runOnly": ["color-contrast"]}
    browser.get(f"file://{tmp_path / 'index.html'}")
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert serious() == []
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    assert serious(**colours) == []
    browser.find_element(CSS, "#settings > section:not([hidden]) td a").click()
    assert serious("dialog") == []
    browser.get(f"file://{next(tmp_path.glob('classes-5w1s-esc50*'))}")
    assert serious() == []


def test_no_page_scrolls_sideways_on_a_phone(page: Any, site: Path) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    for name in ("index.html", next(site.glob("classes-5w1s*")).name):
        page.get(f"file://{site / name}")
        page.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
    page.get(f"file://{site / 'index.html'}")
    page.find_element(CSS, "#settings > section:not([hidden]) td a").click()
    box = page.find_element(CSS, "dialog").rect
    assert (box["x"], box["width"]) == (0, 390)
    assert page.execute_script("return document.querySelector('dialog').scrollWidth") <= 390


def test_hostile_words_stay_words(page: Any, site: Path) -> None:
    for path in [site / "index.html", *site.glob("classes-8w*")]:
        page.get(f"file://{path}")
        assert page.execute_script("return window.owned") is None
        assert page.find_elements(CSS, "img, iframe, object, embed, form, link, main h1") == []
        assert page.execute_script("return document.scripts.length") == (2 if path.name == "index.html" else 1)
    labels = [one.text for one in page.find_elements(CSS, "tbody th")]
    assert "<script>window.owned = 1</script>" in labels
    assert len(labels) == 8


def test_without_a_script_everything_is_there(page: Any, site: Path) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(f"file://{site / 'index.html'}")
        assert len(shown(page)) == 5
        drawers = 0
        for path in sorted(site.glob("*.html")):
            page.get(f"file://{path}")
            here = page.find_elements(CSS, "section.drawer")
            drawers += len(here)
            assert all(drawer.is_displayed() for drawer in here)
            assert page.find_elements(CSS, "button") == []
        assert drawers == 46
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_copying_takes_the_whole_table(page: Any) -> None:
    origin = {"origin": "file://", "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", origin)
    page.find_element(CSS, "#settings > section:not([hidden]) > section.folded summary").click()
    block = page.find_element(CSS, "#settings > section:not([hidden]) .code")
    block.find_element(CSS, "button").click()
    text = page.execute_script("return navigator.clipboard.readText()")
    assert text == block.find_element(CSS, "code").get_attribute("textContent")
    assert text.splitlines()[2].startswith("| model | rank | mean | esc50@1")


@pytest.mark.slow
def test_two_thousand_results_still_build_and_open(browser: Any, records: Any, tmp_path: Path) -> None:
    results = records.grid(ways=(5, 8, 10), shots=tuple(range(1, 18)), episodes=20)[:2_000]
    assert len(results) == 2_000
    write_page(leaderboard(results), tmp_path, "index", durable=False)
    browser.get(f"file://{tmp_path / 'index.html'}")
    Select(browser.find_element(CSS, "select[name=shot]")).select_by_visible_text("17")
    assert names(browser)
    browser.find_element(CSS, "#settings > section:not([hidden]) td a").click()
    assert "17-shot" in browser.find_element(CSS, "dialog").text
