"""The text encoders of a pipeline: how prompts become conditions, ONNX files, engines.

    OUT/onnx/text               text.json, a file for each tokenizer, what every prompt shares
    OUT/onnx/ENCODER            one folder for each text encoder: text_encoder, text_encoder_2
    OUT/engines/TARGET/ENCODER  its engine, in the run's precision where that passes parity

They are not cut. An engine's outputs are compared with torch's, each on its own, when it is built.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.errors import CheckFailed
from diffc.models.components import VAE_NAMES, Component
from diffc.models.source import Source
from diffc.recipe import ExportSection, Recipe
from diffc.runner import Stage, StageEvent, StageFolder, StageResult, StageRunner
from diffc.stage_inputs import FileInput, ModelInput, RunShape, SectionInput
from diffc.stage_outcomes import ComparedEngineOutcome, ExportOutcome, TextOutcome
from diffc.stages import build
from diffc.stages.build import ENGINE, BuildInputs
from diffc.stages.data import model_packages
from diffc.stages.export import EXPORT_PACKAGES
from diffc.stages.precision import needs_file_of_its_own
from diffc_export.events import Progress, Work
from diffc_export.targets.onnx_file import DESCRIPTION, REFERENCE
from diffc_runtime.prompt_plan import PLAN_FILE, TEXT_FOLDER, PromptPlan

if TYPE_CHECKING:
    from diffc.models.texts.pipelines import TextParts
    from diffc.models.texts.tokenizers import ConvertedTokenizer
    from diffc_export.specs import TensorSpec

LOWERED = ("fp16", "bf16")
"""Precisions in which a text encoder's engine is tried."""
_PACKAGES = ("transformers", "tokenizers")
_SAMPLES = (
    "a photograph of a red cat beside a blue house",
    "",
    "forty-two words, not more",
    "é 猫 🙂",
)
"""Texts on which engines are compared with torch: usual ones, the empty one, and other scripts."""


@dataclass(frozen=True)
class TextInputs:
    """What the plan and the tokenizers follow from.

    Attributes:
        pipeline: The model's index, the configs of the denoiser and of the VAE, which the shapes of
            its inputs follow from, and the digests of the tokenizers.
        encoders: The encoders' classes and configs.
        shape: What the denoiser's inputs are like.
        guidance: The scale of a model that takes it as an input; None: the pipeline's.
    """

    pipeline: ModelInput
    encoders: dict[str, object]
    shape: RunShape
    guidance: float | None


def text_stage(source: Source, recipe: Recipe) -> Stage[TextInputs, TextOutcome] | None:
    """The stage that exports what prompts need into OUT/onnx/text.

    None for a pipeline without text encoders, or where they stay out.
    """
    encoders = [part for part in source.components if part.is_text_encoder]
    if recipe.text.encoders == "off" or not source.is_pipeline or not encoders:
        return None
    facts = {
        "index": dict(source.index),
        "config": dict(source.config),
        "tokenizers": {p.name: p.digest for p in source.components if p.is_tokenizer},
        "vae": {p.name: dict(p.config) for p in source.components if p.name in VAE_NAMES},
    }
    inputs = TextInputs(
        pipeline=ModelInput(source, facts),
        encoders={part.name: _config_of(part) for part in encoders},
        shape=RunShape.of(recipe),
        guidance=recipe.data.guidance,
    )
    packages = (*model_packages(source), *_PACKAGES)
    places = {TEXT_FOLDER: f"onnx/{TEXT_FOLDER}"}
    return Stage(f"export-{TEXT_FOLDER}", 1, inputs, export_text, TextOutcome, places, packages)


def _config_of(part: Component) -> object:
    return [part.class_name, dict(part.config), part.exists and part.weights is not None]


def export_text(inputs: TextInputs, folder: StageFolder) -> Work[TextOutcome]:
    """Write the plan, the tokenizers and the conditions that every prompt shares."""
    yield Progress(0, 1, "reading the tokenizers")
    out = folder.out / TEXT_FOLDER
    out.mkdir(parents=True)
    parts = write_texts(inputs.pipeline.source, inputs.shape, inputs.guidance, out)
    encoders = [] if parts.plan is None else list(parts.plan.encoders)
    return TextOutcome(encoders=encoders, notes=list(parts.notes))


