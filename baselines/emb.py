"""Embeddings that were made elsewhere: by a program of another kind, an API, or ``uamix-bench embed``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from uamix_bench.embeddings.table import EmbeddingTable, read_table
from uamix_bench.models.model import AudioModel, GivenRows, Origin
from uamix_bench.models.own_weights import label
from uamix_bench.plugins.card import ModelCard, Segments, read_card
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.files import expanded


class GivenEmbeddings(AudioModel):
    """Embeddings by the ids of clips. Sounds are read at the card's rate, only to tell silent and broken ones."""

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    poolings = ("given",)

    def __init__(self, path: Path, table: EmbeddingTable) -> None:
        super().__init__()
        self.path = path
        self.table = table
        self.embedding_dim = table.vectors.shape[1]
        self._places = {clip: place for place, clip in enumerate(table.clips)}

    @classmethod
    def from_reference(cls, reference: str) -> GivenEmbeddings:
        """Reads a file.

        Raises:
            BadInputError: The file is missing, damaged, or not of the form.
            UsageError: Its ending is neither ``.npz`` nor ``.parquet``.
            MachineError: It cannot be read, or pyarrow is not installed.
        """
        path = expanded(reference)
        model = cls(path, read_table(path))
        model.origin = Origin(label(path, cls.card.name), f"emb:{path.absolute()}", {"": path}, given=True)
        about = model.table.about.get("model")
        maker = about if isinstance(about, dict) else {}
        trained, licence = maker.get("pretrained_on"), maker.get("licence")
        model.state(
            pretrained_on=tuple(one for one in trained if isinstance(one, str)) if isinstance(trained, list) else (),
            licence=licence if isinstance(licence, str) else cls.card.licence,
        )
        return model

    def of_clips(self, clips: Sequence[str], clip_seconds: float, segments: Segments) -> GivenRows:
        """Embeddings of clips by their ids, if they are of the crop that is asked for."""
        asked: dict[str, Any] = {"clip_seconds": clip_seconds, "segments": segments}
        for name, value in asked.items():
            made = self.table.about.get(name, value)
            if made != value:
                option = f"--{name.replace('_', '-')}"
                raise BadInputError(self.path, f"was made with {option} {made}, not {value}", f"give {option} {made}")
        places = np.array([self._places.get(clip, -1) for clip in clips], np.int64)
        found = places >= 0
        vectors = np.zeros((len(clips), self.embedding_dim), np.float32)
        vectors[found] = self.table.vectors[places[found]]
        digests = dict(zip(self.table.clips, self.table.sha256, strict=True)) if self.table.sha256 else {}
        return GivenRows(found, vectors, digests, len(self._places) - len(set(clips) & self._places.keys()))

    def embed(self, waveforms: Sequence[Floats | Tensor], sample_rate: int) -> Floats:
        """Refuses sounds: there is no model here.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"emb:{self.path}", "holds the embeddings of clips, and no model", "use it with fewshot")
