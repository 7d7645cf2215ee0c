"""The conditions of the pictures that the report judged, without torch.

Image i takes row i of what the user gave (prompts, a file of tensors), or a label that is drawn
from the seed and i, as the samples stage does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffc.data.labels import drawn_label
from diffc.data.tensors import NULL
from diffc.errors import DiffcError, InputError
from diffc.models.families import component_of, family
from diffc.models.files import read_json
from diffc.output import read_lock
from diffc.stage_records import STATE, read_record
from diffc_runtime.values import Array

if TYPE_CHECKING:
    from diffc_runtime import Input

LABELS = "class_labels"
_CLEAN = f"{STATE}/clean.safetensors"

Conditions = Callable[[int, int], Mapping[str, object]]


def judged_conditions(out: Path, taken: Sequence[Input]) -> Conditions | None:
    """Return (seed, n) -> the conditions of the images 0 to n - 1 of a seed.

    Args:
        out: The output folder.
        taken: The conditions that the model takes.

    Returns:
        None where the model takes no conditions. What OUT does not hold is left out.
    """
    if not taken:
        return None
    given, classes = _given_names(out), _class_count(out)

    def conditions(seed: int, n: int) -> Mapping[str, object]:
        rows: dict[str, Array] = {}
        for spec in taken:
            if spec.name in given:
                rows[spec.name] = _rows(out / _CLEAN, spec.name, n)
            elif spec.name == LABELS and spec.shape == () and classes:
                labels = [drawn_label(seed, i, classes) for i in range(n)]
                rows[spec.name] = np.array(labels, spec.dtype)
        return rows

    return conditions


def null_conditions(out: Path, taken: Sequence[Input]) -> dict[str, Array]:
    """Return the null conditions of the calibration set by name, in the inputs' dtypes."""
    known = {spec.name: spec for spec in taken}
    path = out / _CLEAN
    if not known or not path.is_file():
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        names = [key.removeprefix(NULL) for key in file.keys() if key.startswith(NULL)]  # noqa: SIM118
        return {
            name: _typed(known[name], file.get_tensor(NULL + name))
            for name in names
            if name in known
        }


def _typed(spec: Input, value: Array) -> Array:
    return value.astype(spec.dtype)


def _given_names(out: Path) -> list[str]:
    """Return the conditions whose rows the user gave; none without the calibration set."""
    record = read_record(out / STATE / "data.json")
    if record is None or not (out / _CLEAN).is_file():
        return []
    return [str(name) for name in record.result.get("conditions", [])]


def _rows(path: Path, name: str, n: int) -> Array:
    """Return the rows (n, ...) that the images 0 to n - 1 take, from the first again at the end."""
    from safetensors import safe_open

    if not path.is_file():
        hint = "open the folder again where it lies now, or give the conditions"
        raise InputError(f"{path} is missing: it has the conditions of the report", hint=hint)
    with safe_open(path, framework="np") as file:
        stored = file.get_slice(name)
        total = stored.get_shape()[0]
        first: Array = stored[: min(n, total)]
    rows: Array = first[np.arange(n) % total]
    return rows


def _class_count(out: Path) -> int | None:
    """Return how many classes the denoiser knows; None for none, or where OUT/model is not here."""
    try:
        name = str(read_lock(out)["model"]["class_name"])
        config = read_json(out / "model" / component_of(name) / "config.json")
        return family(name).class_count(config)
    except (DiffcError, OSError):
        return None
