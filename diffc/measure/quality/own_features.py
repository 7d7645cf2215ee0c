"""Features of the dense model itself, for distances between sets of its samples.

    middle_features   samples -> (N, D): the dense model's middle block on them, nearly clean
    own_reference     the features of the samples that others are compared with
    own_features      both sides' features beside them
    GivenRows         the conditions of such a pass

Every model that can be sampled has such features: its family says where the middle block is
(``Family.middle_block``), nothing is downloaded, and no image is resized. A denoiser's inner
activations tell images apart: Xiang et al. 2023 (arXiv 2303.09769) classify by them, at a low noise
level and in the middle of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from diffc.data.batches import run_in_batches
from diffc.data.precision import device_of
from diffc.data.randomness import keyed_noise
from diffc.data.synthetic import Conditioning, condition_rows
from diffc.measure.quality.features import Features, ReferenceFeatures
from diffc.measure.quality.own_distance import NAME, OwnFeatures
from diffc.models.denoiser import Denoiser
from diffc_export.events import Progress, Work

if TYPE_CHECKING:
    from diffc.measure.samples import SamplePair

NOISE_TO_SIGNAL = 0.3
"""The noise level of the calls: standard deviation of the noise over the factor of the sample.

bench/distance.py compares levels, blocks and ways to pool.
"""
KEYS = 11
"""The stream of keys that the calls' noise is drawn from, apart from sampling's and training's."""
SEEN_AT_ONCE = 32
"""Samples that one call works on, where memory has room."""
_DOING = "taking the dense model's own features"


@dataclass(frozen=True)
class GivenRows:
    """The conditions of a pass.

    Attributes:
        rows: Condition -> (N, ...), a row for each sample.
        null: Condition -> (...), the value that means "none". It is taken in the place of the
            rows where the model has one, so that the features depend on the sample alone.
    """

    rows: Mapping[str, Tensor]
    null: Mapping[str, Tensor]

    def of(self, index: range, device: torch.device) -> dict[str, Tensor]:
        """The conditions of some of the samples."""
        values = {}
        for name, rows in self.rows.items():
            part = rows[index.start : index.stop].to(device)
            null = self.null.get(name)
            values[name] = part if null is None else null.to(part).expand_as(part)
        return values


def middle_features(
    dense: Denoiser, samples: Tensor, given: GivenRows, batch: int = SEEN_AT_ONCE
) -> Work[Features]:
    """Features (N, D) of samples: the mean activations of the dense model's middle block.

    Half of the network runs for each sample. Row i is noised by the same noise in every set.

    Args:
        dense: The dense model.
        samples: As the denoiser takes them (N, *sample): latents for a latent model.
        given: A row of conditions for each.
        batch: How many at a time; halved where memory has no room.

    Raises:
        NoMiddle: The network has no middle block, or its call does not run it.
    """
    model, device = dense.model, device_of(dense.model)
    name, level = dense.family.middle_block(model), _level(dense)
    if name is None:
        raise NoMiddle
    block = model.get_submodule(name)
    was_training = model.training
    model.eval()

    def part(rows: range) -> Work[Features]:
        some = samples[rows.start : rows.stop].float()
        noise = keyed_noise(((0, KEYS, i) for i in rows), some.shape[1:])
        t = torch.full((len(some),), level)
        noisy = dense.noised(some.to(device), noise.to(device), t, given.of(rows, device))
        noisy["timestep"] = noisy["timestep"].to(device)
        output = output_of(block, lambda: dense.call(noisy))
        yield Progress(rows.stop, len(samples), _DOING)
        return dense.family.middle_features(output).double().cpu().numpy()

    try:
        parts = yield from run_in_batches(len(samples), batch, part, _DOING)
    finally:
        model.train(was_training)
    return np.concatenate(parts)


def own_reference(
    dense: Denoiser, samples: Tensor, given: GivenRows, *, of: str, digest: str
) -> Work[ReferenceFeatures]:
    """The features of the samples that others are compared with.

    Args:
        dense: The dense model.
        samples: As the denoiser takes them, (M, *sample).
        given: A row of conditions for each.
        of: What the samples are, in words.
        digest: The hash of the dense model.
    """
    features = yield from middle_features(dense, samples, given)
    block = dense.family.middle_block(dense.model)
    return ReferenceFeatures(features, f"{NAME} ({block})", digest, of)


def own_features(
    dense: Denoiser, pair: SamplePair, given: Conditioning, reference: ReferenceFeatures
) -> Work[OwnFeatures]:
    """Both sides' features beside the reference's.

    Args:
        dense: The dense model.
        pair: Samples as the denoiser gives them.
        given: The conditions that they were made under.
        reference: As ``own_reference`` gives it.

    Raises:
        NoMiddle: As ``middle_features`` says.
    """
    rows = given_rows(dense, range(len(pair.dense)), given, pair.seed)
    ours = yield from middle_features(dense, pair.dense, rows)
    theirs = yield from middle_features(dense, pair.compressed, rows)
    return OwnFeatures(ours, theirs, reference)


def given_rows(dense: Denoiser, index: range, given: Conditioning, seed: int) -> GivenRows:
    """The rows of these samples' conditions, as sampling takes them."""
    rows = condition_rows(index, dense.specs, given.rows, dense.class_count, seed)
    return GivenRows(rows, given.null)


def _level(dense: Denoiser) -> int:
    """The training timestep whose noise is nearest to ``NOISE_TO_SIGNAL``."""
    process = dense.process
    ratio = process.noise / process.signal.clamp_min(1e-12)
    return int((ratio - NOISE_TO_SIGNAL).abs().argmin())


class NoMiddle(Exception):
    """A network without a middle block that its calls run, of a class from elsewhere."""


class _Reached(Exception):
    """The middle block has run; the rest of the network need not."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output


def output_of(block: nn.Module, call: Callable[[], Tensor]) -> object:
    """What ``block`` gives back within ``call``, which ends there.

    Args:
        block: A module of the network.
        call: Calls the network; without gradients.

    Raises:
        NoMiddle: The call ended without it.
    """

    def leave(module: nn.Module, inputs: object, output: object) -> NoReturn:
        raise _Reached(output)

    handle = block.register_forward_hook(leave)
    try:
        with torch.no_grad():
            call()
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise NoMiddle
