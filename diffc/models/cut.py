"""Compressed models: pruning.json, and loading them again without pickle.

The weights are ordinary safetensors with smaller tensors, beside the *dense* config. Loading builds
the dense skeleton on the meta device, gives every tensor the shape that it has in the file, adapts
the size attributes to the shapes, sets the few attributes that no shape tells (numbers of heads),
and assigns the weights. pruning.json carries those attributes, and the names of branches that were
left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffc.errors import InputError
from diffc.models.branches import remove_branches, removed_branches
from diffc.models.classes import network_class
from diffc.models.families import family
from diffc.models.layout import PICKLED, SAFE, WeightFiles
from diffc.models.sizes import follow_shapes, replace_tensor
from diffc.models.source import PRUNING_FILE, PRUNING_KEY, Source, read_json
from diffc.models.states import read_state
from diffc_runtime.json_types import JsonDict, JsonObject

FORMATS = (1, 2)
"""2 names branches that were left out (``removed``). A cut without any is written as 1, which older
diffc reads too."""
_OF_TRAINING = ("training", "gradient_checkpointing")  # states of a run, not of the model


def skeleton(
    class_name: str, config: JsonObject, *, real_buffers: bool = False, kind: Any = None
) -> nn.Module:
    """Build a network of diffusers on the meta device: shapes without memory.

    Args:
        class_name: The network's class.
        config: Its config.
        real_buffers: True computes buffers on the CPU. Position embeddings are buffers that no file
            holds.
        kind: The class itself; None: the one of that name, a family's or of diffusers' own list.

    Raises:
        InputError: The class refuses the config.
    """
    from accelerate import init_empty_weights

    kind = network_class(class_name) if kind is None else kind
    empty = init_empty_weights(include_buffers=False) if real_buffers else torch.device("meta")
    try:
        with empty:
            model: nn.Module = kind.from_config(dict(config))
    except Exception as error:  # the class's own code: any kind, of a config that is the user's
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"a {class_name} cannot be made from its config: {lines[0].rstrip(':')[:160]}",
            hint="check its config.json",
        ) from error
    return model.eval()


def attribute_changes(model: nn.Module, from_shapes: nn.Module) -> dict[str, JsonDict]:
    """Return module name -> the plain attributes of ``model`` that its tensors' shapes do not tell.

    Args:
        model: The cut model.
        from_shapes: The model that is rebuilt from the shapes alone.
    """
    changes: dict[str, JsonDict] = {}
    originals = dict(from_shapes.named_modules())
    for name, module in model.named_modules():
        before = vars(originals[name])
        changed = {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_")
            and isinstance(value, int | float | tuple)
            and key not in _OF_TRAINING
            and before.get(key) != value
        }
        if changed:
            changes[name] = changed
    return changes


def write_pruning(
    path: Path,
    model: nn.Module,
    class_name: str,
    config: JsonObject,
    facts: JsonObject,
) -> None:
    """Write pruning.json for a cut model.

    Args:
        path: The file to write.
        model: The cut model.
        class_name: Its class.
        config: The dense config.
        facts: Further content for human readers: component, source, widths.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    removed = {"removed": names} if (names := removed_branches(model)) else {}
    from_shapes = cut_skeleton(class_name, config, shapes, {"attributes": {}, **removed})
    attributes = attribute_changes(model, from_shapes)
    value = {
        "format": FORMATS[bool(removed)],
        "class_name": class_name,
        **facts,
        **removed,
        "attributes": attributes,
    }
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def write_plain_pruning(path: Path, class_name: str, facts: JsonObject) -> None:
    """Write pruning.json of a cut that the model's own config says in full.

    Args:
        path: The file to write.
        class_name: The model's class.
        facts: As ``write_pruning`` has them.
    """
    value = {"format": FORMATS[0], "class_name": class_name, **facts, "attributes": {}}
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def read_pruning(folder: Path) -> JsonDict:
    """Return pruning.json of a compressed model's folder.

    Raises:
        InputError: The file has another format or is damaged.
    """
    return _check_pruning(read_json(folder / PRUNING_FILE), folder / PRUNING_FILE)


def pruning_of(source: Source) -> JsonDict:
    """Return the content of pruning.json of a compressed source, or else its config's entry."""
    if source.pruning is not None:
        return read_pruning(source.folder)
    where = source.denoiser.config_path or source.denoiser_folder
    return _check_pruning(source.saved_pruning, where)