def write_texts(source: Source, shape: RunShape, guidance: float | None, out: Path) -> TextParts:
    """Write what prompts need, without the encoders: plan, tokenizers, shared conditions.

    Args:
        source: The pipeline.
        shape: What the denoiser's inputs are like.
        guidance: Of the pipeline's call; None for its own.
        out: A folder that is there. It stays empty where there is no plan.

    Returns:
        The plan without the tokenizers' facts, or why there is none.
    """
    import json

    from diffc.models.texts.pipelines import find_texts
    from diffc_runtime.files import write_text

    specs = shape.specs(source)
    parts = find_texts(source, specs)
    if parts.plan is None:
        return parts
    plan, tokenizers = complete_plan(source, parts.plan)
    for one in tokenizers.values():
        write_text(out / one.facts.file, one.content)
    write_text(out / PLAN_FILE, json.dumps(plan.to_json(), indent=1) + "\n")
    _write_fixed(source, specs, guidance, out)
    return parts


def complete_plan(
    source: Source, plan: PromptPlan
) -> tuple[PromptPlan, dict[str, ConvertedTokenizer]]:
    """Return a family's plan with the tokenizers' facts and the prefixes, and the tokenizers."""
    from diffc.data.guidance import call_defaults
    from diffc.models.texts.tokenizers import convert_tokenizer

    tokenizers: dict[str, ConvertedTokenizer] = {}
    uses = {}
    for name, use in plan.encoders.items():
        part = source.find_component(use.tokenizer)
        assert part is not None
        if use.tokenizer not in tokenizers:
            tokenizers[use.tokenizer] = convert_tokenizer(part, use.pad_left)
        prefix = ""
        if use.prefix_argument:
            lines = call_defaults(source).get(use.prefix_argument) or []
            prefix = "\n".join(lines)
        count = tokenizers[use.tokenizer].count(prefix) if prefix else 0
        uses[name] = replace(use, prefix=prefix, prefix_tokens=count)
    facts = {name: one.facts for name, one in tokenizers.items()}
    return replace(plan, encoders=uses, tokenizers=facts), tokenizers


def _write_fixed(
    source: Source, specs: Sequence[TensorSpec], guidance: float | None, out: Path
) -> None:
    import numpy as np

    from diffc.data.conditions import pipeline_conditions
    from diffc_runtime.prompt_plan import FIXED_FILE

    same = pipeline_conditions(source, specs, guidance)
    values = {name: value.numpy() for name, value in same.rows.items()}
    values |= {f"null.{name}": value.numpy() for name, value in same.null.items()}
    if values:
        np.savez(out / FIXED_FILE, **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TextEncoderInputs:
    """What a text encoder's ONNX folder follows from.

    Attributes:
        texts: The plan, which says which outputs are used and how many tokens there are.
        encoder: The encoder.
        name: Its name in the pipeline.
        options: How to export.
    """

    texts: StageResult[TextOutcome]
    encoder: ModelInput
    name: str
    options: SectionInput[ExportSection]


def text_encoder_stage(
    source: Source, recipe: Recipe, texts: StageResult[TextOutcome], name: str
) -> Stage[TextEncoderInputs, ExportOutcome]:
    """The stage that exports one text encoder into OUT/onnx/ENCODER."""
    part = source.find_component(name)
    assert part is not None
    inputs = TextEncoderInputs(
        texts=texts,
        encoder=ModelInput(source, part.digest),
        name=name,
        options=SectionInput(recipe.export, ("resolution",)),
    )
    packages = ("torch", *_PACKAGES, *EXPORT_PACKAGES)
    places = {name: f"onnx/{name}"}
    return Stage(f"export-{name}", 1, inputs, export_encoder, ExportOutcome, places, packages)


def export_encoder(inputs: TextEncoderInputs, folder: StageFolder) -> Work[ExportOutcome]:
    """Write the ONNX folder of a text encoder; its weights stay in their files meanwhile."""
    import torch

    from diffc.models.texts.export import (
        export_text_encoder,
        mapped_text_encoder,
        reference_rows,
    )
    from diffc_runtime.prompts import read_plan
    from diffc_runtime.tokens import Tokenizer

    name, options = inputs.name, inputs.options.section
    yield Progress(0, 1, f"exporting {name}")
    texts = inputs.texts.folder / TEXT_FOLDER
    plan = read_plan(texts)
    use = plan.encoders[name]
    tokens = Tokenizer(texts, plan.tokenizers[use.tokenizer])(
        [use.prefix + text for text in _SAMPLES], use.sequence, use.sequence
    )
    rows = reference_rows([(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask))])
    source = inputs.encoder.source
    with mapped_text_encoder(source, name, use, plan.parts_of(name)) as encoder:
        described = export_text_encoder(
            encoder, rows, folder.out / name, opset=options.opset, simplify=options.simplify
        )
    return ExportOutcome(sha256=described["sha256"], parameters=described["parameters"])


