"""The names of tensors in LoRA files: which layer, and which of its two matrices.

peft        base_model.model.down_blocks.0...to_q.lora_A.weight
diffusers   unet.down_blocks.0...to_q.lora_A.weight, ...to_q.lora.down.weight,
            ...processor.to_q_lora.down.weight, text_encoder...q_proj.lora_linear_layer.up.weight
kohya       lora_unet_down_blocks_0_..._to_q.lora_down.weight, and .alpha beside it

Names of the original repositories (``input_blocks``, ``double_blocks``) are translated by diffusers
(pairs.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

DOWN, UP, ALPHA = "down", "up", "alpha"
"""A (r, in), B (out, r), and the number that is divided by r."""

_ROLES = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<role>[AB])(?:\.\w+)?\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_(?P<role>down|up)\.weight"),
    re.compile(r"(?P<layer>.+?)[._]lora\.(?P<role>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_linear_layer\.(?P<role>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.(?P<role>alpha)"),
)
_ENDINGS = re.compile(r"([._]lora|\.lora_linear_layer|\.(down|up)\.weight|\.lora_(A|B|down|up))+$")
"""What a name of an alpha may have behind the layer's."""
_MATRICES = {"A": DOWN, "B": UP}
_KINDS = {
    "a DoRA": re.compile(r"dora_scale|lora_magnitude_vector"),
    "a LoHa": re.compile(r"hada_w\d"),
    "a LoKr": re.compile(r"lokr_w\d|lokr_t\d"),
    "a LoCon with a core (lora_mid)": re.compile(r"lora_mid"),
    "an OFT": re.compile(r"oft_"),
    "a LoRA with biases": re.compile(r"lora_[AB](\.\w+)?\.bias|lora_(up|down)\.bias"),
    "a LoRA of embeddings": re.compile(r"lora_embedding_[AB]"),
    "a file of whole differences": re.compile(r"\.diff(_b)?$"),
}
_PREFIXES = re.compile(r"(?:base_model\.model\.)?(?:(?:unet|transformer|diffusion_model)\.)?")
_ENCODER_PREFIXES = re.compile(r"(?:base_model\.model\.)?(?:text_encoder(?:_\d)?\.)?")
_KOHYA = re.compile(r"lora_(?:unet|transformer|te\d?)_")
_TEXT_MODEL = ("text_model.", "text_model_")
_PROCESSOR = ".processor."


@dataclass(frozen=True)
class Key:
    """What the name of a tensor says.

    Attributes:
        name: The whole name.
        layer: The part that names the layer.
        role: ``DOWN``, ``UP`` or ``ALPHA``.
    """

    name: str
    layer: str
    role: str


def read_key(name: str) -> Key | None:
    """Return what the name of a tensor says; None for a name of another kind."""
    for pattern in _ROLES:
        match = pattern.fullmatch(name)
        if match is not None:
            role = _MATRICES.get(match["role"], match["role"])
            return Key(name, _ENDINGS.sub("", match["layer"]), role)
    return None


def other_kind(names: Iterable[str]) -> str | None:
    """Return which other kind of adapter ``names`` are of, in words; None: of none of them."""
    names = list(names)
    for words, pattern in _KINDS.items():
        if any(pattern.search(name) for name in names):
            return words
    return None


class LayerNames:
    """The layers of a component, by every name that LoRA files call them by."""

    def __init__(self, layers: Collection[str]) -> None:
        """Make the table.

        Args:
            layers: The layers' names, such as ``down_blocks.0.resnets.0.conv1``.
        """
        self._dotted = {_without_text_model(name): name for name in layers}
        self._flat: dict[str, list[str]] = {}
        for name in layers:
            self._flat.setdefault(_flat(name), []).append(name)

    def find(self, text: str) -> str | None:
        """Return the layer that the part ``text`` of a key names; None for none, or for several."""
        if _KOHYA.match(text):
            names = self._flat.get(_flat(_KOHYA.sub("", text, count=1)), [])
            return names[0] if len(names) == 1 else None
        for one in self._spellings(text):
            if one in self._dotted:
                return self._dotted[one]
        return None

    @staticmethod
    def _spellings(text: str) -> Iterable[str]:
        for pattern in (_PREFIXES, _ENCODER_PREFIXES):
            short = pattern.sub("", text, count=1)
            for one in (text, short):
                yield _without_text_model(one)
            if _PROCESSOR in short:  # of the first LoRAs of diffusers, which changed processors
                layer = short.replace(_PROCESSOR, ".")
                yield f"{layer}.0" if layer.endswith(".to_out") else layer


def _flat(name: str) -> str:
    return _without_text_model(name.replace(".", "_"))


def _without_text_model(name: str) -> str:
    """The name without CLIP's outer module, which not every version of transformers writes."""
    for prefix in _TEXT_MODEL:
        name = name.removeprefix(prefix)
    return name


def alpha_of(layer: str, settings: Mapping[str, object]) -> float | None:
    """Return a layer's alpha, by an adapter's config; None where the config says none.

    Args:
        layer: The layer's name.
        settings: What peft's LoraConfig holds.
    """
    patterns = settings.get("alpha_pattern")
    for pattern, alpha in (patterns if isinstance(patterns, dict) else {}).items():
        name = str(pattern).removeprefix("^")
        if layer == name or layer.endswith(f".{name}"):
            return float(alpha)
    alpha = settings.get("lora_alpha")
    return float(alpha) if isinstance(alpha, int | float) else None
