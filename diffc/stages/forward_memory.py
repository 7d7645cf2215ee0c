"""What stages that take no gradients need of memory beside the weights, counted without running.

    data_bytes          calls of the dense model that draws samples, or images through the VAE
    reference_bytes     calls of the rows that parity is measured on
    batch_bytes         one call of so many rows
    samples_bytes       calls of both models, and of the VAE that decodes
    trajectories_bytes  calls of the dense model, and the states of a shard
    repair_bytes        the calls that wait in step, and the sums of the widest layer

Calls are made on tensors without memory (diffc/models/without_memory.py). What a repair keeps of a
layer follows from its shape: sums over rows in float64, and what their factorisation takes.
bench/training_memory.py compares each with what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from diffc.recipe import Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.stages.counted_stages import draws_samples
from diffc.stages.uncut_memory import prompt_bytes

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL
    from torch import Tensor

    from diffc.models.denoiser import Denoiser
    from diffc.models.source import Source
    from diffc.models.without_memory import WithoutMemory
    from diffc.prune.repair.layers import Readers

_FLOAT64, _HALF = 8, 2


def data_bytes(
    place: WithoutMemory, dense: Denoiser, source: Source, recipe: Recipe, dtype: torch.dtype
) -> int:
    """What the data stage takes beside the weights of a dense model that draws the samples.

    Clean samples are there twice at the end: as parts and whole, or as they are written. Text
    encoders are gone when the dense model comes.

    Args:
        place: Where to count.
        dense: On the meta device.
        source: The model.
        recipe: Every option.
        dtype: What calls run in.
    """
    from diffc.data.tensors import is_tensors

    data = recipe.data
    kept = data.images * _row_bytes(dense)
    encoders = prompt_bytes(place, source, recipe) if data.prompts is not None else 0
    if draws_samples(data):
        weights = WEIGHT_BYTES * sum(value.numel() for value in dense.model.parameters())
        rows = min(data.batch, data.images)
        drawing = kept + _fast_call_bytes(place, dense, rows, dtype)
        return max(drawing, 2 * kept, encoders - weights)
    if is_tensors(data.source):
        return max(2 * kept, encoders)
    return max(_encoding_bytes(place, dense, source, recipe) + kept, encoders)


def _row_bytes(dense: Denoiser) -> int:
    """A clean sample with its conditions."""
    from diffc.models.families.examples import dtype_of

    rows = [spec for spec in dense.specs if spec.kind != "timestep"]
    return sum(dtype_of(spec).itemsize * math.prod(spec.shape) for spec in rows)


def _encoding_bytes(place: WithoutMemory, dense: Denoiser, source: Source, recipe: Recipe) -> int:
    """The images, and their copies as they are stacked or the VAE with a call of its encoder."""
    import torch

    from diffc.data.latents import VAE_AT_ONCE, pixel_shape, vae_folder
    from diffc.models.cut import skeleton

    shape = pixel_shape(source, dense.sample_shape)
    images = recipe.data.images * WEIGHT_BYTES * math.prod(shape)
    part = source.vae
    if part is None or vae_folder(source) is None:
        return 2 * images
    vae: AutoencoderKL = skeleton(part.class_name, part.config)
    weights: int = WEIGHT_BYTES * sum(value.numel() for value in vae.parameters())
    place.network(vae, trained=False)
    rows = min(VAE_AT_ONCE, recipe.data.images)
    pixels = place.values({"x": (shape, torch.float32)}, rows)["x"]
    encoding: int = place.peak_of_call(lambda: vae.encode(pixels, return_dict=False))
    return images + max(images, weights + encoding)


def reference_bytes(place: WithoutMemory, denoiser: Denoiser) -> int:
    """The largest call at reference inputs, of as many rows as there is room for.

    Args:
        place: Where to count.
        denoiser: On the meta device.
    """
    from diffc.data.activations import activation_bytes
    from diffc.measure.reference import LEVELS, ROOM

    place.network(denoiser.model, trained=False)
    with place.active():
        row = activation_bytes(denoiser, place.inputs(denoiser.specs, 1))
    return _call_bytes(place, denoiser, min(LEVELS, max(1, ROOM // max(row, 1))))


def batch_bytes(
    place: WithoutMemory, denoiser: Denoiser, rows: int, *, scores: bool = False
) -> int:
    """A call without gradients.

    Args:
        place: Where to count.
        denoiser: On the meta device.
        rows: Of the call.
        scores: Whether attention has its scores in memory, (rows, heads, tokens, tokens), as
            runtimes have that know no kernel for the whole of it.
    """
    from diffc.models.without_memory import with_scores

    place.network(denoiser.model, trained=False)
    with with_scores() if scores else nullcontext():
        return _call_bytes(place, denoiser, rows)


def samples_bytes(place: WithoutMemory, dense: Denoiser, source: Source, recipe: Recipe) -> int:
    """The largest call: samples in float32, features of the first half, or the VAE's decoding.

    Args:
        place: Where to count.
        dense: On the meta device; the compressed model takes no more.
        source: The model.
        recipe: Every option.
    """
    from diffc.measure.quality.own_features import SEEN_AT_ONCE, NoMiddle, output_of
    from diffc.measure.samples import SAMPLED_AT_ONCE

    place.network(dense.model, trained=False)
    images = min(SAMPLED_AT_ONCE, recipe.quality.images)
    largest = _call_bytes(place, dense, images)
    middle = dense.family.middle_block(dense.model)
    if middle is not None:
        seen = max(recipe.data.images, recipe.quality.images)
        inputs = place.inputs(dense.specs, min(SEEN_AT_ONCE, seen))
        block = dense.model.get_submodule(middle)
        with suppress(NoMiddle):  # a call that does not run it gives no features
            half = place.peak_of_call(lambda: output_of(block, lambda: dense.call(inputs)))
            largest = max(largest, half)
    return max(largest, _decoding_bytes(place, dense, source, recipe))


def _decoding_bytes(place: WithoutMemory, dense: Denoiser, source: Source, recipe: Recipe) -> int:
    """The VAE's weights, and one call of its decoder; 0 for a model of pixels."""
    import torch

    from diffc.data.latents import VAE_AT_ONCE, vae_folder
    from diffc.models.cut import skeleton

    part = source.vae
    if part is None or vae_folder(source) is None or len(dense.sample_shape) != 3:
        return 0
    vae: AutoencoderKL = skeleton(part.class_name, part.config)
    weights: int = WEIGHT_BYTES * sum(value.numel() for value in vae.parameters())
    place.network(vae, trained=False)
    rows = min(VAE_AT_ONCE, recipe.quality.images)
    latents = place.values({"z": (dense.sample_shape, torch.float32)}, rows)["z"]
    decoding: int = place.peak_of_call(lambda: vae.decode(latents, return_dict=False))
    return weights + decoding


