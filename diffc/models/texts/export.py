"""A text encoder as an ONNX folder, with what torch gave on a few texts.

The graph has one output, as every engine of diffc. Where a pipeline uses several of an encoder's
outputs they lie in it flat, one after the other; model.json has their names and shapes: ``parts``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffc.models.checking import transformers_config
from diffc.models.classes import component_class
from diffc.models.components import Component
from diffc.models.families.examples import example_inputs
from diffc.models.foreign import foreign_errors
from diffc.models.load import load_component
from diffc.models.mapped import mapped_component
from diffc.models.source import Source
from diffc.models.texts import find_kind
from diffc.models.texts.base import IDS, MASK, TextEncoderKind
from diffc_export.onnx.export import GraphOptions, export_onnx
from diffc_export.specs import Inputs, TensorSpec
from diffc_export.targets.onnx_file import REFERENCE
from diffc_runtime.json_types import JsonDict
from diffc_runtime.prompt_plan import EncoderUse

REFERENCE_ROWS = 4


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder in memory.

    Attributes:
        name: Its name in the pipeline.
        class_name: Its class.
        kind: Its kind.
        model: The network, in fp32.
        use: How the pipeline uses it.
        parts: The outputs that the pipeline uses, with their shapes without the batch.
    """

    name: str
    class_name: str
    kind: TextEncoderKind
    model: nn.Module
    use: EncoderUse
    parts: Mapping[str, tuple[int, ...]]

    def specs(self) -> list[TensorSpec]:
        """Return its inputs."""
        return self.kind.specs(_config(self.model), self.use.sequence, self.use.masked)

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return its one output: a single part (B, ...), or all of them flat (B, N)."""
        values = self.kind.run(model, inputs, tuple(self.parts))
        if len(values) == 1:
            return next(iter(values.values()))
        return torch.cat([values[name].flatten(1) for name in self.parts], 1)


def load_text_encoder(
    source: Source, name: str, use: EncoderUse, wanted: Sequence[str]
) -> TextEncoder:
    """Load a text encoder of a pipeline.

    Args:
        source: The model.
        name: The encoder's name in the pipeline.
        use: How the pipeline uses it.
        wanted: The outputs that the pipeline uses.

    Raises:
        InputError: Its files cannot be used.
    """
    part = _component_of(source, name)
    return _encoder_of(load_component(part), part, use, wanted)


@contextmanager
def mapped_text_encoder(
    source: Source, name: str, use: EncoderUse, wanted: Sequence[str]
) -> Iterator[TextEncoder]:
    """The same on the CPU, with weights that stay in their files until they are used.

    Args:
        source: The model.
        name: The encoder's name in the pipeline.
        use: How the pipeline uses it.
        wanted: The outputs that the pipeline uses.

    Raises:
        InputError: Its files cannot be used, or were altered meanwhile.
    """
    part = _component_of(source, name)
    with mapped_component(part) as model:
        yield _encoder_of(model, part, use, wanted)


def meta_text_encoder(
    source: Source, name: str, use: EncoderUse, wanted: Sequence[str]
) -> TextEncoder:
    """The same on the meta device, from its config: shapes without values.

    Args:
        source: The model.
        name: The encoder's name in the pipeline.
        use: How the pipeline uses it.
        wanted: The outputs that the pipeline uses.

    Raises:
        InputError: Its class or config cannot be used.
    """
    part = _component_of(source, name)
    kind = component_class(part)
    config = transformers_config(part, kind)
    with foreign_errors(f"{part.folder} cannot be opened"), torch.device("meta"):
        return _encoder_of(kind(config).eval(), part, use, wanted)


def _component_of(source: Source, name: str) -> Component:
    part = source.find_component(name)
    assert part is not None
    return part


def _encoder_of(
    model: nn.Module, part: Component, use: EncoderUse, wanted: Sequence[str]
) -> TextEncoder:
    """The encoder as the exporter can trace it."""
    kind = find_kind(part.class_name)
    assert kind is not None
    if hasattr(model, "set_attn_implementation"):  # the exporter knows no views of fused attention
        model.set_attn_implementation("eager")  # type: ignore[operator]
    shapes = kind.parts(part.class_name, _config(model), use.sequence)
    chosen = {name: tuple(shapes[name]) for name in wanted}
    return TextEncoder(part.name, part.class_name, kind, model, use, chosen)


def _config(model: nn.Module) -> JsonDict:
    config: JsonDict = model.config.to_dict()  # type: ignore[union-attr, operator]
    return config


def export_text_encoder(
    encoder: TextEncoder, rows: Inputs, folder: Path, *, opset: int, simplify: bool
) -> JsonDict:
    """Write a text encoder's ONNX folder.

    Args:
        encoder: The encoder.
        rows: Tokens (R, L) of texts, and their masks, on which the engine is compared with torch.
        folder: The folder to write.
        opset: ONNX's.
        simplify: True lets onnxslim simplify the graph.

    Returns:
        The content of model.json.

    Raises:
        InputError: torch cannot export the encoder.
    """
    config = _config(encoder.model)

    def examples(wanted: Sequence[TensorSpec], batch: int, generator: torch.Generator) -> Inputs:
        return example_inputs(wanted, config, batch, generator)

    facts = {
        "class_name": encoder.class_name,
        "parts": [[name, list(shape)] for name, shape in encoder.parts.items()],
        "parameters": sum(p.numel() for p in encoder.model.parameters()),
    }
    options = GraphOptions(opset=opset, simplify=simplify, facts=facts)
    specs = encoder.specs()
    described = export_onnx(
        encoder.model, encoder.call, specs, folder, examples=examples, options=options
    )
    _write_reference(encoder, rows, [spec.name for spec in specs], folder / REFERENCE)
    return described


def _write_reference(encoder: TextEncoder, rows: Inputs, names: Sequence[str], path: Path) -> None:
    """Write tokens and what torch made of them, for parity."""
    from safetensors.torch import save_file

    inputs = {name: rows[name] for name in names}
    with torch.no_grad():
        output = encoder.call(encoder.model, inputs)
    tensors = {f"input.{name}": value.contiguous() for name, value in inputs.items()}
    save_file({**tensors, "output": output.contiguous()}, path)


def reference_rows(tokens: Sequence[tuple[Tensor, Tensor]]) -> Inputs:
    """Return (ids, mask) of several texts, each (1, L), as inputs (R, L)."""
    return {
        IDS: torch.cat([ids for ids, _ in tokens]),
        MASK: torch.cat([mask for _, mask in tokens]),
    }
