"""Downloads the files of a hub id that a run uses, and no others, into a folder.

The index comes first and names the components. For each used component one set of weights is
fetched: the plain safetensors, else a variant, else (if allowed) pickles. A published repository
also holds other variants and single-file checkpoints, often several times as large.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
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
from diffc.models.files import read_json
from diffc.models.layout import PICKLED, SAFE

_ROOT = ("*.json", "LICENSE*")
_SMALL = ("*.json", "*.txt", "*.model")  # configs, and the vocabularies of tokenizers
_VARIANTS = ("", "fp32", "fp16", "bf16", "*")


def fetch_model(model: str, *, need_weights: bool, allow_pickle: bool, whole: bool) -> Path:
    """Return the folder with the files of ``owner/name`` or ``owner/name@revision``.

    Args:
        model: The hub id.
        need_weights: False fetches configs alone.
        allow_pickle: True fetches pickles where there are no safetensors.
        whole: True fetches the weights of every component; False only those that a run uses.

    Raises:
        UnavailableError: The hub cannot be reached, or has no such repository.
        InputError: There are only pickles, and they are not allowed.
    """
    patterns = list(_ROOT)
    folder = _download(model, patterns)
    parts = _parts(folder, allow_pickle)
    patterns += [f"{part.name}/{name}" for part in parts if part.name for name in _SMALL]
    patterns += ["*.txt", "*.model"] if any(part.is_flat for part in parts) else []
    folder = _download(model, patterns)
    if not need_weights:
        return folder
    for kind in (SAFE, PICKLED) if allow_pickle else (SAFE,):
        for variant in _VARIANTS:
            lacking = _lacking(folder, allow_pickle, whole)
            if not lacking:
                return folder
            patterns += [name for part in lacking for name in _names(part, kind, variant)]
            folder = _download(model, patterns)
    if not allow_pickle:
        _refuse_pickles(model, patterns, _lacking(folder, allow_pickle, whole))
    return folder


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


def _refuse_pickles(model: str, patterns: Sequence[str], lacking: Sequence[Component]) -> None:
    """Refuse a repository in which a component has pickles alone, without downloading them."""
    if not lacking:
        return
    names = [n for part in lacking for variant in ("", "*") for n in _names(part, PICKLED, variant)]
    listed = _call_hub(model, [*patterns, *names], dry_run=True)
    pickles = [file.filename for file in listed if _is_pickle(getattr(file, "filename", ""))]
    if pickles:
        raise InputError(
            f"{model} has only pickled weights ({pickles[0]}), which can run code when read",
            hint="pass --allow-pickle if you trust their origin",
        )


def _is_pickle(name: str) -> bool:
    return name.endswith(f".{PICKLED}")


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
        raise UnavailableError(
            f"cannot fetch '{model}' from the hub: {_reason(error)}",
            hint="check the id and the network, or download the model and give its folder",
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of what the client says: the others are advice for its own callers."""
    lines = str(error).strip().splitlines()
    sentence = lines[0].partition(". ")[0].rstrip(".") if lines else ""
    return textwrap.shorten(sentence, 200, placeholder=" ...") or type(error).__name__