def trajectories_bytes(
    place: WithoutMemory, dense: Denoiser, source: Source, recipe: Recipe, dtype: torch.dtype
) -> int:
    """A call of the dense model in its fast precision, and a shard's states, twice at its end.

    Args:
        place: Where to count.
        dense: On the meta device.
        source: The model.
        recipe: Every option.
        dtype: What calls run in.
    """
    from diffc.data.loops import run_loops
    from diffc.distill.loop.trajectories import MADE_AT_ONCE, SHARD

    count = recipe.distill.loop.trajectories
    calls = _fast_call_bytes(place, dense, min(MADE_AT_ONCE, SHARD, count), dtype)
    one = math.prod(dense.sample_shape)
    states = sum(loop.steps or 1 for loop in run_loops(recipe, source.scheduler).loops)
    kept = 2 * _HALF * min(SHARD, count) * one * states
    return calls + kept


def _fast_call_bytes(place: WithoutMemory, dense: Denoiser, rows: int, dtype: torch.dtype) -> int:
    """A call as sampling makes it: under autocast, with copies of weights in its precision."""
    from diffc.data.precision import autocast

    place.network(dense.model, trained=True)  # so that autocast keeps its copies of weights
    inputs = place.inputs(dense.specs, rows)

    def call() -> Tensor:
        with autocast(place.device, dtype):
            return dense.call(inputs)

    return place.peak_of_call(call)


