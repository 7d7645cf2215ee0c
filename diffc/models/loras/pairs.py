"""LoRA file + names and shapes of a component's tensors -> the pairs of its layers.

peft's, diffusers' and kohya's names are read here (keys.py). Names of the original repositories are
translated by diffusers' own loader of the denoiser's family, which is given tensors and opens no
file. Every key has to fit: a LoRA of which a part is left out is another LoRA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from diffc.errors import InputError
from diffc.models.families import family
from diffc.models.foreign import foreign_errors, quiet_libraries
from diffc.models.loras.files import DENOISER, ComponentLoras, LoraFile, component_of
from diffc.models.loras.keys import (
    ALPHA,
    DOWN,
    UP,
    Key,
    LayerNames,
    alpha_of,
    other_kind,
    read_key,
)

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

_SHOWN = 3
_PLAIN = re.compile(r"\^?[\w.]+")
_SAVE_AGAIN = (
    "load it in diffusers and fuse it there (pipeline.fuse_lora), save the pipeline, and give "
    "that folder as MODEL"
)


@dataclass(frozen=True)
class LoraPair:
    """The change of one layer.

    Attributes:
        layer: The layer's name, without ``.weight``.
        down: A (r, in, *kernel).
        up: B (out, r), of a convolution (out, r, 1, 1).
        scale: alpha / r. The weight of the LoRA is not in it.
    """

    layer: str
    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The number r."""
        return int(self.down.shape[0])

    def change(self, weight: float = 1.0) -> Tensor:
        """Return weight * scale * B A (out, in, *kernel) in float32."""
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        product = weight * self.scale * (up @ down)
        return product.reshape(self.up.shape[0], *self.down.shape[1:])


def read_pairs(lora: LoraFile, name: str, shapes: Shapes, loras: ComponentLoras) -> list[LoraPair]:
    """Return the pairs of one component in a LoRA file, every one checked against the component.

    Args:
        lora: The LoRA file; it may hold pairs of other components too.
        name: The component's name in the pipeline. A name that does not begin with ``text_encoder``
            stands for the denoiser.
        shapes: The shapes of the component's tensors.
        loras: The LoRAs of the same component, with the class and config of the denoiser.

    Returns:
        The pairs by the layers' names; [] where the file has none of the component.

    Raises:
        InputError: The file cannot be read, or holds NaN or infinity; a key fits no layer; half of
            a pair is missing; the ranks of a pair differ; a change is not of its layer's shape; or
            the adapter's config names layers by a regular expression.
    """
    part = name if name.startswith("text_encoder") else DENOISER
    state = {key: value for key, value in _tensors(lora).items() if component_of(key) == part}
    layers = LayerNames([key.removesuffix(".weight") for key in shapes if key.endswith(".weight")])
    keys, unknown = _by_layer(state, layers)
    if unknown and part == DENOISER and other_kind(unknown) is None:
        translated = _translated(state, lora, loras)
        if translated is not None:
            again, rest = _by_layer(translated, layers)
            if not rest:
                state, keys, unknown = translated, again, []
    if unknown:
        raise _strange_keys(lora, name, unknown, len(state))
    settings = _settings(lora, name)
    pairs = [_pair(lora, layer, keys[layer], state, settings) for layer in sorted(keys)]
    for pair in pairs:
        _check_pair(lora, name, pair, shapes[f"{pair.layer}.weight"])
    return pairs


def _tensors(lora: LoraFile) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    assert lora.entries  # the header is checked first: truncated files are refused there
    with foreign_errors(f"{lora.path} cannot be read", hint="copy the file again"):
        state: dict[str, Tensor] = load_file(lora.path)
    for key, value in state.items():
        if not torch.isfinite(value.float()).all():
            raise InputError(
                f"{lora.path} holds NaN or infinity in {key}",
                hint="the file is damaged or its training diverged; nothing was done",
            )
    return state


def _by_layer(
    names: Collection[str], layers: LayerNames
) -> tuple[dict[str, dict[str, Key]], list[str]]:
    """Layer -> role -> key, and the names that fit nowhere or are there twice."""
    placed: dict[str, dict[str, Key]] = {}
    unknown = []
    for name in names:
        key = read_key(name)
        layer = None if key is None else layers.find(key.layer)
        if key is None or layer is None or key.role in placed.get(layer, {}):
            unknown.append(name)
        else:
            placed.setdefault(layer, {})[key.role] = key
    return placed, unknown


