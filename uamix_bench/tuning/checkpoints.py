"""Checkpoints of a training: written atomically, the last two kept, those of another training refused."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uamix_bench.util import files
from uamix_bench.util.errors import UsageError
from uamix_bench.util.progress import Progress

_KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: Folder that holds nothing but these checkpoints.
        identity: Plain data by name (recipe, data, parent) that must be identical to resume a training.
    """

    folder: Path
    identity: dict[str, Any]

    def save(self, stage: int, step: int, state: dict[str, Any]) -> None:
        """Writes a checkpoint from which a stage resumes at a step, and removes all but the last two.

        Raises:
            MachineError: The disk is full; earlier checkpoints are kept.
        """
        buffer = io.BytesIO()
        torch.save({**state, "identity": self.identity, "stage": stage, "step": step}, buffer)
        files.write_atomic(self.folder / f"{stage}-{step:08d}.pt", buffer.getbuffer())
        for old in self._paths()[:-_KEPT]:
            old.unlink(missing_ok=True)

    def newest(self, progress: Progress) -> dict[str, Any] | None:
        """Reads the newest undamaged checkpoint: its state, with ``stage`` and ``step``; None if there is none.

        Raises:
            UsageError: The checkpoint belongs to another training; the line names every difference.
        """
        for path in reversed(self._paths()):
            try:
                with zipfile.ZipFile(path) as archive:
                    if damaged := archive.testzip():  # torch reads flipped bytes without a word
                        raise zipfile.BadZipFile(damaged)
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises many kinds for a damaged file
                progress.say(f"{path.name} is damaged ({type(error).__name__}); trying the one before")
                continue
            refuse_other(self.folder, state["identity"], self.identity)
            return state
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]-????????.pt"))


def refuse_other(folder: Path, saved: dict[str, Any], identity: dict[str, Any]) -> None:
    """Checks that the training in a folder is this one.

    Raises:
        UsageError: It is another training; the line names every difference.
    """
    for what, now in identity.items():
        if saved.get(what) != now:
            changed = ", ".join(differences(saved.get(what), now))
            reason = f"holds a training that differs in {what} ({changed})"
            raise UsageError(folder, reason, "choose another --out, or delete the folder")


def differences(then: Any, now: Any, name: str = "") -> list[str]:
    """Names the differences between two documents of plain data: ``views.stretch was 0.2, is 0.1``."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return [f"{f'{name} ' if name else ''}was {_shown(then)}, is {_shown(now)}"]
    fields = [field for field in {**then, **now} if then.get(field) != now.get(field)]
    prefix = f"{name}." if name else ""
    return [line for field in fields for line in differences(then.get(field), now.get(field), prefix + field)]


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
