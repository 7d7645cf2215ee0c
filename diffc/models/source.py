"""Resolves MODEL on the command line to a checked folder, without importing torch.

MODEL is ``demo``, a diffusers folder (a pipeline, or one component of it), or a hub id. Everything
that can be refused cheaply is refused here: no diffusers model, an unsupported or quantised class,
pickled weights, truncated safetensors. Weights are hashed, because the hash is part of every cache
key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from diffc.digests import check_unaltered, file_version, known_digest
from diffc.errors import InputError, RequestError, unknown
from diffc.models import reasons
from diffc.models.class_names import current_class
from diffc.models.components import (
    INDEX,
    SCHEDULER_CONFIG,
    VAE_NAMES,
    Component,
    pipeline_components,
)
from diffc.models.families import component_of, denoiser_folders, family_names, is_own
from diffc.models.families import family as family_of
from diffc.models.files import (
    check_safetensors,
    nearest_folder,
    read_json,
)
from diffc.models.loras.files import DENOISER, ComponentLoras, LoraFile
from diffc.models.schedulers import with_pipeline_changes
from diffc.models.shipped import SHIPPED, is_shipped, shipped_models
from diffc_export.disks import user_path
from diffc_runtime.files import file_digest, no_place
from diffc_runtime.json_types import JsonDict, JsonObject

__all__ = ["Source", "check_safetensors", "find_source", "read_json"]

PRUNING_FILE = "pruning.json"
PRUNING_KEY = "diffc_pruning"
"""The key under which a cut denoiser's config holds pruning.json once a user has saved it again."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Source:
    """A model that was found and looks usable.

    Attributes:
        name: The text that the user typed.
        folder: The pipeline's folder, or the component's own.
        component: The denoiser's name in the pipeline (``unet``); ``""`` if ``folder`` is the
            denoiser.
        class_name: The denoiser's class.
        config: The denoiser's config.json.
        scheduler: The scheduler's config; {} if there is none.
        weights: The safetensors (or, if allowed, pickled) files; empty if there are only configs.
        allow_pickle: True if pickled weights of any component may be read.
        saved_pruning: The entry about its cut in the denoiser's config; None for most.
        loras: The LoRAs that are fused into it before anything else.
        adapted: Those that are fused after the compression, and into the compressed model cut by
            the plan.
    """

    name: str
    folder: Path
    component: str
    class_name: str
    config: JsonObject = field(repr=False)
    scheduler: JsonObject = field(repr=False)
    weights: tuple[Path, ...] = field(repr=False)
    allow_pickle: bool = field(default=False, repr=False)
    saved_pruning: JsonObject | None = field(default=None, repr=False)
    loras: tuple[LoraFile, ...] = ()
    adapted: tuple[LoraFile, ...] = ()

    @property
    def all_loras(self) -> tuple[LoraFile, ...]:
        """Every LoRA that is fused into the model, in order."""
        return (*self.loras, *self.adapted)

    @property
    def base(self) -> Source:
        """The model that is compressed: without the LoRAs that come after it."""
        return replace(self, adapted=())

    @property
    def denoiser(self) -> Component:
        """The denoiser as a component."""
        known = self.find_component(self.component) if self.component else None
        if known is not None:
            return known
        alone = Component(
            name=self.component,
            library=self.library,
            class_name=self.class_name,
            folder=self.denoiser_folder,
            allow_pickle=self.allow_pickle,
        )
        return self._with_loras(alone)

    def _with_loras(self, part: Component) -> Component:
        """The component with the LoRAs that have keys of it."""
        if part.name not in ("", self.component) and not part.is_text_encoder:
            return part
        place = part.name if part.is_text_encoder else DENOISER
        files = tuple(lora for lora in self.all_loras if place in lora.components)
        if not files:
            return part
        return replace(part, loras=ComponentLoras(files, self.class_name, self.config))

    @property
    def library(self) -> str:
        """The package that has the denoiser's class."""
        return family_of(self.class_name).library

    @property
    def denoiser_folder(self) -> Path:
        """The folder of the denoiser's config.json: its own, or the pipeline's."""
        nested = self.folder / self.component
        return nested if nested.is_dir() else self.folder

    @property
    def is_pipeline(self) -> bool:
        """True if there is a pipeline around the denoiser (model_index.json)."""
        return (self.folder / INDEX).exists()

    @cached_property
    def index(self) -> JsonObject:
        """The content of model_index.json; {} if there is none."""
        return read_json(self.folder / INDEX) if self.is_pipeline else {}

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The components that model_index.json names; for a single component, itself."""
        if not self.is_pipeline:
            alone = Component(
                "", self.library, self.class_name, self.folder, allow_pickle=self.allow_pickle
            )
            return (self._with_loras(alone),)
        named = pipeline_components(self.folder, self.index, allow_pickle=self.allow_pickle)
        return tuple(
            self._with_loras(
                replace(part, class_name=self.class_name) if part.name == self.component else part
            )
            for part in named
        )

    @property
    def vae(self) -> Component | None:
        """The pipeline's VAE, even if its folder is missing; None for a model of pixels."""
        return next((part for part in self.components if part.name in VAE_NAMES), None)

    def find_component(self, name: str) -> Component | None:
        """Return the component of that name; None if the pipeline has none."""
        return next((part for part in self.components if part.name == name), None)

    @property
    def files(self) -> list[Path]:
        """Every file that any part of the model is opened from."""
        whole = {path for part in self.components for path in part.files}
        beside = [self.folder / name for name in (INDEX, SCHEDULER_CONFIG, PRUNING_FILE)]
        loras = (lora.path for lora in self.all_loras)
        return sorted(whole | {*self.weights, *loras, *(path for path in beside if path.exists())})

    @property
    def pruning(self) -> Path | None:
        """The path of pruning.json; None if there is none."""
        path = self.folder / PRUNING_FILE
        return path if path.exists() else None

    @property
    def is_cut(self) -> bool:
        """True if diffc compressed the model before."""
        return self.pruning is not None or self.saved_pruning is not None

    @cached_property
    def versions(self) -> Mapping[Path, tuple[int, int, int]]:
        """Which files of weights there are, each as it was before its first byte was read."""
        return {path: file_version(path) for path in self.weights}

    def check_unaltered(self) -> None:
        """Refuse what was made of files of weights that others alter meanwhile.

        Raises:
            InputError: One was written, replaced or removed since ``versions`` was first asked for.
                Where the digest was asked for then, one with the same content passes.
        """
        check_unaltered(self.versions, vars(self).get("_digests", {}))

    @cached_property
    def _digests(self) -> Mapping[Path, str]:
        """The sha256 of each file of weights."""
        return {path: known_digest(path) for path in self.versions}

    @cached_property
    def digest(self) -> str:
        """sha256 over configs, weights and LoRAs: the basis of every cache key of this model."""
        total = hashlib.sha256(_canonical([self.class_name, self.config, self.scheduler]))
        if self.saved_pruning is not None:
            total.update(_canonical(self.saved_pruning))
        files = {**self._digests, **{path: file_digest(path) for path in [self.pruning] if path}}
        for path, digest in files.items():
            total.update(path.name.encode() + digest.encode())
        if self.all_loras:
            total.update(_canonical([lora.identity for lora in self.all_loras]))
        return total.hexdigest()


