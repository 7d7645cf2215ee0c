"""The components of a model: the entries of model_index.json, their folders and their files.

A component lies in a folder of its own name; in a flat repository it lies in the pipeline's folder.
Nothing here imports torch: class names, configs, headers and hashes are enough to plan, to compute
the stages' keys and to copy a component.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.errors import InputError
from diffc.models.class_names import current_class
from diffc.models.families import denoiser_folders, family, family_names
from diffc.models.files import TensorEntry, read_json
from diffc.models.layout import (
    DIFFUSERS_STEMS,
    TRANSFORMERS_STEMS,
    WeightFiles,
    is_weight_file,
    other_weights,
    weight_files,
)
from diffc_runtime.files import files_digest
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from diffc.models.loras.files import ComponentLoras

INDEX = "model_index.json"
CARD, DENSE_CARD = "README.md", "README.dense.md"
"""A model's card, and the name that the dense model's has in a compressed model's folder."""
CUT_LIBRARY = "diffc"
"""What model_index.json of a compressed model names as its denoiser's library: diffusers then asks
diffc for the class (diffc/compressed.py)."""
SCHEDULER_CONFIG = "scheduler_config.json"
VAE_NAMES = ("vae", "vqvae")

_CONFIGS = ("config.json", SCHEDULER_CONFIG, "preprocessor_config.json", "tokenizer_config.json")
_NO_NETWORKS = ("scheduler", "tokenizer", "processor", "feature_extractor", "featureextractor")
_VOCABULARIES = ("tokenizer.json", "vocab.txt")
_VOCABULARY_ENDINGS = (".model", ".tiktoken")
_VOCABULARY_IN_TWO = {"vocab.json", "merges.txt"}
_OF_BYTES = "ByT5"  # tokens are bytes: no vocabulary
_TOKENIZER_FILES = ("vocab", "merges", "tokenizer", "special_tokens_map", "added_tokens", "spiece")


