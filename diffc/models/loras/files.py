"""A LoRA file on disk: refused or identified, without importing torch.

What is read here is the header alone, and the hash of the whole file. Pickles are refused: LoRA
files are passed around, and unpickling one can run any code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.errors import InputError
from diffc.models.files import TensorEntry, read_json, tensor_entries
from diffc.recipe.words import read_lora
from diffc_runtime.files import file_digest
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from diffc.models.source import Source

DENOISER = "denoiser"
"""What a key belongs to that names no text encoder."""

_ADAPTER_CONFIG = "adapter_config.json"
_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and peft call the file in a folder of its own."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ENCODER_KEY = re.compile(r"(?:base_model\.model\.)?(?:lora_te(\d?)_|text_encoder(?:_(\d))?\.)")
_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class LoraFile:
    """A LoRA and how strongly it acts.

    Attributes:
        path: Its safetensors file.
        weight: The factor of its changes.
        digest: sha256 of the file, and of peft's adapter_config.json beside it.
    """

    path: Path
    weight: float
    digest: str

    @property
    def words(self) -> str:
        """``style.safetensors at 0.8``."""
        return f"{self.path.name} at {self.weight:g}"

    @property
    def name(self) -> str:
        """The file's name without its ending; its folder's where it has a library's usual name."""
        return self.path.parent.name if self.path.name in _NAMES else self.path.stem

    @property
    def text(self) -> str:
        """As ``--lora`` takes it."""
        return f"{self.path}:{self.weight!r}"

    @property
    def identity(self) -> list[str]:
        """What decides the weights of a model that it is fused into."""
        return [self.digest, repr(self.weight)]

    @cached_property
    def entries(self) -> dict[str, TensorEntry]:
        """Name -> dtype and shape of every tensor."""
        return tensor_entries(self.path)

    @cached_property
    def components(self) -> frozenset[str]:
        """The text encoders that it changes, and ``DENOISER`` where it changes the denoiser."""
        return frozenset(map(component_of, self.entries))

    @cached_property
    def adapter_config(self) -> JsonObject:
        """What peft's adapter_config.json says, or diffusers' entry in the file; {} for none."""
        beside = self.path.parent / _ADAPTER_CONFIG
        if self.path.name == _NAMES[1] and beside.is_file():
            return read_json(beside)
        return _metadata(self.path)


@dataclass(frozen=True)
class ComponentLoras:
    """The LoRAs that change one component.

    Attributes:
        files: The LoRAs, in order.
        class_name: The class of the model's denoiser, whose family knows foreign names of keys.
        config: The denoiser's config.
    """

    files: tuple[LoraFile, ...]
    class_name: str
    config: JsonObject = field(repr=False)


def component_of(key: str) -> str:
    """Return the text encoder that a key of a LoRA names, or ``DENOISER``."""
    match = _ENCODER_KEY.match(key)
    if match is None:
        return DENOISER
    number = match[1] or match[2] or ""
    return f"text_encoder_{number}" if number not in ("", "1") else "text_encoder"


def find_lora(text: str) -> LoraFile:
    """Return the LoRA that ``FILE[:weight]`` names.

    Raises:
        InputError: There is no such file, or it is no safetensors file of tensors.
    """
    name, weight = read_lora(text)
    path = _file_of(Path(name))
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when read; a LoRA has to be safetensors",
            hint="convert it where you trust it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)",
        )
    lora = LoraFile(path, weight, _digest(path))
    if not lora.entries:
        raise InputError(f"{path} holds no tensor", hint="copy the file again")
    return lora


def find_loras(texts: Iterable[str], before: Iterable[LoraFile] = ()) -> tuple[LoraFile, ...]:
    """Return the LoRAs that ``texts`` name.

    Args:
        texts: ``FILE[:weight]`` each.
        before: LoRAs that the model has already.

    Raises:
        InputError: One cannot be used, or comes twice.
    """
    loras: list[LoraFile] = []
    known = {one.digest: one for one in before}
    for text in texts:
        lora = find_lora(text)
        twin = known.get(lora.digest)
        if twin is not None:
            other = f" ({twin.path} holds the same)" if twin.path != lora.path else ""
            raise InputError(
                f"the LoRA {lora.path} was given twice{other}",
                hint=f"give it once, with its whole weight: {lora.path.name}:"
                f"{twin.weight + lora.weight:g}",
            )
        known[lora.digest] = lora
        loras.append(lora)
    return tuple(loras)


def with_loras(source: Source, loras: Iterable[str], adapted: Iterable[str] = ()) -> Source:
    """Return the model with LoRAs fused into it when its weights are read.

    Args:
        source: The model.
        loras: ``FILE[:weight]`` of those that are fused before anything else.
        adapted: The same of those that come after the compression (``Source.adapted``).

    Raises:
        InputError: One cannot be used, or comes twice.
    """
    first = find_loras(loras)
    return replace(source, loras=first, adapted=find_loras(adapted, first))


def model_text(model: str, loras: Iterable[str]) -> str:
    """A model and its LoRAs in one text, a line each, for what names a model by a text alone."""
    return "\n".join([model, *loras])


def find_with_loras(text: str) -> Source:
    """Return the model that a text of ``model_text`` names.

    Raises:
        InputError: The model or a LoRA cannot be used.
    """
    from diffc.models.source import find_source

    model, *loras = text.split("\n")
    return with_loras(find_source(model), loras)


def _file_of(path: Path) -> Path:
    """The file itself, or the one of a usual name in a folder."""
    if path.is_dir():
        names = [path / name for name in _NAMES if (path / name).is_file()]
        if len(names) != 1:
            has = "several LoRAs" if names else f"no {' and no '.join(_NAMES)}"
            raise InputError(f"{path} holds {has}", hint="name the LoRA's file itself")
        return names[0]
    if not path.is_file():
        raise InputError(f"there is no LoRA file '{path}'", hint="a LoRA is FILE or FILE:weight")
    return path


def _digest(path: Path) -> str:
    """sha256 of the file, with peft's config beside it where that says how strong it is."""
    own = file_digest(path)
    beside = path.parent / _ADAPTER_CONFIG
    if path.name != _NAMES[1] or not beside.is_file():
        return own
    return hashlib.sha256(f"{own}{file_digest(beside)}".encode()).hexdigest()


def _metadata(path: Path) -> JsonDict:
    """diffusers' entry of the adapter in a safetensors header; {} for none."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
    try:
        value = json.loads(metadata.get(_METADATA, "{}"))
    except ValueError as error:
        raise InputError(
            f"{path} has a damaged header: its entry {_METADATA} is no JSON",
            hint="copy the file again",
        ) from error
    return value if isinstance(value, dict) else {}
