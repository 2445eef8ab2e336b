"""Names of numpy arrays by the type of their values; docstrings give the shapes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.bytes_]  # S32: 32-byte digests
Mask = npt.NDArray[np.bool_]
Samples = Floats  # (n,) of one waveform
