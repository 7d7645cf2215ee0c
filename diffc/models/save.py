"""A pipeline folder around a cut denoiser: what ``load`` opens again, whatever the source was.

The folder holds the source's own components and nothing else that lay in the source's folder. Each
has a folder of its name and weights under the plain names, so that every library finds them: a flat
repository, a variant, old names of shards and pickles end here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from diffc.models.components import (
    CARD,
    CUT_LIBRARY,
    DENSE_CARD,
    INDEX,
    SCHEDULER_CONFIG,
    Component,
)
from diffc.models.cut import write_plain_pruning, write_pruning
from diffc.models.dtypes import stored_dtypes
from diffc.models.families import family, flow_keys
from diffc.models.files import tensor_entries
from diffc.models.layout import DIFFUSERS_STEMS, WeightFiles
from diffc.models.loras.fusing import fuse_state
from diffc.models.other_parts import check_readable, is_whole, other_parts, text_files
from diffc.models.shallower import as_shallower
from diffc.models.source import PRUNING_FILE, PRUNING_KEY, Source, read_json
from diffc.models.states import read_state
from diffc.placing import place_file


def save_compressed(
    model: nn.Module,
    source: Source,
    folder: Path,
    summary: Mapping[str, Any],
    *,
    plain: bool = False,
) -> None:
    """Write ``folder``: the cut ``model`` in the source's place, the source's other components.

    Args:
        model: The cut denoiser.
        source: What it was cut from.
        folder: Does not have to exist.
        summary: What pruning.json says of the cut, for people.
        plain: True writes a model that lost whole blocks alone as one of fewer layers, which
            diffusers opens without diffc. Its blocks are then numbered anew.
    """
    component = folder / source.component
    component.mkdir(parents=True, exist_ok=True)
    fewer = as_shallower(model, family(source.class_name), source.config) if plain else None
    if source.is_pipeline:
        _copy_parts(source, folder, is_plain=fewer is not None)
    elif source.scheduler:
        _copy_scheduler(source, folder)
    config = read_json(source.denoiser.config_path or source.denoiser_folder / "config.json")
    config.pop(PRUNING_KEY, None)  # of an earlier cut
    state = stored_dtypes(source.denoiser, model).cast(model.state_dict())
    if fewer is not None:
        config |= fewer.entries
        state = {fewer.names[name]: value for name, value in state.items()}
    (component / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    save_file(state, component / f"{DIFFUSERS_STEMS[0]}.safetensors", metadata={"format": "pt"})
    facts = {
        "component": source.component,
        "source": source.name,
        "digest": source.digest,
        **summary,
    }
    if fewer is None:
        write_pruning(folder / PRUNING_FILE, model, source.class_name, source.config, facts)
    else:
        facts["kept_blocks"] = fewer.kept
        write_plain_pruning(folder / PRUNING_FILE, source.class_name, facts)


def write_scheduler(folder: Path, config: Mapping[str, Any]) -> None:
    """Give a saved model another scheduler, in its config and in model_index.json.

    Args:
        folder: Of ``save_compressed``.
        config: The content of scheduler_config.json, with its ``_class_name``.
    """
    places = [folder / "scheduler" / SCHEDULER_CONFIG, folder / SCHEDULER_CONFIG]
    goal = next((place for place in places if place.is_file()), places[0])
    goal.parent.mkdir(exist_ok=True)
    added = flow_keys()
    own = {key: value for key, value in config.items() if key not in added}
    goal.write_text(json.dumps(own, indent=2) + "\n", "utf-8")
    if (folder / INDEX).is_file():
        index = {**read_json(folder / INDEX), "scheduler": ["diffusers", config["_class_name"]]}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _copy_parts(source: Source, folder: Path, *, is_plain: bool) -> None:
    """model_index.json, licence and card, and every component but the denoiser.

    is_plain: whether the denoiser is an ordinary one of its class.

    The card is of the dense model and is called so: the compressed model's own is written with the
    report. A component that the index names and that is not there, or not with its weights, becomes
    null: without that, no library opens the folder.
    """
    index = dict(source.index)
    for part in other_parts(source):
        if is_whole(part):
            _copy_component(part, folder / part.name)
        else:
            index[part.name] = [None, None]
    if not is_plain:
        index[source.component] = [CUT_LIBRARY, source.class_name]
    elif index[source.component][0] == CUT_LIBRARY:  # of an earlier cut
        index[source.component] = [family(source.class_name).library, source.class_name]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    for path in text_files(source):
        _copy(path, folder / (DENSE_CARD if path.name == CARD else path.name))


def _copy_scheduler(source: Source, folder: Path) -> None:
    """The scheduler's config of a denoiser that has no pipeline around it."""
    for name in (f"scheduler/{SCHEDULER_CONFIG}", SCHEDULER_CONFIG):
        if (source.folder / name).is_file():
            _copy(source.folder / name, folder / name)
            return


def _copy_component(part: Component, folder: Path) -> None:
    """A component's files, its weights under the plain names."""
    weights = part.weights
    own = {*weights.paths, weights.index} if weights is not None else set()
    folder.mkdir(parents=True, exist_ok=True)
    for path in part.files:
        if path not in own:
            _copy(path, folder / path.name)
    if weights is None:
        return
    if part.loras is not None:
        _save_fused(part, weights, folder / f"{part.stems[0]}.safetensors")
    elif not weights.is_pickled:
        _copy_weights(weights, part.stems[0], folder)
    elif part.allow_pickle:
        _convert_pickles(weights, folder / f"{part.stems[0]}.safetensors")
    else:  # not to be read, and not read here
        for path in weights.paths:
            _copy(path, folder / path.name)


def _copy_weights(weights: WeightFiles, stem: str, folder: Path) -> None:
    """One variant's files under the plain names, with an index where there are several."""
    count = len(weights.paths)
    if count == 1:
        _copy(weights.paths[0], folder / f"{stem}.safetensors")
        return
    places: dict[str, str] = {}
    for number, path in enumerate(weights.paths, 1):
        name = f"{stem}-{number:05d}-of-{count:05d}.safetensors"
        _copy(path, folder / name)
        places |= dict.fromkeys(tensor_entries(path), name)
    size = sum(path.stat().st_size for path in weights.paths)
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")


def _save_fused(part: Component, weights: WeightFiles, path: Path) -> None:
    """A component's weights with its LoRAs, in the dtypes of its files."""
    state = read_state(weights)
    fused = fuse_state(part, state)
    apart = {name: value.to(state[name].dtype).clone() for name, value in fused.items()}
    contiguous = {name: value.contiguous() for name, value in apart.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _convert_pickles(weights: WeightFiles, path: Path) -> None:
    """Pickled weights as safetensors: the result needs no leave to be read."""
    state = read_state(weights)
    apart = {name: value.clone().contiguous() for name, value in state.items()}
    save_file(apart, path, metadata={"format": "pt"})


def _copy(path: Path, goal: Path) -> None:
    """A file of its own, which its owner can write, whatever the modes of the source's are."""
    check_readable(path)
    place_file(path, goal)
