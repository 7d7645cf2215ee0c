"""The output folder: whose run it holds, recipe.lock.yaml, and where its files lie.

onnx/SIDE             what torch exported; onnx/PRECISION/SIDE where a file had to be written
engines/TARGET/SIDE   what was built of it
.diffc/               the stages' records
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffc import __version__
from diffc.errors import InputError
from diffc.models.files import nearest_folder
from diffc.models.shipped import is_shipped
from diffc.models.source import Source
from diffc.recipe import Recipe, validate
from diffc.recipe.files import LOCK_FORMAT
from diffc.recipe.yaml_file import read_yaml
from diffc.stage_records import STATE
from diffc_export.targets.onnx_file import DESCRIPTION, REFERENCE
from diffc_runtime.engine_folder import MASKED_DECODER_FOLDER
from diffc_runtime.files import short_name, write_text
from diffc_runtime.machine.packages import version as package_version

LOCK = "recipe.lock.yaml"
NOTES = f"{STATE}/preflight.json"
"""What the checks before the first stage had to say of the run that the folder holds."""

_VERSIONS = (
    "torch", "diffusers", "accelerate", "safetensors", "torch-pruning", "onnx", "onnxscript",
    "onnxslim", "numpy",
)  # fmt: skip


SIDES = ("dense", "compressed")
DECODER = "decoder"
"""The third name beside ``SIDES``: the VAE's decoder of a latent pipeline."""
VAE_ENCODER = "encoder"
"""The fourth: the VAE's encoder."""
MASKED_DECODER = MASKED_DECODER_FOLDER
"""The fifth: the decoder once more, of a VAE whose decoder takes what a mask keeps of an image."""


def onnx_folder(out: Path, side: str) -> Path:
    """OUT/onnx/SIDE. Raises InputError when it is not there."""
    folder = out / "onnx" / side
    if not (folder / DESCRIPTION).is_file():
        raise InputError(
            f"{folder} holds no exported model", hint=f"diffc export {out} makes it (needs torch)"
        )
    return folder


def reference_file(out: Path, side: str) -> Path:
    """What torch gave, beside OUT/onnx/SIDE. Raises InputError when it is not there."""
    path = onnx_folder(out, side) / REFERENCE
    if not path.is_file():
        raise InputError(
            f"{path} is missing: parity has no reference",
            hint=f"diffc export {out} writes it again (needs torch)",
        )
    return path


def engine_folder(out: Path, target: str, side: str) -> Path:
    """OUT/engines/TARGET/SIDE."""
    return out / "engines" / target / side


def default_out(model: str, ratio: float | str) -> Path:
    """diffc-out/NAME-RATIO: a folder of its own for each model and ratio, or NAME-WORD.

    NAME is the folder's real name, of ``.`` too, without dashes and dots at its front: those would
    be taken for a flag, or hide the folder.
    """
    folder = Path(model).expanduser()
    real = folder.absolute() if folder.is_dir() else folder
    name = Path(os.path.normpath(real)).name.lstrip("-.")
    word = ratio if isinstance(ratio, str) else f"{ratio:g}"
    return Path("diffc-out") / f"{short_name(name) or 'model'}-{word}"


def is_output(folder: Path) -> bool:
    """Whether ``folder`` holds a run of diffc."""
    return (folder / LOCK).is_file()


def check_out(out: Path) -> None:
    """Refuse an ``out`` that is neither new nor empty nor a run of diffc; nothing is touched.

    Raises:
        InputError: it is a file, or holds something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out} is a file", hint="give a folder")
    if not is_output(out) and any(out.iterdir()):
        raise InputError(
            f"{out} is not empty and holds no run of diffc", hint="choose another --out"
        )


def check_same_model(out: Path, source: Source) -> None:
    """Refuse an ``out`` that holds a run of another model. Reads every weight of ``source``.

    Raises:
        InputError: naming both models.
    """
    if not is_output(out):
        return
    lock = read_lock(out)
    earlier = lock["model"]
    if base_digest(lock) != source.base.digest:
        before = earlier["name"] + _with_words(lora_texts(lock))
        now = source.name + _with_words(source.all_loras)
        raise InputError(
            f"{out} holds a run of another model: '{before}' ({earlier['class_name']}, "
            f"{earlier['digest'][:12]}), not '{now}' ({source.digest[:12]})",
            hint="choose another --out, or remove that folder yourself",
        )


def base_digest(lock: Mapping[str, Any]) -> str:
    """The digest of the model that a run compressed: without LoRAs that came after it."""
    model = lock["model"]
    return str(model.get("base", model["digest"]))


def lora_texts(lock: Mapping[str, Any]) -> list[str]:
    """FILE:weight of every LoRA of a run's dense model; none in locks of an older diffc."""
    names = ("loras", "adapted_loras")
    return [str(text) for name in names for text in lock["recipe"].get(name, ())]


