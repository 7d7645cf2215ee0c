"""The published rules, against torch-pruning's own importances and the published stopping rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_pruning as tp
from support.quick import QUICK_IMPORTANCE
from support.timesteps import first_timesteps

from diffc.prune.importance import importance, reference
from diffc.prune.importance.gradients import draw_batch
from diffc.recipe import ImportanceSection
from diffc_export.events import drain

QUICK = ImportanceSection(**QUICK_IMPORTANCE)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reference", "taylor", "magnitude"])
def test_scores_are_torch_prunings(subject, method):
    options = QUICK.model_copy(update={"method": method, "threshold": 0.9})
    subject = first_timesteps(subject, 60)  # the oracle sums the same gradients over any number
    scores = drain(importance(subject, options, 0)).scores  # leaves its gradients in the model
    theirs = {
        "reference": tp.importance.GroupTaylorImportance(multivariable=False, normalizer=None),
        "taylor": tp.importance.GroupTaylorImportance(multivariable=True, normalizer=None),
        "magnitude": tp.importance.GroupMagnitudeImportance(p=2, normalizer=None),
    }[method]
    model = subject.denoiser.model
    for parameter in model.parameters():  # torch-pruning cannot score a layer without one
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    inputs = {"sample": torch.zeros(1, 1, 16, 16), "timestep": torch.zeros(1, dtype=torch.long)}
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
    compared = 0
    for group in subject.groups:
        layer = dict(model.named_modules()).get(group.name)
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        cut = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(group.size)))
        expected = theirs(cut).detach().double().numpy()
        assert np.allclose(scores[group.name], expected, rtol=1e-4, atol=1e-12), group.name
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize(
    ("losses", "threshold", "used"),
    [
        ([1.0, 0.5, 0.2, 0.06, 0.04, 0.9], 0.05, 5),  # the failing step is counted in
        ([0.5, 1.0, 0.3, 0.09, 0.2], 0.1, 4),  # against the largest so far
        ([0.1, 0.2, 0.3, 0.4], 0.05, 4),  # a loss that rises never stops
    ],
)
def test_the_prefix_ends_with_the_first_loss_below_the_threshold(
    subject,
    monkeypatch,
    losses,
    threshold,
    used,
):
    calls = []

    def backward(subject, batch, *, accumulate=False):
        calls.append((int(batch[2][0]), accumulate))
        return losses[len(calls) - 1]

    few = first_timesteps(subject, len(losses))
    monkeypatch.setattr(reference, "backward", backward)
    monkeypatch.setattr(reference, "slice_sums", lambda subject, absolute=False: [])
    options = ImportanceSection(method="reference", threshold=threshold, batch=2)
    found = drain(importance(few, options, 0))
    assert calls == [(t, t > 0) for t in range(used)]
    assert found.why["passes"] == used and found.why["chosen_t"] == [[0, used - 1]]


def test_one_batch_and_one_noise_serve_every_timestep(subject):
    first, second = (draw_batch(subject, t, 2, (0, 0)) for t in (3, 900))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
