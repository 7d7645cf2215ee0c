"""The benchmark of width, depth and both: trained by the clock, stopped and gone on with."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from bench import transformer
from bench.held_out import IMAGES
from diffc.data.clean import CleanSet
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.load import load_denoiser
from diffc.models.source import find_source


class Clock:
    """In the place of the processor's: a step takes a second, and now and then time is over."""

    def __init__(self, stop: int | None = None) -> None:
        self.reads, self.stop = 0, stop

    def __call__(self) -> float:
        self.reads += 1
        if self.reads == self.stop:
            raise KeyboardInterrupt
        return float(self.reads)


def train(folder, monkeypatch, clock) -> tuple[dict, dict[str, torch.Tensor], list[float]]:
    """Eight seconds of training of a tiny DiT: facts, weights, rates."""
    from diffusers import DiTTransformer2DModel

    monkeypatch.setattr(transformer.time, "process_time", clock)
    monkeypatch.setattr(transformer, "CHECKPOINT_SECONDS", 0.0)
    rates: list[float] = []
    torch.manual_seed(0)
    size = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    model = DiTTransformer2DModel(**{**transformer.CONFIG, **size, "sample_size": 8})
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    clean = CleanSet(images, {transformer.LABELS: torch.arange(6)}, "")
    options = transformer.DENSE_TRAINING.model_copy(update={"batch": 2})
    pair = ModelPair(
        denoiser_of(model, family(transformer.CLASS_NAME), transformer.SCHEDULER), model
    )
    one_step = transformer.one_step

    def watched(run):
        yield from one_step(run)
        rates.append(run.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(transformer, "one_step", watched)
    try:
        facts = transformer.train_for(8.0, AllSteps(pair, clean, options), model, folder)
    finally:
        monkeypatch.setattr(transformer, "one_step", one_step)
    return facts, model.state_dict(), rates


def test_training_ends_with_its_seconds_and_a_stopped_one_goes_on(tmp_path, monkeypatch):
    facts, weights, rates = train(tmp_path / "whole", monkeypatch, Clock())
    assert (facts["steps"], facts["seconds"]) == (8, 8.0)
    top = transformer.DENSE_TRAINING.learning_rate
    assert max(rates) == pytest.approx(top, rel=0.1) and rates[-1] < 0.1 * top
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", monkeypatch, Clock(stop=8))  # in the fourth step
    again, resumed, rest = train(tmp_path / "stopped", monkeypatch, Clock())
    assert (again["steps"], len(rest)) == (8, 5)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.fixture
def data(tmp_path):
    random, sets = np.random.default_rng(0), {}
    for split in ("train", "test"):
        sets[split] = random.integers(0, 256, (IMAGES, 32, 32, 1), np.uint8)
        sets[f"{split}_labels"] = np.arange(IMAGES) % transformer.CLASSES
    np.savez(tmp_path / "data.npz", **sets)
    return tmp_path / "data.npz"


@pytest.mark.slow
def test_every_row_is_cut_trained_and_measured(tmp_path, data, monkeypatch, capsys):
    work, out = tmp_path / "work", tmp_path / "transformer.json"
    given = ["--data", data, "--small", "--dense-seconds", 1, "--seconds", 1, "--work", work,
             "--out", out]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["transformer", *map(str, given)])
    monkeypatch.setenv("DIFFC_CACHE", "")  # which main sets
    threads = torch.get_num_threads()
    try:
        transformer.main()
    finally:
        torch.set_num_threads(threads)
    results = json.loads(out.read_text())
    rows = results["rows"]
    assert list(rows) == ["dense", *transformer.ROWS] and results["complete"]
    assert list(results["further"]) == ["width", "depth", "torch-pruning"]
    dense, both = rows["dense"], rows["width+depth"]
    for name in transformer.ROWS:
        row = rows[name]
        assert row["macs"] < dense["macs"] and row["parameters"] < dense["parameters"], name
        assert row["training"]["steps"] > 0 and row["training"]["seconds"] >= 1, name
        assert row["frechet"]["n"] == 16 and row["ssim"]["mean"] < 1, name
        assert row["held_out"] != row["held_out_before_training"], name
    assert dense["ssim"]["mean"] == 1 and dense["latency_left"]["median"] == 1
    depth = rows["depth"]["cut"]["kept"]
    assert depth and all(kept == 0 for kept, _ in depth.values()), "whole branches alone"
    assert all(kept for kept, _ in rows["width"]["cut"]["kept"].values()), "no branch"
    further = results["further"]["width"]["value"]
    assert further == pytest.approx(rows["width"]["frechet"]["value"] - both["frechet"]["value"])
    assert "| torch-pruning |" in capsys.readouterr().out
    trained = next(work.glob("*-small/torch-pruning-1/model"))
    assert load_denoiser(find_source(str(trained))) is not None