def _with_words(loras: Sequence[object]) -> str:
    return f" with {len(loras)} LoRA{'s' * (len(loras) > 1)}" if loras else ""


def write_lock(out: Path, source: Source, recipe: Recipe, stages: Mapping[str, str]) -> None:
    """recipe.lock.yaml: every value resolved, every version, every input's hash."""
    model: dict[str, Any] = {
        "name": source.name,
        "folder": str(source.folder.resolve()),
        "class_name": source.class_name,
        "digest": source.digest,
    }
    if source.adapted:
        model["base"] = source.base.digest
    if source.all_loras:
        model["loras"] = [
            {"file": str(lora.path), "sha256": lora.digest, "weight": lora.weight}
            for lora in source.all_loras
        ]
    write_lock_of(out, model, recipe, stages)


def write_lock_of(
    out: Path, model: Mapping[str, Any], recipe: Recipe, stages: Mapping[str, str]
) -> None:
    """The same where the model is known from an earlier lock alone."""
    from diffc_export.targets import engine_packages

    names = dict.fromkeys((*_VERSIONS, *engine_packages()))
    versions = {name: package_version(name) for name in names}
    value = {
        "format": LOCK_FORMAT,
        "diffc": __version__,
        "model": dict(model),
        "recipe": recipe.model_dump(mode="json"),
        "versions": {name: version for name, version in versions.items() if version},
        "stages": dict(stages),
    }
    write_text(out / LOCK, yaml.safe_dump(value, sort_keys=False))


def no_run(out: Path, hint: str) -> InputError:
    """The error for an ``out`` without a run: with the nearest name where there is no such folder.

    Args:
        out: What was given as an output folder.
        hint: What to do instead.
    """
    if out.exists() or is_shipped(str(out)):
        return InputError(f"{out} holds no run of diffc", hint=hint)
    near = nearest_folder(out)
    meant = f"did you mean {near}? Else " if near and is_output(Path(near)) else ""
    return InputError(f"there is no folder {out}", hint=meant + hint)


def read_lock(out: Path) -> dict[str, Any]:
    """An output folder's recipe.lock.yaml. Raises InputError when there is none, or it is newer."""
    if not is_output(out):
        is_model = is_shipped(str(out))
        hint = "it is a model: diffc compile" if is_model else "make one: diffc compile MODEL --out"
        raise no_run(out, f"{hint} {out}")
    lock = read_yaml(out / LOCK)
    if lock.get("format") != LOCK_FORMAT:
        raise InputError(
            f"{out / LOCK} is of format {lock.get('format')}; this diffc reads {LOCK_FORMAT}"
        )
    _check_parts(lock, out)
    return lock


_MODEL_PARTS = ("name", "folder", "class_name", "digest")


def _check_parts(lock: Mapping[str, Any], out: Path) -> None:
    """Raise InputError naming the first thing that ``write_lock_of`` writes and ``lock`` lacks."""
    for part in ("model", "recipe", "stages"):
        if not isinstance(lock.get(part), dict):
            raise _damaged(out, part)
    for part in _MODEL_PARTS:
        if not isinstance(lock["model"].get(part), str):
            raise _damaged(out, f"model.{part}")


def _damaged(out: Path, part: str) -> InputError:
    return InputError(
        f"{out / LOCK} is damaged: it has no '{part}'",
        hint="restore the file, or compile again into another folder",
    )


def locked_recipe(out: Path) -> Recipe:
    """The recipe that an output folder was made with."""
    return validate(Recipe, read_lock(out)["recipe"], str(out / LOCK))


def write_notes(out: Path, notes: Sequence[str]) -> None:
    """Keep a run's notes in OUT, for its report."""
    write_text(out / NOTES, json.dumps(list(notes), indent=1) + "\n")


def read_notes(out: Path) -> list[str]:
    """The notes of the run that OUT holds; none for a folder of an older diffc.

    A damaged file is as good as none, as it is of the stages' records.
    """
    try:
        notes = json.loads((out / NOTES).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [str(note) for note in notes] if isinstance(notes, list) else []