_WHAT_A_MODEL_IS = (
    "MODEL is a diffusers folder, a hub id such as google/ddpm-cifar10-32, or a model that ships: "
    "demo, demo-text"
)


def find_source(
    model: str | Path,
    *,
    need_weights: bool = True,
    allow_pickle: bool = False,
    family: str | None = None,
    whole: bool = False,
) -> Source:
    """Return the ``Source`` that ``model`` names.

    Args:
        model: ``demo``, a folder, or a hub id.
        need_weights: False for planning, which works from config files alone.
        allow_pickle: True accepts ``.bin`` weights (they are still read with
            ``weights_only=True``).
        family: Treat the denoiser as this class, whatever its config says.
        whole: True fetches every component of a hub id, not only those that a run uses.

    Raises:
        InputError: The message says what is wrong, the hint what would help.
        RequestError: ``model`` is empty, or no path, or there is no such family.
        UnavailableError: A hub id cannot be fetched.
    """
    if family is not None and family not in family_names():
        raise unknown("family", family, family_names())
    if not str(model).strip():
        raise RequestError("MODEL is empty", hint=_WHAT_A_MODEL_IS)
    fetch = _HubOptions(need_weights, allow_pickle, whole)
    name, folder = str(model), _find_folder(str(model), fetch)
    component, class_name, config = _find_denoiser(folder, family)
    saved_pruning = config.pop(PRUNING_KEY, None)
    source = Source(
        name=name,
        folder=folder,
        component=component,
        class_name=class_name,
        config=config,
        scheduler=_scheduler_config(folder, class_name),
        weights=(),
        allow_pickle=allow_pickle,
        saved_pruning=saved_pruning,
    )
    return replace(source, weights=_find_weights(source.denoiser, need_weights))


