"""The text encoders of one pipeline: the plan that its denoiser's family states, tried on configs.

Nothing here imports torch: the plan is part of the stages' keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffc.models.components import Component
from diffc.models.families import family
from diffc.models.families.base import PipelineTexts
from diffc.models.inputs import tokenizer_length
from diffc.models.source import Source
from diffc.models.texts import find_kind
from diffc_export.specs import TensorSpec
from diffc_runtime.prompt_plan import MASK, ZEROS, PromptPlan

TEXT = "encoder_hidden_states"
_STAY_OUT = ("safety_checker", "image_encoder", "feature_extractor")
_NO_PROMPTS = "prompts stay with the caller"


@dataclass(frozen=True)
class TextParts:
    """What of a pipeline turns prompts into conditions.

    Attributes:
        plan: How; None where prompts stay with the caller.
        notes: What stays out of the engines, and why.
    """

    plan: PromptPlan | None
    notes: tuple[str, ...] = ()


def find_texts(source: Source, specs: Sequence[TensorSpec]) -> TextParts:
    """Return the plan of a source's pipeline, without the tokenizers' facts.

    Args:
        source: The model.
        specs: The denoiser's inputs.
    """
    parts = {part.name: part for part in source.components}
    encoders = {name: part for name, part in parts.items() if part.is_text_encoder}
    others = [name for name in _STAY_OUT[:2] if name in parts]

    notes = tuple(f"{name} is not exported" for name in others)
    if not source.is_pipeline or not encoders:
        return TextParts(None, notes)
    lacking = [name for name, part in encoders.items() if not part.exists or part.weights is None]
    if lacking:
        return TextParts(None, (*notes, f"{lacking[0]} has no weights here: {_NO_PROMPTS}"))
    for name, part in encoders.items():
        if find_kind(part.class_name) is None:
            why = f"{name} is a {part.class_name}, which diffc does not export: {_NO_PROMPTS}"
            return TextParts(None, (*notes, why))
    plan = family(source.class_name).prompt_plan(_texts_of(source, parts, specs))
    if plan is None:
        return TextParts(None, (*notes, f"{source.class_name} takes no prompts as diffc knows it"))
    reason = _misfit(plan, encoders, parts, specs)
    return (
        TextParts(None, (*notes, f"{reason}: {_NO_PROMPTS}")) if reason else TextParts(plan, notes)
    )


def _texts_of(
    source: Source, parts: Mapping[str, Component], specs: Sequence[TensorSpec]
) -> PipelineTexts:
    shape = next((spec.shape for spec in specs if spec.name == TEXT), ())
    return PipelineTexts(
        config=source.config,
        encoders=tuple(name for name, part in parts.items() if part.is_text_encoder),
        masked={
            name: bool(part.config.get("use_attention_mask"))
            for name, part in parts.items()
            if part.is_text_encoder
        },
        tokenizers={
            name: tokenizer_length(part.folder) for name, part in parts.items() if part.is_tokenizer
        },
        tokens=shape[0] if shape else 0,
        takes=tuple(spec.name for spec in specs if spec.kind == "condition"),
        index=source.index,
    )


def _misfit(
    plan: PromptPlan,
    encoders: Mapping[str, Component],
    parts: Mapping[str, Component],
    specs: Sequence[TensorSpec],
) -> str | None:
    """Return why the plan's conditions are not the denoiser's; None where they are."""
    for use in plan.encoders.values():
        if use.tokenizer not in parts or not parts[use.tokenizer].exists:
            return f"the pipeline has no {use.tokenizer}"
    shapes = condition_shapes(plan, encoders)
    wanted = {spec.name: spec.shape for spec in specs}
    for name, shape in shapes.items():
        if shape != wanted.get(name):
            return (
                f"the text encoders give '{name}' {shape}, and the engines take {wanted.get(name)}"
            )
    return None


def condition_shapes(
    plan: PromptPlan, encoders: Mapping[str, Component]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a plan's conditions, without the batch, from the encoders' configs."""
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for name, use in plan.encoders.items():
        part, kind = encoders[name], find_kind(encoders[name].class_name)
        assert kind is not None
        for output, shape in kind.parts(part.class_name, part.config, use.length).items():
            shapes[name, output] = shape
        shapes[name, MASK] = (use.length,)
    whole: dict[str, tuple[int, ...]] = {}
    for condition, rows in plan.conditions.items():
        given = [
            [
                piece.shape if piece.part == ZEROS else shapes[piece.encoder, piece.part]
                for piece in row
            ]
            for row in rows
        ]
        if rows[0][0].part == MASK:
            whole[condition] = given[0][0]
            continue
        width = max(sum(shape[-1] for shape in row) for row in given)
        length = sum(row[0][0] for row in given) if len(given[0][0]) == 2 else None
        whole[condition] = (width,) if length is None else (length, width)
    return whole
