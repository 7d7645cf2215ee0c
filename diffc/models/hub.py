"""Downloads the files of a hub id that a run uses, and no others, into a folder.

The index comes first and names the components. For each used component one set of weights is
fetched: the plain safetensors, else a variant, else (if allowed) pickles. A published repository
also holds other variants and single-file checkpoints, often several times as large.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from diffc.errors import InputError, UnavailableError
from diffc.models.components import (
    INDEX,
    VAE_NAMES,
    Component,
    pipeline_components,
)
from diffc.models.families import denoiser_folders
from diffc.models.files import nearest_folder, read_json
from diffc.models.layout import PICKLED, SAFE

_ROOT = ("*.json", "LICENSE*")
_SMALL = ("*.json", "*.txt", "*.model")  # configs, and the vocabularies of tokenizers
_VARIANTS = ("", "fp32", "fp16", "bf16", "*")


@dataclass(frozen=True)
class HubFile:
    """A file of weights on the hub.

    Attributes:
        name: Its path in the repository.
        bytes: Its size; None where the hub does not say.
        is_here: Whether it has been downloaded.
    """

    name: str
    bytes: int | None
    is_here: bool


@dataclass(frozen=True)
class HubFetch:
    """What is to be fetched of a model, whose configs are here.

    Attributes:
        model: The hub id.
        folder: Where its files are.
        configs: The patterns of the files that are no weights.
        weights: The files of weights that are not all here; empty where nothing is lacking.
    """

    model: str
    folder: Path
    configs: list[str]
    weights: list[HubFile]


def fetch_model(model: str, *, need_weights: bool, allow_pickle: bool, whole: bool) -> Path:
    """Return the folder with the files of ``owner/name`` or ``owner/name@revision``.

    A download that was interrupted goes on where it ended.

    Args:
        model: The hub id.
        need_weights: False fetches configs alone.
        allow_pickle: True fetches pickles where there are no safetensors.
        whole: True fetches the weights of every component; False only those that a run uses.

    Raises:
        UnavailableError: The hub cannot be reached, or has no such repository.
        InputError: There are only pickles, and they are not allowed.
    """
    if not need_weights:
        return _fetch_configs(model, allow_pickle)[0]
    return download(plan_fetch(model, allow_pickle=allow_pickle, whole=whole))


def plan_fetch(model: str, *, allow_pickle: bool, whole: bool) -> HubFetch:
    """Fetch the configs, and return what they leave to be fetched.

    Args:
        model: The hub id.
        allow_pickle: As in ``fetch_model``.
        whole: As in ``fetch_model``.

    Raises:
        UnavailableError: The hub cannot be reached, or has no such repository.
        InputError: There are only pickles, and they are not allowed.
    """
    folder, configs = _fetch_configs(model, allow_pickle)
    lacking = _lacking(folder, allow_pickle, whole)
    weights = _choose_weights(model, lacking, allow_pickle) if lacking else []
    return HubFetch(model, folder, configs, weights)


def download(fetch: HubFetch) -> Path:
    """Fetch the weights too, and return the model's folder.

    Raises:
        UnavailableError: The hub cannot be reached.
    """
    if not fetch.weights:
        return fetch.folder
    return _download(fetch.model, [*fetch.configs, *(file.name for file in fetch.weights)])


def _fetch_configs(model: str, allow_pickle: bool) -> tuple[Path, list[str]]:
    """Download all but weights; the folder, and the patterns of these files."""
    patterns = list(_ROOT)
    parts = _parts(_download(model, patterns), allow_pickle)
    patterns += [f"{part.name}/{name}" for part in parts if part.name for name in _SMALL]
    patterns += ["*.txt", "*.model"] if any(part.is_flat for part in parts) else []
    return _download(model, patterns), patterns


def _choose_weights(model: str, lacking: Sequence[Component], allow_pickle: bool) -> list[HubFile]:
    """One set of weights of each component, the first of the order at the top.

    Raises:
        InputError: A component has pickles alone, and they are not allowed.
    """
    every = {
        part.name: [(kind, _names(part, kind, v)) for kind in (SAFE, PICKLED) for v in _VARIANTS]
        for part in lacking
    }
    patterns = [name for sets in every.values() for _, names in sets for name in names]
    listed = {file.filename: file for file in _call_hub(model, patterns, dry_run=True)}
    chosen: list[HubFile] = []
    for sets in every.values():
        kind, names = next(
            ((kind, there) for kind, names in sets if (there := _matching(listed, names))),
            (SAFE, []),
        )
        if kind == PICKLED and not allow_pickle:
            raise InputError(
                f"{model} has only pickled weights ({names[0]}), which can run code when read",
                hint="pass --allow-pickle if you trust their origin",
            )
        chosen += [HubFile(name, listed[name].file_size, listed[name].is_cached) for name in names]
    return chosen


def _matching(listed: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return sorted(name for name in listed if any(fnmatchcase(name, p) for p in patterns))


def _parts(folder: Path, allow_pickle: bool) -> Sequence[Component]:
    """Return the components of the downloaded files; a single component if there is no index."""
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        return pipeline_components(folder, index, allow_pickle=allow_pickle)
    return (Component("", "diffusers", "", folder, allow_pickle=allow_pickle),)


def _lacking(folder: Path, allow_pickle: bool, whole: bool) -> list[Component]:
    """Return the components whose weights a run uses and that are not downloaded yet."""
    parts = _parts(folder, allow_pickle)
    names = ("", *denoiser_folders(), *VAE_NAMES)
    used = [part for part in parts if part.name in names or part.is_text_encoder or whole]
    return [part for part in used if part.is_network and part.exists and part.weights is None]


def _names(part: Component, kind: str, variant: str) -> list[str]:
    """Return the file patterns of one set of weights of a component."""
    place = f"{part.name}/" if part.name and not part.is_flat else ""
    dot = f".{variant}" if variant else ""
    shards = [f"{dot}-*-of-*", *([f"-*-of-*{dot}"] if dot else [])]
    return [f"{place}{stem}{end}.{kind}" for stem in part.stems for end in (dot, *shards)]


def _download(model: str, patterns: Sequence[str]) -> Path:
    return Path(_call_hub(model, patterns))


def _call_hub(model: str, patterns: Sequence[str], **options: Any) -> Any:
    from huggingface_hub import snapshot_download

    repo, _, revision = model.partition("@")
    try:
        return snapshot_download(
            repo, revision=revision or None, allow_patterns=list(patterns), **options
        )
    except Exception as error:  # the hub's client raises many kinds, of several libraries
        hint = "check the id and the network, or download the model and give its folder"
        folder = nearest_folder(Path(repo))
        raise UnavailableError(
            f"cannot fetch '{model}' from the hub: {_reason(error)}",
            hint=f"did you mean the folder {folder}? Else {hint}" if folder else hint,
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of what the client says: the others are advice for its own callers."""
    lines = str(error).strip().splitlines()
    sentence = lines[0].partition(". ")[0].rstrip(".") if lines else ""
    return textwrap.shorten(sentence, 200, placeholder=" ...") or type(error).__name__
