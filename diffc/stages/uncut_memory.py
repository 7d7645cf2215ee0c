"""What the networks that are not cut need of memory: text encoders, and the parts of the VAE.

    uncut_names    the networks that a run exports beside the denoisers
    uncut_parts    each of them: its parameters, and what its calls take
    prompt_bytes   what encoding the prompts of the data takes

Calls are counted on tensors without memory, as those of the denoisers are (call_memory.py);
bench/full_size.py compares them (``sd15-parts``). Exports read the weights where they lie.
Attention of text encoders is counted as the exporter traces it, with its scores; encoding prompts
may take less.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from diffc.errors import DiffcError
from diffc.models.source import Source
from diffc.output import DECODER, MASKED_DECODER, VAE_ENCODER
from diffc.recipe import Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.stage_inputs import RunShape
from diffc.stages.decoder import decoder_stage, vae_kind
from diffc.stages.masked_decoder import masked_decoder_stage
from diffc.stages.text import text_stage
from diffc.stages.vae_encoder import vae_encoder_stage
from diffc_export.cache import cached_json
from diffc_export.specs import TensorSpec
from diffc_runtime.machine.cpu import cpu_fingerprint
from diffc_runtime.machine.packages import version as package_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from diffc.models.without_memory import WithoutMemory
    from diffc_runtime.prompt_plan import PromptPlan

VAE_PARTS = (DECODER, VAE_ENCODER, MASKED_DECODER)
"""The networks that are parts of the VAE; the others are text encoders."""
_VERSION = 3
"""Raised whenever the count changes."""


@dataclass(frozen=True)
class UncutPart:
    """A network that is exported and built beside the denoisers.

    Attributes:
        parameters: Of its graph.
        export_calls: Bytes of the largest call by which it is exported.
        engine_calls: Bytes of a call of its engine in the largest batch.
        scored_calls: The same, by a runtime that has attention's scores in memory.
        compared: Whether its engine is compared with torch when it is built.
        tensors: How many tensors the parameters are in.
    """

    parameters: int
    export_calls: int = 0
    engine_calls: int = 0
    compared: bool = True
    tensors: int = 0
    scored_calls: int = 0


def uncut_names(source: Source, recipe: Recipe) -> list[str]:
    """The networks that a run exports beside the denoisers, by their folders of OUT/onnx."""
    stages = {
        DECODER: decoder_stage,
        VAE_ENCODER: vae_encoder_stage,
        MASKED_DECODER: masked_decoder_stage,
    }
    names = [name for name, stage in stages.items() if stage(source, recipe) is not None]
    if text_stage(source, recipe) is None:
        return names
    plan = _prompt_plan(source, recipe)
    return names if plan is None else [*names, *plan.encoders]


def _prompt_plan(source: Source, recipe: Recipe) -> PromptPlan | None:
    from diffc.models.texts.pipelines import find_texts

    return find_texts(source, RunShape.of(recipe).specs(source)).plan


def uncut_parts(source: Source, recipe: Recipe, *, count: bool = True) -> dict[str, UncutPart]:
    """The networks that a run exports beside the denoisers, from the cache where they are counted.

    Args:
        source: The model; no weights are read.
        recipe: Every option.
        count: False counts nothing anew, and imports no PyTorch: of what was not counted before,
            the files' headers say how many parameters there are.
    """
    parts = {}
    for name in uncut_names(source, recipe):
        answer = partial(_count, source, recipe, name) if count else _nothing
        sizes = _elements(source, name)
        known = UncutPart(sum(sizes), compared=name != DECODER, tensors=len(sizes))
        with suppress(LookupError):
            counted = cached_json("uncut-memory", _key(source, recipe, name), answer, dict)
            if counted:
                known = UncutPart(**counted)
        parts[name] = known
    return parts


def prompt_bytes(place: WithoutMemory, source: Source, recipe: Recipe) -> int:
    """What encoding the prompts of the data takes: the largest call of an encoder.

    On a GPU the weights are there as well; on the CPU they stay in their files.

    Args:
        place: Where to count.
        source: The model.
        recipe: Every option.
    """
    from diffc.data.prompts import PROMPTS_AT_ONCE, text_elements
    from diffc.models.dry_run import FAILURES

    calls, plan = [0], _prompt_plan(source, recipe)
    for name in plan.encoders if plan is not None else ():
        with suppress(*FAILURES, DiffcError):  # of a class that shapes alone cannot run
            calls.append(_text_work(source, recipe, name).bytes_of(place, PROMPTS_AT_ONCE))
    weights = 0 if place.device.type == "cpu" else WEIGHT_BYTES * text_elements(source)
    return weights + max(calls)


def _nothing() -> dict[str, int]:
    raise LookupError


def _elements(source: Source, name: str) -> list[int]:
    """Of each tensor of the component's files; of pickles none."""
    part = source.vae if name in VAE_PARTS else None
    part = part or source.find_component(name)
    return [] if part is None else [entry.elements for entry in part.tensors().values()]


