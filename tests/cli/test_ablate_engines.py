"""An ablation by the workers of an engine is the local one, whoever dies meanwhile; workers that differ are refused."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.tuning import elsewhere
from uamix_bench.tuning.many import computing_with

from ..conftest import Nodes
from .conftest import Bench, weights


def record(folder: Path) -> Any:
    """The record of an ablation without times and provenance, with the ids of all that is in it."""

    def without(document: Any) -> Any:
        if isinstance(document, dict):
            return {key: without(value) for key, value in document.items() if key not in ("cost", "provenance")}
        return list(map(without, document)) if isinstance(document, list) else document

    return without(json.loads((folder / "ablation.json").read_bytes()))


def test_ray_with_a_node_killed_in_the_middle_of_an_arm(
    bench: Bench,
    bench_home: Path,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ray_nodes: Nodes,
) -> None:
    # Workers import this: the second node hangs in the middle of its arm, and the other waits until it does.
    code = """
    from contextlib import contextmanager
    import second_node
    from uamix_bench.progress import Progress
    from uamix_bench.tuning.elsewhere import carry_out_errand

    class Hanging(Progress):
        @contextmanager
        def bar(self, what, total, unit="clips"):
            steps = []
            def advance(count, note=""):
                steps.extend([what] * count)
                if what == "stage 2: tuning" and 2 * len(steps) > total:
                    second_node.hang()
            yield advance

    def slowly(errand, progress):
        if errand.job.head is None:
            return carry_out_errand(errand, progress)
        if second_node.here():
            return carry_out_errand(errand, Hanging())
        second_node.wait()
        return carry_out_errand(errand, progress)
    """
    arguments += ["--mix", "mixup", "--set", "checkpoint_every=1"]
    with computing_with(1):
        local = bench(*arguments, "--jobs", "1")
    wanted, kept = record(tmp_path / "report"), weights(bench_home)

    def kill() -> None:
        while not ray_nodes.hangs.exists():
            time.sleep(0.05)
        ray_nodes.kill()

    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(elsewhere, "carry_out_errand", ray_nodes.write("ablate_test_jobs", code).slowly)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = bench(*arguments, "--engine", "ray", "--engine-address", ray_nodes.address)
    killer.join(10)
    assert (done.code, done.out) == (0, local.out), done.err
    assert record(tmp_path / "report") == wanted
    assert weights(tmp_path / "another") == kept
    lost = [line for line in done.err.splitlines() if "its worker was lost (" in line]
    assert len(lost) == 1
    assert [line for line in done.err.splitlines() if line.endswith("is tuned")].sort() == [
        "stage 1, seed 0 is tuned",
        "t-cutmix is tuned",
        "mixup is tuned",
    ].sort()

    # the arm went on where the killed worker was, and says what the user typed
    trained = [arm["training"] for arm in json.loads((tmp_path / "report" / "ablation.json").read_bytes())["arms"]]
    clips = {sum(cost["clips"] for cost in training["cost"]) for training in trained}
    assert len(clips) == 2
    assert min(clips) < max(clips)
    assert len({training["provenance"]["command"] for training in trained}) == 1
    assert ray_nodes.address.partition(":")[0] not in json.dumps([training["provenance"] for training in trained])