def repair_bytes(
    place: WithoutMemory, dense: Denoiser, student: Denoiser, readers: Readers, recipe: Recipe
) -> int:
    """The most of what waits, what one layer's change takes, and the new weights until then.

    Args:
        place: Where to count.
        dense: On the meta device.
        student: The cut model, likewise.
        readers: The layers that are mended.
        recipe: Every option.
    """
    from diffc.calibration.noised import NOISED_AT_ONCE, held_out_rows
    from diffc.data.activations import activation_bytes
    from diffc.prune.repair.room import rows_from

    names = list(readers.able)
    if not names:
        return 0
    for one in (dense, student):
        place.network(one.model, trained=False)
    wanted = recipe.repair.rows
    single = place.inputs(dense.specs, 1)
    with place.active():
        each = sum(activation_bytes(one, single) for one in (dense, student))
    rows = rows_from(wanted, each)
    batch = min(NOISED_AT_ONCE, rows - held_out_rows(rows))
    calls = rows / batch
    before_call, theirs = _bytes_at(place, dense, batch, dict.fromkeys(names, False))
    before_own, ours = _bytes_at(place, student, batch, dict.fromkeys(names, True))
    inputs = place.inputs(dense.specs, batch)
    given = sum(value.nbytes for value in inputs.values()) + 4 * batch * math.prod(
        dense.sample_shape
    )
    own = {
        name: WEIGHT_BYTES * sum(v.numel() for v in student.model.get_submodule(name).parameters())
        for name in names
    }
    copies, mended, most = sum(own.values()), 0, 0
    for name in ours:  # in the order in which they run
        mended += own[name]
        waits = calls * (theirs.get(name, 0) + ours[name])
        change = _change_bytes(student.model.get_submodule(name), len(readers.able[name].outputs))
        running = max(before_call - theirs.get(name, 0), before_own - ours[name], change)
        most = max(most, round(waits) + running + mended)
    judging = max(before_call, before_own) + mended
    return round(calls * given) + copies + max(most, judging, 2 * copies)


def _change_bytes(layer: object, outputs: int) -> int:
    """What the change of a layer takes: sums over rows that fit and that judge, in float64.

    Beside these are the matrix with its ridge and its triangle; and products of the size of the
    weights (prune/repair/least_squares.py).
    """
    from diffc.models.layer_rows import Layer, blocks, column_count

    assert isinstance(layer, Layer)
    columns = max(column_count(layer, block) for block in blocks(layer))
    square, product = columns * columns, outputs * columns
    return _FLOAT64 * (4 * square + 6 * product)


def _call_bytes(place: WithoutMemory, denoiser: Denoiser, rows: int) -> int:
    inputs = place.inputs(denoiser.specs, rows)
    return place.peak_of_call(lambda: denoiser.call(inputs))


def _bytes_at(
    place: WithoutMemory, denoiser: Denoiser, rows: int, stops: Mapping[str, bool]
) -> tuple[int, dict[str, int]]:
    """(the most of a call, what is alive at each stop in the order in which they run).

    Args:
        place: Where to count.
        denoiser: There.
        rows: Of the call.
        stops: Name of a module -> whether to look before it runs, and not behind it.
    """
    inputs = place.inputs(denoiser.specs, rows)
    layers = {name: denoiser.model.get_submodule(name) for name in stops}
    return place.bytes_at(lambda: denoiser.call(inputs), layers, stops)
