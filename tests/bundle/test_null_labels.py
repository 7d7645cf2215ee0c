"""Bundles of models with class labels: the label for "no class", and the report's guidance."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import tiny_engines

from diffc.bundle.build import write_bundle
from diffc.bundle.contents import find_contents
from diffc.bundle.readme import plain_readme
from diffc_runtime import open_bundle
from diffc_runtime.loop import Loop


@pytest.fixture(scope="module")
def labelled_out(tmp_path_factory) -> Path:
    """OUT of a DiT with nine classes, whose family says which label means "no class"."""
    folder = tmp_path_factory.mktemp("labelled") / "out"
    engine = folder / "engines" / "ort-cpu" / "compressed"
    tiny_engines.engine_folder(
        engine,
        conditions=True,
        class_name="DiTTransformer2DModel",
        unconditional={"encoder_hidden_states": [[0.0] * 5] * 4},
    )
    config = folder / "model" / "transformer" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"num_embeds_ada_norm": 9}))
    return folder


def test_guidance_leads_away_from_the_familys_null_label(labelled_out, tmp_path):
    write_bundle(labelled_out, tmp_path / "bundle", server="none")
    pipeline = open_bundle(tmp_path / "bundle")
    given = {"class_labels": 3, "encoder_hidden_states": np.ones((4, 5))}
    ours = pipeline.generate(1, 2, 0, guidance=2.5, conditions=given)
    other = pipeline.generate(
        1, 2, 0, guidance=2.5, conditions=given, unconditional={"class_labels": 2}
    )
    named = pipeline.generate(
        1, 2, 0, guidance=2.5, conditions=given, unconditional={"class_labels": 9}
    )
    np.testing.assert_array_equal(ours, named)
    assert np.abs(ours - other).max() > 0.01


@pytest.mark.parametrize("has_model", [True, False])
def test_a_bundle_says_whether_it_samples_with_the_reports_guidance(
    labelled_out, tmp_path, has_model
):
    out = shutil.copytree(labelled_out, tmp_path / "out")
    if not has_model:
        shutil.rmtree(out / "model")
    contents = replace(find_contents(out, None, "compressed"), loop=Loop("ddim", 2, 4.0))
    expected = 4.0 if has_model else 1.0
    assert contents.served_settings()["defaults"] == {"steps": 2, "guidance": expected}
    says = " ".join(plain_readme(contents).split())
    assert ("2 steps, guidance 4. For" in says) is has_model
    assert ("2 steps, without guidance. The report's pictures had guidance 4" in says) is (
        not has_model
    )
