"""What a step trains on: keyed, covering the data, the same however it is split."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_training

from diffc.data.clean import CleanSet
from diffc.distill.draw import draw_batch

EVEN = torch.full((1000,), 1e-3, dtype=torch.float64)


def numbered(n: int) -> CleanSet:
    """Sample i is the number i, with a condition of the same value."""
    values = torch.arange(float(n)).reshape(n, 1, 1, 1)
    return CleanSet(values, {"label": torch.arange(n)}, "numbers")


def rows_of(clean: CleanSet, step: int, **changes) -> list[int]:
    options = tiny_training.options(**changes)
    batch = draw_batch(clean, options, EVEN, step, range(options.batch))
    assert batch.clean.flatten().tolist() == batch.conditions["label"].tolist()
    return batch.conditions["label"].tolist()


@given(n=st.integers(1, 30), batch=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_every_epoch_sees_every_sample_once(n: int, batch: int) -> None:
    steps = -(-2 * n // batch)
    seen = [row for step in range(steps) for row in rows_of(numbered(n), step, batch=batch)]
    assert sorted(seen[:n]) == sorted(seen[n : 2 * n]) == list(range(n))


@given(world=st.sampled_from([1, 2, 3, 6]), step=st.integers(0, 5), pieces=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_shares_and_pieces_add_up_to_the_batch(world: int, step: int, pieces: int) -> None:
    options, clean = tiny_training.options(batch=12), numbered(7)
    whole = draw_batch(clean, options, EVEN, step, range(12))
    share = 12 // world
    parts = [
        piece
        for rank in range(world)
        for piece in draw_batch(
            clean, options, EVEN, step, range(rank * share, (rank + 1) * share)
        ).pieces(pieces)
    ]
    for name in ("clean", "noise", "t"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))
    labels = torch.cat([p.conditions["label"] for p in parts])
    assert torch.equal(labels, whole.conditions["label"])


def test_strata_cover_the_timesteps() -> None:
    batch = draw_batch(numbered(3), tiny_training.options(batch=20), EVEN, 4, range(20))
    assert sorted((batch.t // 50).tolist()) == list(range(20))


def test_t_is_drawn_by_its_density() -> None:
    density = torch.tensor([0.5, 0.0, 0.125, 0.375], dtype=torch.float64)
    for kind, slack in (("stratified", 0), ("uniform", 60)):
        options = tiny_training.options(batch=800, timesteps=kind)
        t = draw_batch(numbered(3), options, density, 0, range(800)).t
        counts = torch.bincount(t, minlength=4) - torch.tensor([400, 0, 100, 300])
        assert counts.abs().max() <= slack and counts[1] == 0


def test_uniform_timesteps_are_uniform() -> None:
    options = tiny_training.options(batch=64, timesteps="uniform")
    t = torch.cat([draw_batch(numbered(3), options, EVEN, s, range(64)).t for s in range(60)])
    assert t.min() >= 0 and t.max() < 1000
    assert abs(t.float().mean() - 499.5) < 20  # four standard errors


def test_steps_rows_and_seeds_have_their_own_noise() -> None:
    clean = numbered(3)
    noises = [
        draw_batch(clean, tiny_training.options(), EVEN, step, range(4), seed=seed).noise.flatten()
        for seed in (0, 1)
        for step in (0, 1)
    ]
    assert len(torch.cat(noises).unique()) == 16


def test_null_conditions_replace_their_share() -> None:
    clean, options = numbered(5), tiny_training.options(batch=64, null_share=0.25)
    null = {"label": torch.tensor(99)}
    dropped = [
        (draw_batch(clean, options, EVEN, s, range(64), null).conditions["label"] == 99).float()
        for s in range(30)
    ]
    assert abs(torch.cat(dropped).mean() - 0.25) < 0.04
    part = draw_batch(clean, options, EVEN, 0, range(16, 32), null).conditions["label"] == 99
    assert torch.equal(part.float(), dropped[0][16:32])
