"""Every stage of every adapter, against committed numbers: so that a change of our numerics is seen on any machine.

What is right was settled by the goldens of the authors' code, which not every machine has; the numbers were written
by adapters that agree with those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from uamix_bench import load_model

from .official import FORMATS, GOLDEN, SOUNDS, checkpoint, stages


@pytest.fixture(scope="module", params=FORMATS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(request.param, checkpoint(request.param, tmp_path_factory.mktemp("official")), device="cpu")


@pytest.mark.parametrize("sound", SOUNDS)
def test_what_we_gave_before(model: Any, sound: str) -> None:
    found = stages(model, SOUNDS[sound]())
    with np.load(GOLDEN) as golden:
        prefix = f"{model.card.name}/{sound}/"
        expected = {key.removeprefix(prefix): golden[key] for key in golden.files if key.startswith(prefix)}
    assert found.keys() == expected.keys()
    error = np.abs(found.pop("frontend") - expected.pop("frontend"))
    assert error.max() < 1e-3
    assert error.mean() < 1e-5
    for stage, value in expected.items():
        assert found[stage].shape == value.shape
        assert np.linalg.norm(found[stage] - value) < 1e-4 * np.linalg.norm(value), stage