@dataclass(frozen=True)
class TextBuildInputs:
    """What a text encoder's engine follows from.

    Attributes:
        engine: As of every engine; its precision is the first one that is tried.
        reference: What torch gave.
        name: The encoder's name in the pipeline.
    """

    engine: BuildInputs
    reference: FileInput
    name: str


def text_exports(
    runner: StageRunner, source: Source, recipe: Recipe
) -> Generator[StageEvent, None, None]:
    """Do the stages of OUT/onnx/text and of every text encoder."""
    stage = text_stage(source, recipe)
    if stage is None:
        return
    texts = yield from runner.do(stage)
    for name in texts.result.encoders:
        yield from runner.do(text_encoder_stage(source, recipe, texts, name))


def exported_encoders(out: Path) -> list[str]:
    """Return the text encoders of OUT/onnx by name; none where its plan is not there."""
    from diffc.models.files import read_json

    path = out / "onnx" / TEXT_FOLDER / PLAN_FILE
    names = list(read_json(path)["encoders"]) if path.is_file() else []
    return [name for name in names if (out / "onnx" / name / DESCRIPTION).is_file()]


def text_build_stages(
    out: Path, recipe: Recipe, name: str
) -> Iterator[Stage[TextBuildInputs, ComparedEngineOutcome]]:
    """The stages that build OUT/engines/TARGET/ENCODER, one for each text encoder.

    None of them for a target that nothing serves.
    """
    from diffc_export.targets import target

    if recipe.text.encoders == "off" or target(name).facts.loader is None:
        return
    lower = recipe.build.precision in LOWERED
    options = recipe.build.model_copy(
        update={"precision": recipe.build.precision if lower else "fp32"}
    )
    plain = recipe.model_copy(update={"build": options.model_copy(update={"precision": "fp32"})})
    for encoder in exported_encoders(out):
        stage = build.build_stage(out, plain, name, encoder)
        inputs = TextBuildInputs(
            engine=replace(stage.inputs, precision=options.precision),
            reference=FileInput.of(out / "onnx" / encoder / REFERENCE),
            name=encoder,
        )
        yield Stage(stage.name, 1, inputs, build_encoder, ComparedEngineOutcome, stage.places)


def build_encoder(inputs: TextBuildInputs, folder: StageFolder) -> Work[ComparedEngineOutcome]:
    """Build the engine in the precision asked for, else in fp32 where that fails parity.

    Raises:
        CheckFailed: The fp32 engine does not compute what torch computes.
    """
    from diffc.measure.parity import passes
    from diffc_export.targets import target

    notes, errors = list[str](), dict[str, float]()
    for precision in dict.fromkeys((inputs.engine.precision, "fp32")):
        engine = replace(inputs.engine, precision=precision)
        if needs_file_of_its_own(engine.target, precision):
            engine = replace(engine, onnx=_lowered(engine, folder.scratch))
        built = yield from build.build(engine, folder)
        if not target(engine.target).status().runnable:
            notes.append("built for another machine: not compared with torch")
            return ComparedEngineOutcome(**built.to_json(), notes=notes)
        errors = _errors(inputs, folder.out / ENGINE)
        if passes(errors, precision):
            return ComparedEngineOutcome(**built.to_json(), errors=errors, notes=notes)
        worst = max(errors.values())
        notes.append(f"fp32 in the place of {precision}, whose relative error is {worst:.2g}")
    raise CheckFailed(
        f"{inputs.name} for {inputs.engine.target} does not compute what torch computes: relative "
        f"error {max(errors.values()):.2g}",
        hint="another --target, or --text-encoders off",
    )


def _lowered(engine: BuildInputs, scratch: Path) -> FileInput:
    """The ONNX folder in the engine's precision, for targets that cannot be told one."""
    from diffc_export.onnx.precision import convert_precision
    from diffc_export.targets.onnx_file import MODEL

    lower = scratch / engine.precision
    if not (lower / MODEL).is_file():
        convert_precision(engine.onnx.path, lower, engine.precision)
    return FileInput(lower, engine.onnx.digest)


def _errors(inputs: TextBuildInputs, engine: Path) -> dict[str, float]:
    """The relative error of each output of the engine."""
    from diffc.measure.text_parity import text_errors
    from diffc_export.targets import target

    runner = target(inputs.engine.target).load(engine)
    try:
        return text_errors(runner, inputs.reference.path)
    finally:
        runner.close()