def remember_pruning(model: nn.Module, pruning: JsonObject) -> None:
    """Add the cut to the config of a cut model, so that ``save_pretrained`` keeps it."""
    keys = ("format", "class_name", "removed", "attributes")
    kept = {key: pruning[key] for key in keys if key in pruning}
    model.register_to_config(**{PRUNING_KEY: kept})  # type: ignore[operator]


def _check_pruning(content: object, where: Path) -> JsonDict:
    value: JsonDict = content if isinstance(content, dict) else {}
    if value.get("format") not in FORMATS:
        raise InputError(
            f"{where} has format {value.get('format')} of pruning; this diffc reads "
            f"{' and '.join(map(str, FORMATS))}",
            hint="install the diffc version that made it",
        )
    changes = value.get("attributes")
    if not isinstance(changes, dict) or not all(isinstance(v, dict) for v in changes.values()):
        raise InputError(
            f"{where} is damaged: its attributes of pruning are not a table",
            hint="copy the file again from the folder that diffc wrote",
        )
    removed = value.get("removed", [])
    if not isinstance(removed, list) or not all(isinstance(name, str) for name in removed):
        raise InputError(
            f"{where} is damaged: its removed parts are not a list of names",
            hint="copy the file again from the folder that diffc wrote",
        )
    return dict(value)


def load_cut(
    class_name: str,
    config: JsonObject,
    weights: tuple[Path, ...],
    pruning: JsonObject,
) -> nn.Module:
    """Return the cut denoiser in the files' own dtypes, bit-identical to what was saved.

    Args:
        class_name: The denoiser's class.
        config: The dense config.
        weights: The safetensors files, or the pickles where these may be read.
        pruning: The content of pruning.json.
    """
    is_safe = all(path.suffix == f".{SAFE}" for path in weights)
    state = read_state(WeightFiles(weights, "", SAFE if is_safe else PICKLED))
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    model = cut_skeleton(class_name, config, shapes, pruning, real_buffers=True)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def cut_skeleton(
    class_name: str,
    config: JsonObject,
    shapes: Mapping[str, tuple[int, ...]],
    pruning: JsonObject,
    *,
    real_buffers: bool = False,
) -> nn.Module:
    """Build the cut denoiser on the meta device.

    Args:
        class_name: The denoiser's class.
        config: The dense config.
        shapes: Tensor name -> its shape in the cut model.
        pruning: The content of pruning.json.
        real_buffers: As in ``skeleton``.
    """
    model = skeleton(class_name, config, real_buffers=real_buffers)
    leave_out(model, class_name, pruning)
    for name, old in model.state_dict().items():
        if name in shapes and tuple(shapes[name]) != tuple(old.shape):
            replace_tensor(model, name, torch.empty(shapes[name], dtype=old.dtype, device="meta"))
    follow_shapes(model)
    for name, attributes in pruning["attributes"].items():
        _set_attributes(model, name, attributes)
    return model


def leave_out(model: nn.Module, class_name: str, pruning: JsonObject) -> None:
    """Leave out of a dense ``model``, in place, the branches that its cut removed.

    Args:
        model: The network, on any device.
        class_name: Its class.
        pruning: The content of pruning.json.

    Raises:
        InputError: A branch is named that the class does not have.
    """
    names = pruning.get("removed", [])
    if not names:
        return
    branches = {branch.name: branch for branch in family(class_name).branches(model)}
    for name in names:
        if name not in branches:
            raise InputError(
                f"pruning.json leaves out '{name}', which a {class_name} does not have",
                hint="it belongs to another model: copy the one from the folder that diffc wrote",
            )
    remove_branches(model, [branches[name] for name in names])


def _set_attributes(model: nn.Module, name: str, attributes: JsonObject) -> None:
    """Set the attributes of one module that no shape tells.

    Raises:
        InputError: The model has no such module or attribute.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        raise InputError(
            f"pruning.json speaks of '{name}', which a {type(model).__name__} does not have",
            hint="it belongs to another model: copy the one from the folder that diffc wrote",
        )
    for key, value in attributes.items():
        old = vars(modules[name]).get(key)
        value = tuple(value) if isinstance(value, list) else value
        if not isinstance(old, int | float | tuple) or not isinstance(value, int | float | tuple):
            raise InputError(
                f"pruning.json sets '{key}' of '{name}', which is not a number there",
                hint="it belongs to another model: copy the one from the folder that diffc wrote",
            )
        setattr(modules[name], key, value)