@dataclass(frozen=True)
class _HubOptions:
    """Which files of a hub id are fetched; the fields are arguments of ``find_source``."""

    need_weights: bool
    allow_pickle: bool
    whole: bool


def _find_folder(model: str, fetch: _HubOptions) -> Path:
    if is_shipped(model):
        return SHIPPED / model
    path = user_path(model, "MODEL")
    if path.is_dir():
        return _inside_output(path)
    if path.exists():
        raise InputError(f"{model} is a file; a diffusers model is a folder")
    if is_hub_id(model):
        from diffc.models.hub import fetch_model

        return fetch_model(
            model,
            need_weights=fetch.need_weights,
            allow_pickle=fetch.allow_pickle,
            whole=fetch.whole,
        )
    meant = nearest_folder(path, shipped_models())
    raise InputError(
        f"there is no folder '{model}'",
        hint=(f"did you mean {meant}? " if meant else "") + _WHAT_A_MODEL_IS,
    )


def is_hub_id(model: str) -> bool:
    """Return True for what has the form of a hub id and is no folder here."""
    looks_like = _HUB_ID.fullmatch(model) and not model.startswith((".", "/", "~"))
    return bool(looks_like) and no_place(model) is None and not Path(model).exists()


def _inside_output(path: Path) -> Path:
    """Return the compressed model inside an output folder of diffc; other paths unchanged."""
    if (path / "recipe.lock.yaml").exists() and (path / "model" / INDEX).exists():
        return path / "model"
    return path


def _find_denoiser(folder: Path, family: str | None) -> tuple[str, str, JsonDict]:
    """Return the denoiser's name in the pipeline, its class and its config."""
    if (folder / INDEX).exists():
        name, class_name, config = _denoiser_in_index(folder, read_json(folder / INDEX), family)
    elif (folder / "config.json").exists():
        name, config = "", read_json(folder / "config.json")
        class_name = family or current_class(str(config.get("_class_name", "")), config)
    else:
        raise reasons.no_model_error(folder)
    nested = folder / name
    reasons.check_not_quantised(nested if nested.is_dir() else folder, config)
    if class_name not in family_names():
        raise reasons.unsupported_class_error(folder, class_name, config)
    return name, class_name, {"_class_name": class_name, **config}


