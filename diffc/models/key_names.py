"""Compares the tensors of a checkpoint with those of the model, by name and shape, before loading.

The libraries only log a missing tensor, which is then uninitialised memory. So every component's
tensors are compared with its class here, and a difference is refused by its kind: an adapter that
was not fused, a wrapper's prefix, quantised or original names, or another model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffc.errors import InputError
from diffc.models.files import TensorEntry

Shape = tuple[int, ...]

_ADAPTERS = re.compile(
    r"(^|[._])(lora|base_layer|hada|lokr|loha|oft|boft|ia3|dora|modules_to_save|vera)(_|\.|$)|"
    r"lora_(A|B|magnitude|embedding)|\.processor\."
)
_QUANTISED = re.compile(
    r"\.(SCB|absmax|quant_map|quant_state|qweight|qzeros|g_idx|weight_scale|weight_scale_inv|"
    r"scale_weight|input_scale|_data|_scale|svd_up|zero_point)(\.|$)"
)
_ORIGINAL = ("input_blocks.", "model.diffusion_model.", "double_blocks.", "first_stage_model.")
_COMPILED = "_orig_mod."
_INTEGERS = ("I", "U", "BOOL")
_COMPLEX = ("C", "torch.complex")  # of safetensors, and of pickles


@dataclass(frozen=True)
class ExpectedTensors:
    """The tensors that a class builds from a config.

    Attributes:
        shapes: The shape of every tensor that a file has to hold.
        buffers: The names of computed buffers, which older files hold as well.
        ignored: Patterns of names that the class itself ignores.
        integers: The names of tensors that hold integers.
        cut: True for a model that diffc compressed: its tensors may be smaller, and no others may
            be in the file.
    """

    shapes: Mapping[str, Shape]
    buffers: Collection[str] = ()
    ignored: Sequence[str] = ()
    integers: Collection[str] = ()
    cut: bool = False


def check_tensors(
    where: Path, entries: Mapping[str, TensorEntry], expected: ExpectedTensors
) -> list[str]:
    """Compare the tensors of the files in ``where`` with the model's.

    Returns:
        A note if the files hold tensors that the model does not need.

    Raises:
        InputError: A tensor is missing, has another shape, or belongs to a part that the model
            lacks.
    """
    missing = sorted(set(expected.shapes) - set(entries))
    unknown = sorted(set(entries) - set(expected.shapes) - set(expected.buffers))
    unknown = [name for name in unknown if not _matches(name, expected.ignored)]
    strange = unknown if expected.cut else strange_tensors(entries, unknown, expected.shapes)
    if missing or strange:
        raise names_error(where, missing, unknown, len(expected.shapes))
    _check_shapes(where, entries, expected)
    _check_kinds(where, entries, expected)
    return extra_note(where, unknown)


def names_error(
    where: Path, missing: Sequence[str], unknown: Sequence[str], total: int
) -> InputError:
    """Return the error for tensors that are missing or unknown.

    Args:
        where: The folder of the files.
        missing: Tensors of the model that no file holds.
        unknown: Tensors of the files that the model lacks.
        total: The number of tensors of the model.
    """
    adapters = [name for name in unknown if _ADAPTERS.search(name)]
    if adapters:
        return InputError(
            f"{where} holds an adapter that is not fused ({adapters[0]})",
            hint="fuse_lora(), unload_lora_weights(), then save_pretrained; or save the model "
            "without it",
        )
    prefix = _prefix(missing, unknown)
    if prefix and missing:
        return InputError(
            f"the names of the tensors in {where} begin with '{prefix}': they are a wrapper's",
            hint="save the module inside the wrapper (torch.compile's _orig_mod, DDP's module)",
        )
    quantised = [name for name in unknown if _QUANTISED.search(name)]
    if quantised:
        return InputError(
            f"{where} is quantised already (it holds {quantised[0]})",
            hint="give the model it was made from, in float32, float16 or bfloat16",
        )
    if any(name.startswith(_ORIGINAL) for name in unknown):
        return InputError(
            f"{where} holds weights under their original names ({unknown[0]}), not diffusers'",
            hint="convert them: the pipeline's from_single_file(FILE).save_pretrained(FOLDER)",
        )
    return _plain_names_error(where, missing, unknown, total)


def extra_note(where: Path, unknown: Sequence[str]) -> list[str]:
    """Return a note about tensors that the model does not need; [] if there are none."""
    if not unknown:
        return []
    count = f"{len(unknown)} tensors" if len(unknown) > 1 else "a tensor"
    return [f"{where} holds {count} that the model does not need: {_first(unknown)}"]


def shape_error(where: Path, name: str, held: Shape, wanted: Shape, more: int = 0) -> InputError:
    """Return the error for a tensor whose shape differs from the config's.

    Args:
        where: The file that holds it, or the folder of the files.
        name: The tensor's name.
        held: Its shape in the file.
        wanted: Its shape by the config.
        more: How many other tensors differ as well.
    """
    smaller = len(held) == len(wanted) and all(a <= b for a, b in zip(held, wanted, strict=True))
    hint = "the weights are of another model than config.json describes"
    if smaller:
        hint += "; a model that diffc compressed needs its pruning.json beside model_index.json"
    others = f", and {more} others differ" if more else ""
    return InputError(
        f"{name} in {where} cannot be loaded: its shape is {held}, by the config {wanted}{others}",
        hint=hint,
    )


def _plain_names_error(
    where: Path, missing: Sequence[str], unknown: Sequence[str], total: int
) -> InputError:
    if not missing:
        return InputError(
            f"{len(unknown)} of the tensors in {where} belong to no part of the model that its "
            f"config describes: {_first(unknown)}",
            hint="the weights are of another model than config.json describes",
        )
    verb = "is" if len(missing) == 1 else "are"
    also = f"; {len(unknown)} are unknown: {_first(unknown, 1)}" if unknown else ""
    return InputError(
        f"{len(missing)} of {total} tensors {verb} missing in {where}: {_first(missing)}{also}",
        hint="the file is of another model than config.json describes, or was not saved whole",
    )


def _check_shapes(
    where: Path, entries: Mapping[str, TensorEntry], expected: ExpectedTensors
) -> None:
    wrong = [
        name
        for name, shape in expected.shapes.items()
        if not _fits(entries[name].shape, tuple(shape), expected.cut)
    ]
    if wrong:
        name = wrong[0]
        place, own = entries[name].path or where, entries[name].shape
        raise shape_error(place, name, own, tuple(expected.shapes[name]), len(wrong) - 1)


def _fits(held: Shape, wanted: Shape, cut: bool) -> bool:
    if not cut:
        return held == wanted
    return len(held) == len(wanted) and all(0 < a <= b for a, b in zip(held, wanted, strict=True))


def _check_kinds(
    where: Path, entries: Mapping[str, TensorEntry], expected: ExpectedTensors
) -> None:
    """Refuse integers where the model has floats: the matrices of a quantised model.

    Complex numbers are refused too: a network of real numbers would lose half of each.
    """
    for name in expected.shapes:
        if entries[name].dtype.startswith(_COMPLEX):
            raise InputError(
                f"{where} is damaged: {name} holds complex numbers, and its class real ones",
                hint="save the model again in float32, float16 or bfloat16",
            )
        if _is_integer(entries[name]) and name not in expected.integers:
            raise InputError(
                f"{where} is quantised already or damaged ({name} is {entries[name].dtype})",
                hint="give the model it was made from, in float32, float16 or bfloat16",
            )


def strange_tensors(
    entries: Mapping[str, TensorEntry], unknown: Sequence[str], names: Collection[str]
) -> list[str]:
    """Return the unknown tensors that must not be ignored.

    Counters and position ids may be ignored, and so may tensors outside every part of the model:
    the state of a training.

    Args:
        entries: The tensors of the files.
        unknown: The names that the model lacks.
        names: The names of the model's own tensors.
    """
    parts = {name.partition(".")[0] for name in names}
    return [name for name in unknown if not _is_harmless(name, entries[name], parts)]


def _is_harmless(name: str, entry: TensorEntry, parts: Collection[str]) -> bool:
    if _ADAPTERS.search(name) or _QUANTISED.search(name):
        return False
    return entry.elements <= 1 or _is_integer(entry) or name.partition(".")[0] not in parts


def _is_integer(entry: TensorEntry) -> bool:
    return entry.dtype.startswith(_INTEGERS)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _prefix(missing: Collection[str], unknown: Collection[str]) -> str:
    """Return the text that a wrapper put before (or into) every name; "" if there is none."""
    if unknown and all(_COMPILED in name for name in unknown):
        return _COMPILED
    first = min(unknown, default="").split(".")
    for count in range(len(first) - 1, 0, -1):
        prefix = ".".join(first[:count]) + "."
        inner = {name[len(prefix) :] for name in unknown if name.startswith(prefix)}
        if len(inner) == len(unknown) and set(missing) <= inner:
            return prefix
    return ""


def _first(names: Sequence[str], most: int = 2) -> str:
    more = ", ..." if len(names) > most else ""
    return ", ".join(names[:most]) + more