def _translated(
    state: Mapping[str, Tensor], lora: LoraFile, loras: ComponentLoras
) -> dict[str, Tensor] | None:
    """The tensors under diffusers' names, by its loader for the family; None where it has none."""
    loader = family(loras.class_name).lora_loader
    if loader is None:
        return None
    import diffusers.loaders

    kind: Any = getattr(diffusers.loaders, loader)
    layers = SimpleNamespace(layers_per_block=loras.config.get("layers_per_block", 2))
    takes = {"unet_config": layers} if family(loras.class_name).component == "unet" else {}
    try:
        with quiet_libraries():
            result = kind.lora_state_dict(dict(state), **takes)
    except Exception:  # the library's own code, of names that it does not know either
        return None
    tensors, alphas = result if isinstance(result, tuple) else (result, None)
    numbers = {name: torch.tensor(float(value)) for name, value in (alphas or {}).items()}
    return {**tensors, **numbers}


def _settings(lora: LoraFile, name: str) -> dict[str, object]:
    """What the adapter's config says of one component.

    Raises:
        InputError: It names layers by a regular expression, which only peft reads.
    """
    config = lora.adapter_config
    prefixes = (name,) if name.startswith("text_encoder") else (name, "unet", "transformer")
    own: dict[str, object] = {}
    for key, value in config.items():
        prefix, _, rest = key.partition(".")
        if not rest or prefix in prefixes:
            own[rest or key] = value
    patterns = own.get("alpha_pattern")
    strange = [one for one in (patterns or ()) if not _PLAIN.fullmatch(str(one))]  # type: ignore[attr-defined]
    if strange:
        raise InputError(
            f"{lora.path}: its config names layers by the regular expression '{strange[0]}'",
            hint=_SAVE_AGAIN,
        )
    return own


def _pair(
    lora: LoraFile,
    layer: str,
    keys: Mapping[str, Key],
    state: Mapping[str, Tensor],
    settings: Mapping[str, object],
) -> LoraPair:
    """The pair of one layer. Raises InputError where half of it is missing."""
    for role, other in ((DOWN, UP), (UP, DOWN)):
        if role not in keys:
            has = keys[other].name if other in keys else keys[ALPHA].name
            raise InputError(
                f"{lora.path} is not whole: it has {has}, and not the other matrix of its pair",
                hint="copy the file again",
            )
    down, up = state[keys[DOWN].name], state[keys[UP].name]
    if down.ndim < 2 or up.ndim < 2 or up.shape[1] != down.shape[0]:
        raise InputError(
            f"{lora.path}: the ranks of {layer} differ: {keys[DOWN].name} is "
            f"{_size(down.shape)}, {keys[UP].name} is {_size(up.shape)}",
            hint="both have to share one rank; the file is damaged, or changes a grouped "
            "convolution, which cannot be fused",
        )
    alpha = float(state[keys[ALPHA].name]) if ALPHA in keys else alpha_of(layer, settings)
    rank = int(down.shape[0])
    divisor = math.sqrt(rank) if settings.get("use_rslora") is True else rank
    scale = 1.0 if alpha is None else alpha / divisor
    if not math.isfinite(scale):
        raise InputError(
            f"{lora.path}: the alpha of {layer} is {alpha}", hint="copy the file again"
        )
    return LoraPair(layer, down, up, scale)


def _check_pair(lora: LoraFile, name: str, pair: LoraPair, shape: tuple[int, ...]) -> None:
    """Raise InputError where a change is not of the shape of the layer that it changes."""
    change = (int(pair.up.shape[0]), *map(int, pair.down.shape[1:]))
    is_plain = all(size == 1 for size in pair.up.shape[2:])
    if not is_plain or without_ones(change) != without_ones(shape):
        raise InputError(
            f"{lora.path} is of another base model: it changes {pair.layer} by {_size(change)}, "
            f"and {name or 'the denoiser'} has {_size(shape)} there",
            hint="give a LoRA of this model; one of a dense model is cut for its compressed model "
            "by diffc adapt",
        )


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without the ones at its end, down to two numbers.

    A convolution with a kernel of 1 then has the shape of the linear layer that it is.
    """
    end = len(shape)
    while end > 2 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def _size(shape: Collection[int]) -> str:
    return "x".join(map(str, shape))


def _strange_keys(lora: LoraFile, name: str, unknown: list[str], count: int) -> InputError:
    kind = other_kind(unknown)
    if kind is not None:
        return InputError(
            f"{lora.path} is {kind}, not a plain LoRA: {unknown[0]}", hint=_SAVE_AGAIN
        )
    shown = ", ".join(_shown(unknown))
    where = name or "the denoiser"
    if len(unknown) == count:
        return InputError(
            f"{lora.path} is a LoRA of another base model: none of its {count} keys is of a layer "
            f"of {where} ({shown})",
            hint="give a LoRA of this model; diffc inspect MODEL lists its layers",
        )
    return InputError(
        f"{len(unknown)} of {count} keys of {lora.path} are of no layer of {where}: {shown}",
        hint="it may be of another version of the model. Save a file without these keys where they "
        "are not wanted; a part of a LoRA is never left out in silence",
    )


def _shown(names: list[str]) -> Iterator[str]:
    yield from names[:_SHOWN]
    if len(names) > _SHOWN:
        yield f"and {len(names) - _SHOWN} more"
