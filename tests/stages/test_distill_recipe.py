"""What a recipe says of distillation reaches it, and what it found reaches the report."""

from __future__ import annotations

import pytest
from support.quick import QUICK

import diffc
from diffc.errors import RequestError
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.report.html import to_html


def weights(out):
    return load_denoiser(find_source(str(out / "model"))).state_dict()


def distilled(model, out, **distill):
    options = {**QUICK, "distill": {**QUICK["distill"], **distill}}
    report = diffc.compile(model, ratio=0.4, out=out, stop="distill", options=options)
    return report, weights(out)


def differ(a, b) -> bool:
    return any(not a[name].equal(b[name]) for name in a)


@pytest.mark.usefixtures("compiled_cache")
def test_the_feature_loss_is_on_the_plans_channels(tiny_model, tmp_path):
    report, plain = distilled(tiny_model, tmp_path / "a")
    with_features, other = distilled(tiny_model, tmp_path / "b", losses={"features": 0.5})
    assert differ(plain, other)
    losses = [r.distillation["losses"][0][1] for r in (report, with_features)]
    assert losses[1] > losses[0]  # a term more, on the same first batch and weights


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


@pytest.mark.slow
def test_what_a_tracker_wrote_is_left_in_out(tiny_model, tmp_path):
    watched = {"trackers": ["tensorboard"], "checkpoint_every": 1}
    _, first = distilled(tiny_model, tmp_path / "a", **watched)
    (log,) = (tmp_path / "a" / "logs").rglob("events.out.tfevents.*")
    assert log.stat().st_size > 200
    report, second = distilled(tiny_model, tmp_path / "b")  # watching decides nothing
    assert next(stage.cached for stage in report.stages if stage.name == "distill")
    assert not differ(first, second) and not (tmp_path / "b" / "logs").exists()