@dataclass(frozen=True)
class Component:
    """One part of a model.

    Attributes:
        name: Its name in model_index.json; ``""`` for a folder that is one component alone.
        library: The library of its class, as model_index.json names it.
        class_name: Its class, with today's name for an older one.
        folder: The folder of its files.
        is_flat: True if that folder is the pipeline's own.
        allow_pickle: True if its pickled weights may be read.
        loras: The LoRAs that are fused into it; None for none.
    """

    name: str
    library: str
    class_name: str
    folder: Path
    is_flat: bool = False
    allow_pickle: bool = field(default=False, compare=False)
    loras: ComponentLoras | None = field(default=None, compare=False)

    @property
    def exists(self) -> bool:
        """True if any of its files are there: a partial download lacks whole folders."""
        return self.folder.is_dir() and (not self.is_flat or self.config_path is not None)

    @cached_property
    def config_path(self) -> Path | None:
        """Its config file; None if there is none."""
        if self.is_flat:
            name = SCHEDULER_CONFIG if "scheduler" in self.name else "config.json"
            path = self.folder / name
            return path if path.is_file() and self._is_described_by(read_json(path)) else None
        return next((self.folder / n for n in _CONFIGS if (self.folder / n).is_file()), None)

    @cached_property
    def config(self) -> JsonObject:
        """Its config.json; {} if there is none."""
        return read_json(self.config_path) if self.config_path is not None else {}

    @property
    def stems(self) -> tuple[str, ...]:
        """The names, without suffixes, that the component's library gives to its weight files.

        A pipeline's own classes, such as a safety checker or an image normaliser, are of either
        library; the one that wrote the config wrote the weights.
        """
        is_diffusers = self.library == "diffusers" or self.class_name in family_names()
        if self.library not in ("diffusers", "transformers"):
            is_diffusers = is_diffusers or "_diffusers_version" in self.config
        return DIFFUSERS_STEMS if is_diffusers else TRANSFORMERS_STEMS

    @property
    def is_network(self) -> bool:
        """True if it has weights: schedulers, tokenizers and image processors have none."""
        return not any(word in f"{self.name}.{self.class_name}".lower() for word in _NO_NETWORKS)

    @property
    def is_text_encoder(self) -> bool:
        """True if the pipeline encodes prompts with it."""
        return self.name.startswith("text_encoder")

    @property
    def is_tokenizer(self) -> bool:
        """True if the pipeline splits prompts into tokens with it."""
        return self.name.startswith("tokenizer")

    @cached_property
    def weights(self) -> WeightFiles | None:
        """Its whole weights, of one variant; None if there are none.

        Raises:
            InputError: An index of the weights is damaged.
        """
        if not (self.is_network and self.exists):
            return None
        return weight_files(self.folder, self.stems, need=False)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file that it is loaded from: configs, vocabularies, the weights of one variant."""
        weights = self.weights
        own = (*weights.paths, weights.index) if weights is not None else ()
        kept = [path for path in own if path is not None]
        if not self.folder.is_dir():
            return ()
        others = [p for p in sorted(self.folder.iterdir()) if p.is_file() and self._is_own(p)]
        return (*others, *kept)

    @cached_property
    def digest(self) -> str:
        """sha256 of its class, of every file that it is loaded from, and of its LoRAs."""
        text = f"{self.library}.{self.class_name}:{files_digest(self.files)}"
        if self.loras is not None:
            text += str([lora.identity for lora in self.loras.files])
        return hashlib.sha256(text.encode()).hexdigest()

    def need_weights(self) -> WeightFiles:
        """Return its weights.

        Raises:
            InputError: There are none, or only pickles that are not allowed.
        """
        self.need_folder()
        weights = weight_files(self.folder, self.stems)
        if weights is None:
            others = other_weights(self.folder)
            instead = f"; it holds {', '.join(others[:3])}" if others else ""
            raise InputError(
                f"{self.folder} has no weights ({self.stems[0]}.safetensors){instead}",
                hint="plan and inspect work from the config alone; everything else needs weights",
            )
        if weights.is_pickled and not self.allow_pickle:
            raise InputError(
                f"{self.folder} has only pickled weights ({weights.paths[0].name}), "
                "which can run code when read",
                hint="convert them to safetensors, or pass --allow-pickle if you trust them",
            )
        return weights

    def tensors(self) -> dict[str, TensorEntry]:
        """Return name -> dtype and shape of every tensor in its safetensors; {} for pickles."""
        weights = self.weights
        if weights is None or weights.is_pickled:
            return {}
        return weights.entries()

    def _is_described_by(self, config: JsonObject) -> bool:
        """True if a config in the pipeline's own folder belongs to this component."""
        named = config.get("_class_name")
        if "scheduler" in self.name or (named is None and self.name in denoiser_folders()):
            return True
        if named is None:
            return self.class_name in (config.get("architectures") or ())
        return current_class(str(named), config) == current_class(self.class_name, config)

    def need_folder(self) -> None:
        """Check that the files of the component are there.

        Raises:
            InputError: The index names the component, and its folder is missing; or it is a
                tokenizer without a vocabulary, of which transformers makes an empty one.
        """
        if self.exists and self.is_tokenizer and not self._has_vocabulary:
            raise InputError(
                f"{self.folder} holds no vocabulary of '{self.name}' ({self.class_name})",
                hint="copy the folder again: tokenizer.json, or vocab.json and merges.txt, or "
                "spiece.model",
            )
        if self.exists:
            return
        named = self.folder if self.is_flat else self.folder.parent
        lacking = self.folder / self.name if self.is_flat else self.folder / "config.json"
        raise InputError(
            f"{named / INDEX} names '{self.name}' ({self.class_name}), but {lacking} is missing",
            hint="download the folder whole, or make the entry [null, null] to go without",
        )

    @property
    def _has_vocabulary(self) -> bool:
        names = {path.name for path in self.folder.iterdir()}
        one = any(n in _VOCABULARIES or n.endswith(_VOCABULARY_ENDINGS) for n in names)
        return one or names >= _VOCABULARY_IN_TWO or self.class_name.startswith(_OF_BYTES)

    def _is_own(self, path: Path) -> bool:
        """True if a file in the folder is loaded with the component; False for weights."""
        if path.name.startswith(".") or is_weight_file(path):
            return False
        if not self.is_flat:
            return True
        if self.is_tokenizer:
            return path.name.startswith(_TOKENIZER_FILES)
        return path == self.config_path


def pipeline_components(
    folder: Path, index: JsonObject, *, allow_pickle: bool = False
) -> tuple[Component, ...]:
    """Return the components that a pipeline's model_index.json names; entries of null are left out.

    Args:
        folder: The pipeline's folder.
        index: The content of model_index.json.
        allow_pickle: True if pickled weights may be read.

    Raises:
        InputError: A name such as ``../x``: a component is copied to a folder of its name.
    """
    components = []
    for name, entry in index.items():
        if not is_component(name, entry):
            continue
        if not name.isidentifier():
            raise InputError(
                f"{folder / INDEX} names a component {name!r}, which is not a folder's name",
                hint="copy the file again from the folder that DiffusionPipeline.save_pretrained "
                "wrote",
            )
        is_flat = not (folder / name).is_dir()
        components.append(
            Component(
                name=name,
                library=_library(str(entry[0]), str(entry[1])),
                class_name=str(entry[1]),
                folder=folder if is_flat else folder / name,
                is_flat=is_flat,
                allow_pickle=allow_pickle,
            )
        )
    return tuple(components)


def _library(named: str, class_name: str) -> str:
    """The library of a class: a cut denoiser's is its family's, although the index says diffc."""
    known = named == CUT_LIBRARY and class_name in family_names()
    return family(class_name).library if known else named


def is_component(name: str, entry: object) -> bool:
    """True if an entry of model_index.json names a component that is there: [library, class]."""
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and not name.startswith("_")
        and all(isinstance(part, str) for part in entry)
    )