def _key(source: Source, recipe: Recipe, name: str) -> str:
    """A hash of all that a part's count follows from."""
    from diffc.stages.preflight import model_key

    value = [
        _VERSION,
        name,
        model_key(source, Recipe()),
        RunShape.of(recipe).keyed(),
        recipe.export.model_dump(mode="json"),
        _rows(recipe),
        cpu_fingerprint(),
        package_version("torch"),
    ]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _rows(recipe: Recipe) -> int:
    """Of the largest call of an engine."""
    return max(max(recipe.build.of(name).batch) for name in recipe.build.target)


def _count(source: Source, recipe: Recipe, name: str) -> dict[str, int]:
    """The fields of a part; nothing of a class that shapes alone cannot run."""
    from diffc.models.dry_run import FAILURES

    with suppress(*FAILURES, DiffcError):
        is_text = name not in VAE_PARTS
        work = _text_work(source, recipe, name) if is_text else _vae_work(source, recipe, name)
        return asdict(work.part(_rows(recipe)))
    return {}


@dataclass(frozen=True)
class _Work:
    """A network on the meta device, and how it is called.

    Attributes:
        model: The network.
        call: Runs it.
        specs: Its inputs.
        modules: The names of the modules that its graph has; None for all.
        reference: The rows that torch computes at the export.
        compared: Whether its engine is compared with torch.
    """

    model: nn.Module
    call: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    specs: Sequence[TensorSpec]
    modules: Sequence[str] | None
    reference: int
    compared: bool

    def part(self, rows: int) -> UncutPart:
        """What it takes.

        Args:
            rows: Of a call of its engine.
        """
        import torch

        from diffc.models.without_memory import WithoutMemory, with_scores

        place = WithoutMemory(torch.device("cpu"))
        names = [name for name, _ in self.model.named_children()]
        own = names if self.modules is None else [one for one in names if one in self.modules]
        parameters = {
            id(value): value.numel()
            for name in own
            for value in self.model.get_submodule(name).parameters()
        }
        with with_scores():
            scored = self.bytes_of(place, rows)
        return UncutPart(
            sum(parameters.values()),
            self.bytes_of(place, self.reference),
            self.bytes_of(place, rows),
            self.compared,
            len(parameters),
            scored,
        )

    def bytes_of(self, place: WithoutMemory, rows: int) -> int:
        """What a call of so many rows takes."""
        place.network(self.model, trained=False)
        inputs = place.inputs(self.specs, rows)
        return place.peak_of_call(lambda: self.call(self.model, inputs))


def _vae_work(source: Source, recipe: Recipe, name: str) -> _Work:
    from diffc.data.latents import pixel_shape
    from diffc.models import vae_encoder
    from diffc.models.cut import skeleton
    from diffc.models.families.base import sample_shape
    from diffc.stages.masked_decoder import REFERENCE_ROWS, masked_specs

    part, known = source.vae, vae_kind(source)
    assert part is not None
    model = skeleton(part.class_name, part.config)
    specs = RunShape.of(recipe).specs(source)
    largest = max(recipe.export.sizes, default=None)
    latent = sample_shape(specs)
    latent = (latent[0], *(largest or latent[-2:]))
    if name == VAE_ENCODER:
        pictures = [TensorSpec("sample", pixel_shape(source, latent), kind="sample")]
        modules = ("encoder", "quant_conv")
        rows = vae_encoder.REFERENCE_ROWS
        return _Work(model, known.encode, pictures, modules, rows, compared=True)
    modules, latents = ("decoder", "post_quant_conv"), TensorSpec("sample", latent, kind="sample")
    if name == DECODER:
        return _Work(model, known.decode, [latents], modules, 1, compared=False)
    masked = [latents, *masked_specs(pixel_shape(source, latent))]
    return _Work(model, known.decode_masked, masked, modules, REFERENCE_ROWS, compared=True)


def _text_work(source: Source, recipe: Recipe, name: str) -> _Work:
    from diffc.models.texts.export import REFERENCE_ROWS, meta_text_encoder

    plan = _prompt_plan(source, recipe)
    assert plan is not None
    encoder = meta_text_encoder(source, name, plan.encoders[name], plan.parts_of(name))
    specs = encoder.specs()
    return _Work(encoder.model, encoder.call, specs, None, REFERENCE_ROWS, compared=True)
