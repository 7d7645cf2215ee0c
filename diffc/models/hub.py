"""Downloads the files of a hub id that a run uses, and no others, into a folder.

The index comes first and names the components. For each used component one set of weights is
fetched, the one that is read (layout.py): the plain safetensors, else a variant, else (if allowed)
pickles. A published repository also holds other variants and single-file checkpoints, often several
times as large.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffc.errors import InputError, UnavailableError
from diffc.models.components import (
    INDEX,
    VAE_NAMES,
    Component,
    pipeline_components,
)
from diffc.models.families import denoiser_folders, family, is_own
from diffc.models.files import nearest_folder, read_json
from diffc.models.layout import PICKLED, SAFE, weight_files

_ROOT = ("*.json", "LICENSE*")
_SMALL = ("*.json", "*.txt", "*.model")  # configs, and the vocabularies of tokenizers


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
    """One set of weights of each component: the one that is read where all of them are there.

    Raises:
        InputError: A component has pickles alone, and they are not allowed.
    """
    patterns = [
        f"{_place(part)}{stem}*.{kind}"
        for part in lacking
        for stem in part.stems
        for kind in (SAFE, PICKLED)
    ]
    listed = {file.filename: file for file in _call_hub(model, patterns, dry_run=True)}
    chosen: list[HubFile] = []
    for part in lacking:
        place = _place(part)
        inside = [name.removeprefix(place) for name in listed if name.startswith(place)]
        own = [name for name in inside if "/" not in name]  # a pattern's * is of slashes too
        weights = weight_files(part.folder, part.stems, need=False, listed=own)
        if weights is None:
            continue
        names = [f"{place}{path.name}" for path in weights.paths]
        if weights.is_pickled and not allow_pickle:
            raise InputError(
                f"{model} has only pickled weights ({names[0]}), which can run code when read",
                hint="pass --allow-pickle if you trust their origin",
            )
        files = [listed[name] for name in names if name in listed]
        chosen += [HubFile(one.filename, one.file_size, one.is_cached) for one in files]
    return chosen


def _is_denoiser(part: Component) -> bool:
    """Return True for a further denoiser: without Wan 2.2's ``transformer_2`` no pipeline runs."""
    return is_own(part.class_name) and family(part.class_name).is_denoiser


def _place(part: Component) -> str:
    """Return the folder of a component in the repository, with a slash; empty for a flat one."""
    return f"{part.name}/" if part.name and not part.is_flat else ""


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
    used = [
        part
        for part in parts
        if part.name in names or part.is_text_encoder or _is_denoiser(part) or whole
    ]
    return [part for part in used if part.is_network and part.exists and not _is_here(part)]


def _is_here(part: Component) -> bool:
    """Return True if weights that may be read are downloaded; another program may have pickles."""
    return part.weights is not None and (part.allow_pickle or not part.weights.is_pickled)


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
