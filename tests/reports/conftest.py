"""A site of every kind of row, and a headless browser to open it in."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from uamix_bench.cli import main
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import Protocol

HOSTILE = (
    "<script>window.owned = 1</script>",
    '"><img src=x onerror="window.owned = 1">',
    "</td></tr></table><h1>owned",
    "evil | 99.9 |",
    "</style><style>*{display:none}",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "https://evil.example/x.png",
)


def _records() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reports_records", Path(__file__).with_name("records.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def records() -> Any:
    """The module of results to test with."""
    return _records()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, records: Any) -> Path:
    """Four models on three tasks at four settings; one that misses a task, one limited, one with hostile words."""
    paper, folder = Protocol(), tmp_path_factory.mktemp("store")
    results = [
        one
        for one in records.grid(tasks=3, ways=(5, 10), shots=(1, 5), models=4)
        if (one.model.name, one.task.name) != ("m2d", "voxceleb1")
    ]
    parameters, _, pretrained_on, _ = records.MODELS["beats"]
    beats = {"parameters": parameters, "pretrained_on": pretrained_on, "task": "nsynth", "protocol": paper}
    results.append(records.result("beats", 0.7, **beats, complete=False, limited=True, clips_sha256="a" * 64))
    results.append(
        records.result(
            "local-model",
            task="local/my sounds",
            protocol=Protocol(name=f"{HOSTILE[0]}/../é", n_way=8),
            labels=HOSTILE,
            notes=HOSTILE[:3],
            pretrained_on=(HOSTILE[0], "synthetic:train"),
            licence=HOSTILE[1],
            command=" ".join(HOSTILE),
        )
    )  # fmt: skip
    for one in results:
        ResultStore(folder).write(one)
    return folder


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """The site of the store, built by the command."""
    folder = tmp_path_factory.mktemp("site")
    assert main(["leaderboard", "build", str(store), "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium with its logs on."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()
