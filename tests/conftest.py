"""Shared fixtures: the test data, an isolated home folder, small disks, a Ray cluster, the --slow flag."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and torch is not loaded yet
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from uamix_bench.tuning.data import Frames

REPOSITORY = Path(__file__).resolve().parent.parent
# Files whose tests are small, of every room: together they take about a minute of one core. Single tests elsewhere bear
# the mark `quick` themselves.
QUICK = {
    *(
        "test_architecture",
        "test_card",
        "test_classifiers",
        "test_compare",
        "test_docs_ci",
        "test_embedding",
        "test_export",
    ),
    *("test_files", "test_frontend", "test_gate", "test_health", "test_install", "test_metrics", "test_model"),
    *("test_promises", "test_ranking", "test_registry", "test_results", "test_statistics", "test_task", "test_text"),
    *("test_timings", "test_training_records", "test_vit"),
    *("test_floors", "test_formats", "test_official"),
    *("test_page", "test_published"),
    *("test_aliases_partial", "test_esc50"),
    *("test_classifier", "test_contrastive", "test_mixing", "test_nnclr", "test_splits"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run long simulations, fuzzing and training")


def pytest_configure() -> None:
    # Started in the background, a process ignores SIGINT, and so would the commands that tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in QUICK:
            item.add_marker("quick")
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="long; runs with --slow"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of goldens and real recordings: UAMIX_BENCH_TEST_DATA, default ../shared."""
    folder = Path(os.environ.get("UAMIX_BENCH_TEST_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "goldens").is_dir():
        pytest.skip(f"no test data in {folder} (set UAMIX_BENCH_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def frames() -> Frames:
    """2,200 frames of noise as training data: 40 clips of 20 recordings."""
    import numpy as np

    from uamix_bench.tuning.data import Frames

    rng = np.random.default_rng(0)
    count = rng.integers(20, 90, 40)
    values = rng.normal(-6, 3, (int(count.sum()), 128)).astype(np.float16)
    return Frames(values, np.cumsum(count) - count, count, np.arange(40) // 2, "data")


@pytest.fixture
def bench_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty UAMIX_BENCH_HOME of this test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(folder))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB; needs root."""
    yield from _mounted(tmp_path / "small", "size=400k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """An empty file system that may only be read, by root too; needs root."""
    yield from _mounted(tmp_path / "read-only", "ro")


def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system of one's own: {mounted.stderr.strip() or 'mount failed'}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


class Nodes(NamedTuple):
    """A Ray cluster of two nodes, of one processor each, on this machine.

    Attributes:
        address: For --engine-address.
        modules: A folder that its workers import from; ``second_node`` is there, with ``here``, ``hang`` and ``wait``.
        kill: Ends the second node.
        hangs: The file that ``second_node.hang`` makes, and ``second_node.wait`` waits for.
    """

    address: str
    modules: Path
    kill: Callable[[], None]
    hangs: Path

    def write(self, name: str, code: str) -> ModuleType:
        """Writes a module that workers can import, and imports it here."""
        (self.modules / f"{name}.py").write_text(textwrap.dedent(code))
        sys.modules.pop(name, None)
        return __import__(name)


_SECOND_NODE = """
import time
from pathlib import Path
import ray

HERE = Path(__file__).parent

def here():
    return ray.get_runtime_context().get_node_id() == (HERE / "second").read_text()

def hang():
    (HERE / "hangs").touch()
    time.sleep(120)

def wait():
    for _ in range(600):
        if (HERE / "hangs").exists():
            break
        time.sleep(0.1)
"""
_NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A Ray cluster of one node, and the folder that its workers import from; a node that dies is missed in 2 s."""
    pytest.importorskip("ray", reason="ray is not installed (the extra [ray])")
    from ray.cluster_utils import Cluster

    modules = tmp_path_factory.mktemp("modules")
    (modules / "second_node.py").write_text(_SECOND_NODE)
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(modules))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("UAMIX_BENCH_HOME", str(tmp_path_factory.mktemp("worker") / "home"))
        head = {**_NODE, "include_dashboard": False, "_system_config": quick}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster, modules
        finally:
            cluster.shutdown()


@pytest.fixture
def ray_nodes(ray_head: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """The cluster with a second node of this test's own."""
    cluster, modules = ray_head
    monkeypatch.syspath_prepend(modules)
    second = cluster.add_node(**_NODE)
    (modules / "second").write_text(second.node_id)
    (modules / "hangs").unlink(missing_ok=True)

    def kill() -> None:
        if second in cluster.list_all_nodes():
            cluster.remove_node(second, allow_graceful=False)

    yield Nodes(cluster.address, modules, kill, modules / "hangs")
    kill()
