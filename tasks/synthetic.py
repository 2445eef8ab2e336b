"""Synthetic: the bundled task, whose clips are generated on first use."""

from __future__ import annotations

import os
from pathlib import Path

from uamix_bench.data.clip_table import COLUMNS, ClipTable
from uamix_bench.data.task import Task
from uamix_bench.plugins.card import TaskCard, read_card
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import cores

from . import synthesis

CLIPS_PER_CLASS = {"train": 50, "valid": 40, "test": 40}
_CHUNK = 50
_WORTH_PROCESSES = 300  # fewer clips than this are rendered sooner than a worker starts


class Synthetic(Task):
    """Lists ``synthetic-<version>/<clip>``, clip ``{split}/{label}/{index:03d}.wav``, and renders on demand."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)

    def clips(self, root: Path) -> ClipTable:
        """Lists all clips, whether or not their files exist yet; each is its own group."""
        folder = str(root / f"synthetic-{synthesis.VERSION}")
        of_class = [(split, made.label, n) for split, n in CLIPS_PER_CLASS.items() for made in synthesis.classes(split)]
        clips = [f"{split}/{label}/{index:03d}.wav" for split, label, n in of_class for index in range(n)]
        columns = (
            clips,
            [f"{folder}{os.sep}{clip}" for clip in clips],
            [label for _, label, n in of_class for _ in range(n)],
            clips,
            [split for split, _, n in of_class for _ in range(n)],
        )
        return ClipTable(dict(zip(COLUMNS, columns, strict=True)))

    def locate(self, data_dir: Path) -> Path:
        """Returns the folder that the clips go to, which need not exist."""
        return data_dir / self.card.name

    def materialise(self, rows: ClipTable, progress: Progress = SILENT) -> None:
        """Renders the files of `rows` that are missing; each appears whole or not at all.

        Args:
            rows: Rows of the clip table of `clips`.
            progress: Progress display.

        Raises:
            MachineError: A file cannot be written.
        """
        pairs = zip(rows["clip"], rows["path"], strict=True)
        missing = [(clip, path) for clip, path in pairs if not _is_whole(Path(path))]
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        if not chunks:
            return
        workers = min(cores(), len(chunks))
        with progress.bar("synthetic sounds", len(missing)) as advance:
            if workers == 1 or len(missing) < _WORTH_PROCESSES:
                for chunk in chunks:
                    advance(synthesis.write(chunk), "")
                return
            from joblib import Parallel, delayed

            # joblib's workers neither inherit the locks of our threads, as a forked child would, nor run the
            # caller's script again, as a spawned one does where it has no main guard.
            pool = Parallel(workers, return_as="generator_unordered")
            for written in pool(delayed(synthesis.write)(chunk) for chunk in chunks):
                advance(written, "")


def _is_whole(path: Path) -> bool:
    """True if a clip's file exists and is not empty, as a power cut leaves it."""
    return path.exists() and path.stat().st_size > 0
