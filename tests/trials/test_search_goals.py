"""Goals of a search from end to end."""

from __future__ import annotations

import pytest
from support.pipelines import save_image
from support.toy_search import OPTIONS, VALUES

import diffc


@pytest.mark.slow
def test_a_distance_is_in_multiples_of_the_dense_models_own(tiny_model, tmp_path):
    """An untrained network is far from any images, so that its own distance is sure."""
    data = tmp_path / "images"
    data.mkdir()
    for grey in range(12):
        save_image(data / f"{grey}.png", 20 * grey)
    options = {**OPTIONS, "data": {**OPTIONS["data"], "source": str(data)},
               "quality": {**OPTIONS["quality"], "images": 12}}  # fmt: skip
    values = {**VALUES, "ratio": [0.2], "loop": ["ddim:2"]}
    result = diffc.search(
        tiny_model, out=tmp_path / "out", options=options, max_distance=50, **values
    )
    (one,) = result.candidates
    assert 0 < one.distance <= 50 and one.reaches
    assert one.point.figures["own-frechet"].se > 0
