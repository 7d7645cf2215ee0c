"""What a recipe says of distillation reaches it, and what it found reaches the report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from support.quick import QUICK

import diffc
from diffc.errors import RequestError
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.importance import gradients
from diffc.report.html import to_html
from diffc.stages.repair import REPAIRED


def weights(out):
    return load_denoiser(find_source(str(out / "model"))).state_dict()


def distilled(model, out, **distill):
    options = {**QUICK, "distill": {**QUICK["distill"], **distill}}
    report = diffc.compile(model, ratio=0.4, out=out, stop="distill", options=options)
    return report, weights(out)


def differ(a, b) -> bool:
    return any(not a[name].equal(b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_cache")
def test_the_feature_loss_is_on_the_plans_channels(tiny_model, tmp_path):
    report, plain = distilled(tiny_model, tmp_path / "a")
    with_features, other = distilled(tiny_model, tmp_path / "b", losses={"features": 0.5})
    assert differ(plain, other)
    losses = [r.distillation["losses"][0][1] for r in (report, with_features)]
    assert losses[1] > losses[0]  # a term more, on the same first batch and weights


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_cache")
def test_low_rank_additions_are_merged_into_an_ordinary_model(tiny_model, tmp_path):
    report, merged = distilled(tiny_model, tmp_path, low_rank={"rank": 2}, steps=20)
    assert report.distillation["is_used"]
    assert "low-rank additions of rank 2 are trained" in report.distillation["notes"][0]
    start = load_denoiser(find_source(str(tmp_path / "pruned"))).state_dict()
    start |= load_torch(tmp_path / ".diffc" / REPAIRED)
    assert list(merged) == list(start)
    changed = {name for name, value in merged.items() if not value.equal(start[name])}
    assert changed and all(start[name].ndim >= 2 for name in changed)
    for name in changed:
        change = (merged[name] - start[name]).flatten(1)
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_cache")
def test_the_quality_curve_is_in_the_report(tiny_model, tmp_path):
    report, _ = distilled(tiny_model, tmp_path / "run", quality_every=2)
    curve = report.distillation["quality"]
    assert [point["step"] for point in curve] == [2, 4]
    assert all(-1 <= point["ssim"] <= 1 for point in curve)
    text = to_html(report, tmp_path / "run")
    assert "SSIM to the dense model by distillation step" in text
    assert f"{curve[0]['ssim']:.3f}" in text
    report.distillation["quality"] = []
    assert "SSIM to the dense model by distillation step" not in to_html(report, tmp_path / "run")


def test_the_recipes_one_seed_is_distillations_too(tiny_model, tmp_path):
    options = {"distill": {"seed": 3}}
    with pytest.raises(RequestError, match=r"unknown key 'distill\.seed'"):
        diffc.compile(tiny_model, ratio=0.4, out=tmp_path / "out", options=options)


RANKING = {**QUICK["prune"]["importance"], "gradient_accumulation": 2}
LESS_MEMORY = {
    "prune": {**QUICK["prune"], "importance": RANKING},
    "distill": {**QUICK["distill"], "gradient_accumulation": 2, "gradient_checkpointing": True},
}


@pytest.mark.usefixtures("compiled_cache")
def test_how_memory_is_used_makes_no_stage_anew(tiny_model, tmp_path):
    _, first = distilled(tiny_model, tmp_path / "a")
    options = {**QUICK, **LESS_MEMORY}
    report = diffc.compile(
        tiny_model, ratio=0.4, out=tmp_path / "b", stop="distill", options=options
    )
    assert all(stage.cached for stage in report.stages)
    assert not differ(first, weights(tmp_path / "b"))


# in a cache of its own: it writes other roundings of a stage there
@pytest.mark.slow
def test_importance_in_pieces_is_the_same_but_for_rounding(tiny_model, tmp_path, monkeypatch):
    def scores(out, **options):
        done = {"ratio": 0.4, "out": out, "stop": "plan", "options": options}
        diffc.compile(tiny_model, **done, fresh=True)
        return load_file(out / ".diffc" / "importance.safetensors")

    whole = scores(tmp_path / "a", **QUICK)
    rows = []
    own = gradients._rows

    def counted(batch, part):
        rows.append(len(own(batch, part)[0]))
        return own(batch, part)

    monkeypatch.setattr(gradients, "_rows", counted)
    pieces = scores(tmp_path / "b", **{**QUICK, **LESS_MEMORY})
    assert set(rows) == {1}  # of micro-batches of 2
    assert all(np.allclose(whole[name], pieces[name], rtol=1e-3) for name in whole)


@pytest.mark.slow
def test_what_a_tracker_wrote_is_left_in_out(tiny_model, tmp_path):
    watched = {"trackers": ["tensorboard"], "checkpoint_every": 1}
    _, first = distilled(tiny_model, tmp_path / "a", **watched)
    (log,) = (tmp_path / "a" / "logs").rglob("events.out.tfevents.*")
    assert log.stat().st_size > 200
    report, second = distilled(tiny_model, tmp_path / "b")  # watching decides nothing
    assert next(stage.cached for stage in report.stages if stage.name == "distill")
    assert not differ(first, second) and not (tmp_path / "b" / "logs").exists()
