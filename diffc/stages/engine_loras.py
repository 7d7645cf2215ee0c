"""LoRAs for the engines of OUT, which a call picks by name: OUT/engines/TARGET/loras/SIDE.

An engine's file holds the network's weights as they are, in fp32, or it does not; where it does,
each weight that a LoRA changes is looked for by its content, so that no format is known here.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from diffc.bundle.contents import loras_folder
from diffc.errors import InputError, RequestError
from diffc.models.load import load_denoiser
from diffc.models.loras.files import DENOISER, ComponentLoras, LoraFile
from diffc.models.loras.pairs import LoraPair, read_pairs
from diffc.models.source import find_source
from diffc.output import SIDES, engine_folder
from diffc.prune.lora import shapes_of
from diffc.stages.adapt import cut_for
from diffc.stages.order import source_of
from diffc_export.targets.engine import NAME
from diffc_runtime.engine_folder import LORA_SUFFIX, check_files, read_engine_json
from diffc_runtime.loras import EngineLora, WeightChange, find_weight
from diffc_runtime.values import Array

_NAME = re.compile(r"\w[\w.-]{0,99}")
_FUSE = "`diffc build OUT --lora` fuses a LoRA, for every target and precision"


@dataclass(frozen=True)
class AdaptedEngine:
    """One engine that takes the LoRA, or does not.

    Attributes:
        target: The engine's target.
        side: ``dense`` or ``compressed``.
        path: The LoRA's file; None where the engine does not take it.
        layers: How many layers it changes.
        left_out: How many layers of the LoRA the compressed model does not have.
        reason: Why the engine does not take it; "" where it does.
    """

    target: str
    side: str
    path: Path | None
    layers: int = 0
    left_out: int = 0
    reason: str = ""


@dataclass(frozen=True)
class SideChanges:
    """What a LoRA changes in one side's network.

    Attributes:
        weights: The network's tensors.
        pairs: The changes.
        left_out: How many layers of the LoRA the network does not have.
    """

    weights: Mapping[str, Tensor]
    pairs: Sequence[LoraPair]
    left_out: int


def adapt_to_engines(lora: LoraFile, out: Path, name: str, force: bool) -> list[AdaptedEngine]:
    """Write a LoRA of the dense model for every engine of OUT that takes it.

    Args:
        lora: The LoRA of the dense model.
        out: The output folder.
        name: What calls name it by.
        force: True replaces another LoRA of that name.

    Returns:
        Every engine of OUT.

    Raises:
        InputError: The LoRA does not fit the model, no engine takes it, or the name is taken.
    """
    engines = list(_engines(out))
    if not engines:
        raise InputError(f"{out} holds no engines", hint=f"diffc build {out} makes them")
    if lora.components != {DENOISER}:
        others = " and ".join(sorted(lora.components - {DENOISER}))
        raise InputError(
            f"{lora.path} changes {others}, and calls change the denoiser alone", hint=_FUSE
        )
    paths = {engine: loras_folder(engine) / f"{name}{LORA_SUFFIX}" for _, _, engine in engines}
    there = [path for path in paths.values() if path.exists()]
    if there and not force:
        raise InputError(f"{there[0]} is there already", hint="--name gives another, or --force")
    sides = {side: _side_changes(lora, out, side) for side in {side for _, side, _ in engines}}
    results, files = [], {}
    for target, side, engine in engines:
        changes = sides[side]
        try:
            files[paths[engine]] = engine_lora(engine, changes, lora.weight)
        except InputError as error:
            results.append(AdaptedEngine(target, side, None, reason=str(error)))
            continue
        results.append(
            AdaptedEngine(target, side, paths[engine], len(changes.pairs), changes.left_out)
        )
    if not files:
        raise InputError(f"no engine of {out} takes the LoRA: {results[0].reason}", hint=_FUSE)
    for path, content in files.items():
        content.write(path)
    return results


def check_name(name: str) -> str:
    """Return a name that can be a file's. Raises RequestError for another."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"'{name}' cannot be a LoRA's name", hint="--name: letters, digits, '-', '_' and '.'"
        )
    return name


def _engines(out: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (target, side, folder) of every denoiser's engine."""
    for folder in sorted((out / "engines").glob("*")):
        for side in SIDES:
            engine = engine_folder(out, folder.name, side)
            if (engine / NAME).is_file():
                yield folder.name, side, engine


def _side_changes(lora: LoraFile, out: Path, side: str) -> SideChanges:
    """Return the changes of one side: the LoRA's own, or those cut by the plan of OUT."""
    if side == "compressed":
        cut = cut_for(lora, out)
        state = load_denoiser(find_source(out / "model")).state_dict()
        return SideChanges(state, cut.pairs, len(cut.left_out))
    source = source_of(out)
    state = (dense := load_denoiser(source)).state_dict()
    loras = ComponentLoras((lora,), source.class_name, source.config)
    return SideChanges(state, read_pairs(lora, source.component, shapes_of(dense), loras), 0)


def engine_lora(engine: Path, side: SideChanges, weight: float) -> EngineLora:
    """Return a LoRA as an engine takes it.

    Args:
        engine: The engine's folder.
        side: What the LoRA changes in its network.
        weight: The factor of the changes.

    Raises:
        InputError: The engine's files do not hold a weight as it is in the network.
    """
    info = read_engine_json(engine)
    check_files(engine, info["files"])
    twins = _Twins(side.weights)
    places: list[WeightChange] = []
    for pair in side.pairs:
        value = side.weights[f"{pair.layer}.weight"]
        if (twin := twins.of(f"{pair.layer}.weight")) is not None:
            raise InputError(
                f"{pair.layer} has the same weight as {twin}: no call can tell them apart"
            )
        places.append(_change(engine, info["files"], pair, value, weight, places))
    return EngineLora({one.file: info["files"][one.file] for one in places}, tuple(places))


def _change(
    engine: Path,
    files: Mapping[str, str],
    pair: LoraPair,
    value: Tensor,
    weight: float,
    before: Sequence[WeightChange],
) -> WeightChange:
    """Return one layer's change where its weight lies in the engine's files."""
    matrix: Array = value.detach().float().flatten(1).numpy()
    up = (pair.up.float().flatten(1) * (weight * pair.scale)).numpy()
    down = pair.down.float().flatten(1).numpy()
    for name in files:
        near = max((one.offset for one in before if one.file == name), default=0)
        place = _find(engine / name, matrix, near)
        if place is not None:
            offset, transposed = place
            left, right = (down.T, up.T) if transposed else (up, down)
            both = (np.ascontiguousarray(part, np.float32) for part in (left, right))
            return WeightChange(pair.layer, name, offset, *both)
    raise InputError(
        f"{engine} does not hold the weight of {pair.layer} as the network has it in fp32"
    )


def _find(file: Path, matrix: Array, near: int) -> tuple[int, bool] | None:
    if file.stat().st_size < matrix.nbytes:
        return None
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return find_weight(content, matrix, near)


class _Twins:
    """Weights that are the same as another: an engine's file may hold them once."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._by_content: dict[bytes, list[str]] = {}
        self._keys = {name: _key(value) for name, value in weights.items() if value.ndim >= 2}
        for name, key in self._keys.items():
            self._by_content.setdefault(key, []).append(name)

    def of(self, name: str) -> str | None:
        """Return another tensor with the content of ``name``; None where there is none."""
        others = [one for one in self._by_content[self._keys[name]] if one != name]
        return others[0] if others else None


def _key(value: Tensor) -> bytes:
    import hashlib

    return hashlib.sha256(value.detach().float().contiguous().numpy().tobytes()).digest()