def _denoiser_in_index(
    folder: Path, index: JsonObject, family: str | None
) -> tuple[str, str, JsonDict]:
    exported = reasons.exported_pipeline_error(folder, str(index.get("_class_name", "")))
    if exported is not None:
        raise exported
    parts = {part.name: part for part in pipeline_components(folder, index)}
    name = _denoiser_name(parts, family)
    if name is None:
        raise _no_denoiser(folder, parts, family)
    part = parts[name]
    if part.config_path is None:
        raise reasons.missing_config_error(folder, name, part.class_name)
    config = dict(part.config)
    named = current_class(part.class_name, config)
    inside = current_class(str(config.get("_class_name", named)), config)
    if family is None and inside != named and {inside, named} <= set(family_names()):
        raise InputError(
            f"{folder / INDEX} says that '{name}' is a {named}, {part.config_path} a {inside}",
            hint="correct the one that is wrong, or say which with --family",
        )
    return name, family or (named if named in family_names() else inside), config


def _denoiser_name(parts: Mapping[str, Component], family: str | None) -> str | None:
    """Return the name of the denoiser: of the forced family, or the first that diffc knows.

    Another part of the pipeline, such as its VAE, is never returned in the denoiser's place.
    """
    if family is not None:
        same = [name for name, part in parts.items() if _class_of(part) == family]
        place = component_of(family)
        return same[0] if same else place if place in parts else None
    classes = {name: _class_of(part) for name, part in parts.items()}
    for class_name in family_names():
        if class_name not in classes.values():
            continue  # another package's is not imported for nothing, nor refused if it is broken
        known = family_of(class_name)
        if known.is_denoiser and classes.get(known.component) == class_name:
            return known.component
    return None


def _class_of(part: Component) -> str:
    """Return today's class name of an index's entry; a repository's own class stays unknown."""
    if part.library != "diffusers":
        is_known = not is_own(part.class_name) and part.class_name in family_names()
        if is_known and family_of(part.class_name).library == part.library:
            return part.class_name
        return f"{part.library}.{part.class_name}"
    needs_config = part.class_name not in family_names() and part.config_path is not None
    return current_class(part.class_name, part.config if needs_config else {})


def _no_denoiser(folder: Path, parts: Mapping[str, Component], family: str | None) -> InputError:
    if family is not None:
        return reasons.unsupported_error(
            f"{folder} has no {family} and no '{component_of(family)}'"
        )
    likely = [part for name, part in parts.items() if _is_like_a_denoiser(name, part)]
    if likely:
        part = likely[0]
        own = part.library != "diffusers"
        kind = f" of the repository's own code ({part.library})" if own else ""
        return reasons.unsupported_error(f"{part.class_name}{kind} in {folder / part.name}")
    if not parts:
        return InputError(
            f"{folder / INDEX} names no component",
            hint="copy the file again from the folder that DiffusionPipeline.save_pretrained wrote",
        )
    listed = ", ".join(part.class_name for part in parts.values())
    return reasons.unsupported_error(f"every component of {folder} ({listed})")


def _is_like_a_denoiser(name: str, part: Component) -> bool:
    if name in (*denoiser_folders(), "prior", "decoder"):
        return True
    words = ("UNet", "Unet", "Transformer", "DiT", "MMDiT")
    return any(word in part.class_name for word in words) and part.library == "diffusers"


def _scheduler_config(folder: Path, class_name: str) -> JsonDict:
    """Return the scheduler's config as the pipeline opens and uses it; {} if there is none.

    It lies in its own folder, or beside the denoiser's config.
    """
    index = folder / INDEX
    for path in (folder / "scheduler" / SCHEDULER_CONFIG, folder / SCHEDULER_CONFIG):
        if path.exists():
            config = with_pipeline_changes(
                read_json(path), read_json(index) if index.exists() else {}
            )
            matches_flow = "FlowMatch" in str(config.get("_class_name", ""))
            return {**config, **(family_of(class_name).flow_settings if matches_flow else {})}
    return {}


def _find_weights(denoiser: Component, need: bool) -> tuple[Path, ...]:
    weights = denoiser.need_weights() if need else denoiser.weights
    if weights is None or (weights.is_pickled and not denoiser.allow_pickle):
        return ()
    if not weights.is_pickled:
        weights.entries()
    return weights.paths


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
