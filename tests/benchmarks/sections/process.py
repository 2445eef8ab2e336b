"""What a whole process takes: the start of commands, the memory of an evaluation."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from uamix_bench import load_model, load_task
from uamix_bench.data import audio
from uamix_bench.data.sound import sounds as clip_sounds
from uamix_bench.reports.blocks import Cell, Prose, Section, Table
from uamix_bench.util.threads import cores

from .. import limits, tables
from ..scale import Scale
from ..timing import measure
from ..workloads import SAMPLE_RATE, operations
from .evaluation import MODEL, SECONDS, SHAPE

COMMANDS = (["--help"], ["models", "ls"], ["tasks", "ls"], ["results", "ls"])
PASS, HEAVY = "pass", "import timm, torch"
MAIN_JOB = ["fewshot", "--model", MODEL, "--n", "5", "--k", "1"]
MAIN_TASKS = ("instruments", "studio-samples")  # of a command that names none
REPEATED = {
    "uamix-bench fewshot": [],
    "... again": [],
    "... --k 5": ["--k", "5"],
    "... --n 10": ["--n", "10"],
    "... --seed 1": ["--seed", "1"],
    "... --classifier simpleshot": ["--classifier", "simpleshot"],
}
BESIDE = f"""
import os, sys, time
import numpy as np
import torch
from uamix_bench import load_model, load_task
from uamix_bench.embeddings import encoding
from uamix_bench.embeddings.embedding import embed

sounds, rounds, clips = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model, task = load_model({MODEL!r}, device="cpu"), load_task(sounds, clip_seconds={SECONDS})
ways = {{"one thread": (1, 0), "shared": (encoding.cores(), 0), "here": (encoding.cores(), encoding._SMALL)}}
for number in range(rounds + 1):
    for way, (threads, encoding._SMALL) in ways.items():
        torch.set_num_threads(threads)
        wall, cpu = time.perf_counter(), time.process_time()
        embed(model, task, np.arange(min(clips, len(task.table))), cache=False)
        if number:
            print(way, time.process_time() - cpu, time.perf_counter() - wall, sep=",")
"""  # the first round warms up
CLIPS_HELD = 64 + 16  # decoded ahead, and in a batch


def section(scale: Scale, sounds: Path) -> Section:
    """Measures it.

    Args:
        scale: How much.
        sounds: The folder of the evaluation's clips.
    """
    text = f"""
        CPU time of whole child processes, medians of {scale.start_ups}. The limit of a command is a Python interpreter
        that does nothing; what it would take to import torch and timm stands last.
    """
    return Section(
        "Start-up and memory",
        [Prose(text), _start_ups(scale), first(scale), repeated(sounds), beside(scale, sounds), *_memory(sounds)],
    )


def _start_ups(scale: Scale) -> Table:
    lines = {f"python -c '{code}'": [sys.executable, "-c", code] for code in (PASS, HEAVY)}
    lines |= {" ".join(["uamix-bench", *words]): [sys.executable, "-m", "uamix_bench", *words] for words in COMMANDS}
    spent: dict[str, list[float]] = {name: [] for name in lines}
    warm_up = scale.start_ups > 1  # the first round fills the system's caches, and does not count
    for number in range(scale.start_ups + warm_up):
        for name, line in lines.items():
            taken = _cpu_s(line)
            if number >= warm_up:
                spent[name].append(taken)
    bare, heavy, *ours = lines
    least = np.array(spent[bare])
    rows = []
    for name in (*ours, heavy):
        taken, limit = (tables.milliseconds(float(np.median(side))) for side in (spent[name], least))
        rows.append([name, taken, limit, tables.per_cent(float(np.median(least / spent[name])))])
    return Table(["Start-up", "CPU ms>", "limit>", tables.SHARE], rows)


def first(scale: Scale) -> Table:
    """CPU time of the main job in an empty home, beside one import of torch and the encoder's operations."""
    model = load_model(MODEL, device="cpu")
    heard = [sound for name in MAIN_TASKS for sound in clip_sounds(load_task(name).table)]
    samples = [round(audio.probe(sound).duration_s * SAMPLE_RATE) for sound in heard]
    work = sum(operations(SHAPE, 1 + SHAPE.rows * model.token_columns(count)) for count in samples)
    taken, imported, computed = [], [], []
    for _ in range(scale.start_ups):
        with tempfile.TemporaryDirectory() as home:
            taken.append(_cpu_s([sys.executable, "-m", "uamix_bench", *MAIN_JOB], UAMIX_BENCH_HOME=home))
        imported.append(_cpu_s([sys.executable, "-c", "import torch"]))
        computed.append(work * measure({"product": limits.product()}, 1).median("product"))
    least = np.add(imported, computed)
    shown = [float(np.median(side)) for side in (taken, imported, computed, least)]
    row = [f"uamix-bench {' '.join(MAIN_JOB)}", *map(tables.milliseconds, shown)]
    note = f"""
        The {len(heard):,} clips of the bundled tasks in an empty UAMIX_BENCH_HOME. The limit is one import of torch and
        the encoder's operations at the rate of a matrix product.
    """
    columns = ["First", "CPU ms>", "importing torch>", "operations>", "limit>", "times the limit>"]
    return Table(columns, [[*row, f"{float(np.median(np.divide(taken, least))):.2f}×"]], note=note)


