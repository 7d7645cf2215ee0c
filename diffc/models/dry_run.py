"""Calls the denoiser once on the meta device, from its configs alone: shapes without memory.

The inputs that a family states are tried here before any work. If the class does not take them, one
line names the class and the shapes.

    dry_run    a source -> notes for the user
    dry_call   the same for a model that is already built
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from diffc.errors import InputError
from diffc.input_size import Size
from diffc.models.families import family
from diffc.models.families.base import Family
from diffc.models.families.examples import meta_inputs
from diffc.models.families.reach import CallTrace, idle_modules, trace_call
from diffc.models.inputs import input_specs
from diffc.models.load import meta_denoiser
from diffc.models.source import Source
from diffc_export.specs import TensorSpec

FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ArithmeticError,
)
"""The errors that diffusers and torch classes raise for inputs or configs that they do not take."""
_NAMED = 4
"""The largest number of module kinds that a note names."""


def dry_run(source: Source, resolution: Size | None = None, tokens: int | None = None) -> list[str]:
    """Build the denoiser of ``source`` and call it once, both on the meta device.

    Args:
        source: The model.
        resolution: The size of the denoiser's own input; None: the config's.
        tokens: The length of the text condition; None: the pipeline's own.

    Returns:
        Notes that name the modules that no call reaches; they stay whole.

    Raises:
        InputError: The class cannot be built from its config, or cannot be called.
    """
    specs = input_specs(source, resolution, tokens)
    known = family(source.class_name)
    return dry_call(meta_denoiser(source), known, specs)


def dry_call(model: nn.Module, family: Family, specs: Sequence[TensorSpec]) -> list[str]:
    """Call ``model`` once on the meta device.

    Args:
        model: The denoiser.
        family: Its family.
        specs: Its inputs.

    Returns:
        Notes as in ``dry_run``.

    Raises:
        InputError: The model cannot be called with inputs of these shapes.
    """
    result = _trace(model, family, specs)
    _check_output(result.output, family, specs)
    unused = [spec.name for spec in specs if spec.name not in result.inputs]
    if unused:
        raise InputError(
            f"the output of this {family.class_name} does not depend on its input "
            f"'{unused[0]}', so that an exported graph would not have it",
            hint="check the config: the blocks that use this input are missing",
        )
    idle = idle_modules(model, result.modules)
    return [f"left whole, since no call reaches them: {_count_kinds(idle)}"] if idle else []


def _count_kinds(names: Sequence[str]) -> str:
    """Return the modules' own names with how often each occurs: 'fuser (16), position_net'."""
    leaves = (name.rpartition(".")[2] for name in names)
    counts = Counter(
        name if leaf.isdigit() else leaf for name, leaf in zip(names, leaves, strict=True)
    )
    words = [leaf if count == 1 else f"{leaf} ({count})" for leaf, count in counts.items()]
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def _trace(model: nn.Module, family: Family, specs: Sequence[TensorSpec]) -> CallTrace:
    try:
        return trace_call(model, meta_inputs(specs), family.call)
    except InputError:
        raise
    except FAILURES as error:
        shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in specs)
        raise InputError(
            f"this {family.class_name} does not take {_short(shapes)}: {_reason(error)}",
            hint="its config asks for something that diffc does not know; check its sizes and "
            "embedding options",
        ) from error


def _check_output(output: torch.Tensor, family: Family, specs: Sequence[TensorSpec]) -> None:
    """Check that the output has the sample's shape, apart from channels; a decoder's may differ."""
    sample = next(spec for spec in specs if spec.kind == "sample")
    if not any(spec.kind == "timestep" for spec in specs):
        return
    shape, expected = list(output.shape[1:]), list(sample.shape)
    expected[0] = shape[0] if len(shape) == len(expected) else expected[0]
    if shape != expected:
        raise InputError(
            f"this {family.class_name} turns a sample {sample.shape} into {tuple(shape)}",
            hint="give a side with --resolution that its config's patches or levels divide",
        )


def _reason(error: BaseException) -> str:
    """Return the first line of a library's error; its class if the error says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0].rstrip(":") if lines else ""
    return _short(first, 110) if first else type(error).__name__


def _short(text: str, most: int = 150) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
