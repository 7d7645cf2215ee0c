"""Reads a safetensors file of the denoiser's own inputs: data for latent and conditioned models.

sample            (N, ...)   clean samples in the denoiser's units; without them the dense model
                             is sampled under the conditions
each condition    (N, ...)   by its input's name, row by row; class labels may be left out if the
                             dense model is sampled
null.NAME         (...)      optional: the value that means "no condition" NAME in guidance

is_tensors      whether --data names such a file
has_samples     whether it holds clean samples, from its header alone
read_tensors    the file's rows, checked against the denoiser's inputs
read_null       its null conditions, checked likewise
read_clean_set  the file as a CleanSet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffc.errors import InputError
from diffc.models.source import check_safetensors

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.data.clean import CleanSet
    from diffc_export.specs import TensorSpec

SUFFIX = ".safetensors"
NULL = "null."
_DRAWN = "class_labels"


def is_tensors(source: str | Path) -> bool:
    """True if ``--data`` names a file of tensors."""
    return Path(source).suffix == SUFFIX


def has_samples(path: Path) -> bool:
    """True if the file holds clean samples.

    Raises:
        InputError: The file is damaged.
    """
    return "sample" in check_safetensors(path)


def read_tensors(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """Return the file's tensors, (N, ...) each, in their inputs' dtypes.

    Args:
        path: The file.
        specs: The denoiser's inputs.

    Raises:
        InputError: A tensor is unknown, missing, of another shape or length, or not finite; the
            message names it.
    """
    from safetensors.torch import load_file

    from diffc.models.families.examples import dtype_of

    check_safetensors(path)
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith(NULL)}
    wanted = {spec.name: spec for spec in specs if spec.kind != "timestep"}
    _check_names(path, tensors, wanted)
    rows = {len(tensor) if tensor.ndim else 0 for tensor in tensors.values()}
    if len(rows) != 1 or 0 in rows:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())
        raise InputError(f"{path}: the tensors' rows do not go together: {shapes or 'nothing'}")
    for name, value in tensors.items():
        if tuple(value.shape[1:]) != wanted[name].shape:
            raise InputError(
                f"{path}: '{name}' is {tuple(value.shape)}; the model takes "
                f"{('N', *wanted[name].shape)}"
            )
        _check_finite(path, name, value)
    return {name: value.to(dtype_of(wanted[name])) for name, value in tensors.items()}


def read_null(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """Return condition -> (...), from the file's ``null.NAME``; {} if it has none.

    Args:
        path: The file.
        specs: The denoiser's inputs.

    Raises:
        InputError: A tensor names no condition, has another shape, or is not finite.
    """
    from safetensors import safe_open

    from diffc.models.families.examples import dtype_of

    names = [name for name in check_safetensors(path) if name.startswith(NULL)]
    conditions = {NULL + spec.name: spec for spec in specs if spec.kind == "condition"}
    null = {}
    with safe_open(path, framework="pt") as file:
        for name in names:
            value, spec = file.get_tensor(name), conditions.get(name)
            if spec is None or tuple(value.shape) != spec.shape:
                takes = ", ".join(f"{name} {spec.shape}" for name, spec in conditions.items())
                raise InputError(
                    f"{path}: '{name}' {tuple(value.shape)} is not a null condition of the model",
                    hint=f"it has {takes or 'no conditions'}",
                )
            _check_finite(path, name, value)
            null[spec.name] = value.to(dtype_of(spec))
    return null


def read_clean_set(
    path: Path, specs: Sequence[TensorSpec], *, limit: int | None = None, seed: int = 0
) -> CleanSet:
    """Return the file's samples and conditions, without the null conditions.

    Args:
        path: The file.
        specs: The denoiser's inputs.
        limit: The largest number of rows, drawn by ``seed``; None for all.
        seed: The seed of the order.
    """
    import torch

    from diffc.data.clean import CleanSet

    rows = read_tensors(path, specs)
    n = len(rows["sample"])
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(n)[:limit].copy())
    sample = rows.pop("sample")[chosen].float()
    conditions = {name: value[chosen] for name, value in rows.items()}
    return CleanSet(sample, conditions, f"{len(sample)} samples from {path.name}")


def _check_finite(path: Path, name: str, value: Tensor) -> None:
    if value.is_floating_point() and not value.isfinite().all():
        raise InputError(f"{path}: '{name}' holds NaN or infinity")


def _check_names(
    path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, TensorSpec]
) -> None:
    optional = {"sample"} if "sample" in tensors else {"sample", _DRAWN}
    unknown = sorted(set(tensors) - set(wanted))
    missing = sorted(set(wanted) - set(tensors) - optional)
    if not (unknown or missing):
        return
    reasons = [f"'{name}' is none of the model's inputs" for name in unknown]
    reasons += [f"'{name}' is missing" for name in missing]
    takes = ", ".join(f"{name} {('N', *spec.shape)}" for name, spec in wanted.items())
    raise InputError(f"{path}: {'; '.join(reasons)}", hint=f"the model takes {takes}")