def repeated(sounds: Path) -> Table:
    """CPU time of a command, then of the same and of others that its embeddings answer, in one round."""
    asked = ["fewshot", "-m", MODEL, "-t", str(sounds), "--clip-seconds", str(SECONDS), "--q", "auto"]
    heavy = _cpu_s([sys.executable, "-c", HEAVY])
    rows = []
    for name, change in REPEATED.items():
        taken = _cpu_s([sys.executable, "-m", "uamix_bench", *asked, *change])
        heavy = min(heavy, _cpu_s([sys.executable, "-c", HEAVY]))
        rows.append([name, tables.milliseconds(taken), f"{taken / heavy:.2f}×"])
    rows.append([f"python -c '{HEAVY}'", tables.milliseconds(heavy), "1.00×"])
    note = """
        The whole evaluation's clips and model. Where a result is stored, or the embeddings are, neither torch nor the
        model is loaded: files are looked at, episodes drawn and scored.
    """
    return Table(["Repeated", "CPU ms>", "times importing torch and timm>"], rows, note=note)


def beside(scale: Scale, sounds: Path) -> Table:
    """CPU and wall time of embedding, alone and beside a busy process for each core, by how the cores are shared."""
    count = min(128, 50 * scale.clips_per_class)
    child = [sys.executable, "-c", BESIDE, str(sounds), str(scale.repeats), str(count)]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    found: dict[int, dict[str, list[list[float]]]] = {}
    for others in (0, cores()):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            environment = {**surroundings, "OMP_WAIT_POLICY": "PASSIVE"}  # as the command sets it
            said = subprocess.run(child, env=environment, check=True, capture_output=True, text=True).stdout
        finally:
            for process in busy:
                process.kill()
                process.wait()
        found[others] = {}
        for line in said.splitlines():
            way, *seconds = line.split(",")
            found[others].setdefault(way, []).append([float(each) for each in seconds])
    names = {
        "here": "here: batches at once, a thread each",
        "shared": "all threads share a batch",
        "one thread": "one thread",
    }
    rows: list[list[str | Cell]] = []
    for way, name in names.items():
        row: list[str | Cell] = [name]
        for times in found.values():
            ours, one = np.array(times[way]), np.array(times["one thread"])
            for seconds, ratio in zip(np.median(ours, axis=0), np.median(ours / one, axis=0), strict=True):
                row.append(Cell(tables.significant(float(seconds)), f"({ratio:.2f}×)"))
        rows.append(row)
    title = f"{count} clips, {cores()} cores"
    columns = [title, "alone, CPU s>", "alone, wall s>", "beside, CPU s>", "beside, wall s>"]
    note = f"""
        Clips of the whole evaluation, decoded and embedded by {MODEL}, alone and beside as many busy processes as there
        are cores; in brackets the ratio to one thread. Threads decode besides, on every core, in all three.
    """
    return Table(columns, rows, note=note)


def _cpu_s(line: list[str], **environment: str) -> float:
    """CPU time of a child process, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, capture_output=True, env=os.environ | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _memory(sounds: Path) -> list[Table]:
    if not Path("/proc/self/status").exists():
        return []
    evaluate = f"""
from uamix_bench import Protocol, fewshot, load_model, load_task
model, task = load_model({MODEL!r}, device="cpu"), load_task({str(sounds)!r}, clip_seconds={SECONDS})
fewshot(model, task, Protocol(n_query=min(15, len(task.table) // len(set(task.table["label"])) - 1)), cache=False)
"""
    bare, imported, evaluated = map(_peak_mb, (PASS, HEAVY, evaluate))
    waveforms = CLIPS_HELD * 4 * SECONDS * SAMPLE_RATE / 1e6
    weights = sum(weight.nbytes for weight in load_model(MODEL, device="cpu").parameters()) / 1e6
    needed = imported + weights + waveforms
    share = tables.per_cent(needed / evaluated)
    rows = [
        [f"python -c '{PASS}'", tables.significant(bare), "", ""],
        [f"python -c '{HEAVY}'", tables.significant(imported), "", ""],
        ["the whole evaluation", tables.significant(evaluated), tables.significant(needed), share],
    ]
    note = f"""
        The most that a process holds, in 10^6 bytes. The limit of the evaluation is what its imports hold, the weights,
        and the {CLIPS_HELD} waveforms that are decoded ahead or in a batch.
    """
    return [Table(["Memory", "peak, MB>", "limit>", tables.SHARE], rows, note=note)]


def _peak_mb(code: str) -> float:
    """The peak of a child's resident memory; getrusage's would begin with that of this process."""
    status = "print(open('/proc/self/status').read())"
    line = [sys.executable, "-c", f"{code}\n{status}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(line, check=True, capture_output=True, text=True, env=environment).stdout
    return int(re.search(r"VmHWM:\s*(\d+) kB", found)[1]) * 1_024 / 1e6  # type: ignore[index]
