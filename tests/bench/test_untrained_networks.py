"""Networks that nobody trained, in the benchmarks of peers and of plans by latency."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import latency_plans
from bench.peers import __main__ as peers
from bench.peers import models
from bench.peers.figures import is_trained
from bench.peers.subject import Subject
from diffc.models.diffusion import process_from_scheduler

TINY = {
    "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 2, "patch_size": 2,
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_embeds_ada_norm": 10,
}  # fmt: skip


@pytest.fixture
def subject(tmp_path, monkeypatch) -> Subject:
    monkeypatch.setitem(models.MODELS, "dit", ("DiTTransformer2DModel", TINY))
    args = argparse.Namespace(work=tmp_path, cifar=None, allocate="uniform", threads=1)
    return Subject(args, "dit")


def test_a_transformer_whose_last_layer_was_fitted_denoises(subject) -> None:
    inputs = subject.family, subject.specs, subject.source.config
    clean = models.smooth_set(*inputs[1:], 8)
    process = process_from_scheduler(models.SCHEDULER)
    t = torch.linspace(0, len(process) - 1, 8).long()
    noise = torch.randn(clean.sample.shape, generator=torch.Generator().manual_seed(7))
    given = {"sample": process.noised(clean.sample, noise, t), "timestep": process.time(t)}
    with torch.no_grad():
        output = subject.family.call(subject.dense, {**given, **clean.conditions})
        assert float((output - noise).square().mean()) < 0.6
        last = models.last_layer(subject.dense)
        hook = last.register_forward_hook(lambda *_: models.tiles(noise, TINY["patch_size"]))
        output = subject.family.call(subject.dense, {**given, **clean.conditions})
        hook.remove()
    assert torch.equal(output, noise), "tiles are laid out as the last layer's outputs"
    assert not is_trained(argparse.Namespace(cifar="folder"), "dit")


def test_a_transformer_loses_half_of_its_macs_by_both_pruners(subject) -> None:
    from bench.peers.subject import macs_of

    for model in (subject.ours(), subject.stock()):
        assert 0.4 < macs_of(subject, model) / subject.macs["dense"] < 0.7


def test_one_model_alone_leaves_the_sections_of_others(tmp_path, monkeypatch) -> None:
    out = tmp_path / "peers.json"
    out.write_text(json.dumps({"optimum": "", "sections": {"cifar, batch 1": {"mine": 1}}}))
    given = ["--work", tmp_path, "--models", "dit", "--batch", 1, "--threads", 1, "--out", out]
    monkeypatch.setattr(sys, "argv", ["peers", *map(str, given)])
    ran = []
    monkeypatch.setattr(
        peers, "section", lambda _, *key: ran.append(key) or {"figures": {}, "mine": 2}
    )
    threads = torch.get_num_threads()
    try:
        peers.main()
    finally:
        torch.set_num_threads(threads)
    sections = json.loads(out.read_text())["sections"]
    assert ran == [("dit", 1)]
    assert {key: one["mine"] for key, one in sections.items()} == {
        "cifar, batch 1": 1, "dit, batch 1": 2,
    }  # fmt: skip


def test_a_plan_of_a_network_that_nobody_trained_has_no_errors(subject, monkeypatch) -> None:
    model = latency_plans.Model("dit", argparse.Namespace(work=subject.args.work, engines=[],
                                                          tables="ort-cpu"))  # fmt: skip
    whole = SimpleNamespace(macs=100.0)
    plan = SimpleNamespace(
        keep=dict, compressed=SimpleNamespace(macs=50.0), dense=whole, left_out=(), units=(),
        why={"latency": {"predicted": 0.55}},
    )  # fmt: skip
    monkeypatch.setattr(model, "plan", lambda *_: plan, raising=False)
    one = latency_plans.row(model, "width", 0.4)
    assert [one[name] for name in latency_plans.ERRORS] == [None] * len(latency_plans.ERRORS)
    one["speedup"] = {"ort-cpu": latency_plans.speedup(1.6, (1.5, 1.7), 0.5)}
    assert one["speedup"]["ort-cpu"]["saved"]["median"] == pytest.approx(0.75)
    study = {"models": {"dit": {"width 0.4": one}}, "ratio": 0.5, "environment": None,
             "date": "2026-11-29"}  # fmt: skip
    assert "| dit | width 0.4 | 0.550 | 0.00 |  |  |  | 0.800 |" in latency_plans.table(study)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    from page_plans import latency_plans as section

    text = "\n".join(section(study))
    assert "Nobody trained dit: their errors would say nothing." in text
    assert "1.60x [1.50, 1.70], 0.800 [0.750, 0.850], 0.750 [0.667, 0.824] |" in text


@pytest.mark.slow
def test_plans_of_an_untrained_network_are_made_and_timed(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(models.MODELS, "dit", ("DiTTransformer2DModel", TINY))
    monkeypatch.setenv("DIFFC_CACHE", "")  # which main sets
    out = tmp_path / "plans.json"
    given = ["--models", "dit", "--extra", 0.4, "--rounds", 3, "--work", tmp_path, "--out", out]
    monkeypatch.setattr(sys, "argv", ["latency_plans", *map(str, given)])
    latency_plans.main()
    rows = json.loads(out.read_text())["models"]["dit"]
    assert list(rows) == ["width 0.4", "width,depth 0.4"]
    for row in rows.values():
        assert row["cut"] is None and set(row["speedup"]) == set(latency_plans.TARGETS)
