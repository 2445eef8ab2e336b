"""The reports' pages in headless Chromium: nothing asked of the network, no error, readable by all, on any width."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_bench.reports import clusters, excerpts, fewshot, figures, finetune, leaderboard, reproduce, training
from uamix_bench.reports.blocks import Sound
from uamix_bench.reports.matrix import matrix
from uamix_bench.reports.page import Page, render
from uamix_bench.scoring.protocol import Protocol

from .conftest import HOSTILE
from .records import grid, result
from .test_finetune import tuned
from .test_reproduce import made, planned
from .test_training import training as trained

# Words of the drawings on show: text, left, right, size in pixels, and true for a matrix, which may have many classes.
DRAWN = """
const shown = [...document.querySelectorAll("figure svg text")].filter((one) => one.getClientRects().length);
return shown.map((one) => {
  const { left, right } = one.getBoundingClientRect(), svg = one.closest("svg");
  const size = parseFloat(getComputedStyle(one).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width;
  return [one.textContent, left, right, size, svg.textContent.includes("predicted")];
})"""
SERIOUS = ("serious", "critical")


def tone() -> str:
    """Half a second of sound as a data URI, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tone.wav"
        soundfile.write(path, 0.1 * np.sin(np.arange(8_000) / 5), 16_000)
        return excerpts.excerpt(path)


def drawn() -> Page:
    """The figures that need embeddings, of random ones."""
    cloud = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    of, counts = np.full((8, 8), 9), np.arange(64).reshape(8, 8) % 9
    names = list(HOSTILE)
    of_class = np.repeat(np.arange(8), 3).tolist()
    panels = {HOSTILE[0]: clusters.place(cloud), "b": clusters.place(cloud + 1)}
    return render(
        "figures",
        [
            figures.points("points", panels, of_class, names, description="points", titles_of=HOSTILE * 3),
            Sound(HOSTILE[0], tone()),
            matrix("matrix", names, counts, of=of, description="matrix"),
        ],
    )


PAGES = {
    "fewshot": lambda: fewshot.report(
        [
            *grid(tasks=1, ways=(5,), shots=(1, 5), models=2),
            result(task="local/own", protocol=Protocol(n_way=8), labels=HOSTILE, notes=HOSTILE[:3], licence=HOSTILE[1]),
            result(complete=False, command=" ".join(HOSTILE)),
        ]
    ),
    "leaderboard": lambda: leaderboard.leaderboard(grid(tasks=2, ways=(5,), shots=(1, 5), models=3)),
    "finetune": lambda: finetune.report([tuned(0.4, fraction=0.1), tuned(0.8, seeds=2)]),
    "training": lambda: training.report([trained(), trained("none")]),
    "reproduce": lambda: reproduce.report([made("audiomae", 0.6), made("uamix", 0.7)], plans=[planned("table2")]),
    "figures": drawn,
}


@cache
def html(name: str) -> str:
    return PAGES[name]().html


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, browser: Any, tmp_path: Path, bench_home: Path) -> Any:
    """The browser with a page open, everything folded in it opened."""
    (tmp_path / "page.html").write_text(html(request.param), encoding="utf-8")
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(f"file://{tmp_path / 'page.html'}")
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    return browser


def test_a_page_needs_nothing_else_and_fits_a_phone(page: Any) -> None:
    assert [entry["message"] for entry in page.get_log("browser")] == []
    asked = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    addresses = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    assert {address.partition(":")[0] for address in addresses} <= {"file", "data"}
    assert {address for address in addresses if address.startswith("file:")} == {page.current_url.partition("#")[0]}
    assert page.execute_script("return window.owned") is None
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    width = page.execute_script("return document.scrollingElement.scrollWidth")
    words = page.execute_script(DRAWN)
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == 390
    assert [word for word in words if word[1] < 0 or word[2] > 390] == []
    assert all(size >= 8 for _, _, _, size, many in words if not many)


def test_figures_fill_a_desk(page: Any) -> None:
    width, words = page.execute_script("return document.querySelector('main').clientWidth"), page.execute_script(DRAWN)
    assert [word for word in words if word[1] < 0 or word[2] > page.execute_script("return innerWidth")] == []
    drawn = page.execute_script("""
        const full = [...document.querySelectorAll(".wide > svg[width='100%']")];
        return full.filter((one) => one.getClientRects().length).map((one) => one.clientWidth)""")
    assert set(drawn) <= {width}


@pytest.mark.over_3s
def test_axe_finds_nothing_serious(page: Any) -> None:
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    for theme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
        found = axe.run(page, options=options)
        assert found["passes"]
        worst = [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"] if one["impact"] in SERIOUS]
        assert worst == []


@pytest.mark.parametrize("page", ["figures"], indirect=True)
def test_a_sound_inside_the_page_can_be_played(page: Any) -> None:
    played = page.execute_async_script(
        "const done = arguments[0], sound = document.querySelector('audio');"
        "sound.onerror = () => done(['error', sound.error.message]);"
        "sound.oncanplaythrough = () => done(['plays', sound.duration]); sound.load()"
    )
    assert played == ["plays", pytest.approx(0.5)]
