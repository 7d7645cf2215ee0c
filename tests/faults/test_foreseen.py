"""What only a later stage needs is refused before the first one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from support.runs import refusal

from diffc.data.image_folders import check_images
from diffc.errors import InputError, RequestError

WRONG_PLANS = [
    ({"widths": {"nosuch*": 8}}, "unknown layer 'nosuch*'"),
    ({"fixed": ["conv_inn"]}, "unknown layer 'conv_inn'"),
    ({"floors": {"mid_blok*": 0.5}}, "unknown layer 'mid_blok*'"),
    ({"widths": {"mid_block*": 100_000}}, "cannot have 100000 channels"),
    ({"ratio": 0.99}, "ratio 0.99 cannot be reached: at most"),
    ({"ratio": 0.9, "ratio_of": "params", "floors": {"*": 0.8}}, "cannot be reached"),
    ({"ratio": 0.5, "fixed": ["*"]}, "cannot be reached: at most 0 can be removed"),
    ({"ratio": 0.99, "allocate": "latency"}, "cannot be reached: at most"),
    ({"rounding": "paper"}, "--rounding paper removes a share of channels"),
]


@pytest.mark.parametrize(("options", "words"), WRONG_PLANS)
def test_a_plan_that_cannot_be(tiny_model, tmp_path, options, words):
    ratio = options.get("ratio", 0.3)
    error = refusal(tiny_model, tmp_path / "o", ratio=ratio, prune={"align": 4, **options})
    assert isinstance(error, RequestError) and words in str(error)
    assert error.hint
    assert not (tmp_path / "o").exists()


def test_reference_images_and_their_features(tiny_model, tmp_path):
    missing = str(tmp_path / "nothing")
    error = refusal(tiny_model, tmp_path / "o", quality={"reference": missing})
    assert str(error) == f"--reference: there is nothing at '{missing}'"
    np.savez(tmp_path / "r.npz", images=np.zeros((4, 16, 16, 1), np.uint8))
    given = {"reference": str(tmp_path / "r.npz"), "features": missing}
    error = refusal(tiny_model, tmp_path / "o", quality=given)
    assert str(error) == f"--features: there is nothing at '{missing}'"
    given["features"] = str(tmp_path)
    error = refusal(tiny_model, tmp_path / "o", quality=given)
    assert "is a folder" in str(error)
    error = refusal(tiny_model, tmp_path / "o", quality={"features": "classifier.onnx"})
    assert "classifier.onnx without --reference" in str(error)
    assert not (tmp_path / "o").exists()


def test_data_that_this_user_may_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"--data: '.*' cannot be read: Permission denied"):
        check_images(tmp_path, "--data")
