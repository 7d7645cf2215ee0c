"""The parts of a pipeline beside the denoiser: which files a result copies, which parts fit.

Nothing here imports torch: these are needed before the first stage, and for the stages' keys.
"""

from __future__ import annotations

import os
from pathlib import Path

from diffc.errors import InputError
from diffc.models.components import INDEX, VAE_NAMES, Component
from diffc.models.source import Source, is_hub_id
from diffc_runtime.files import files_digest
from diffc_runtime.json_types import JsonDict

_TEXTS = ("readme", "license", "licence", "notice", "copying", "copyright")
_TEXT_ENDINGS = ("", ".md", ".txt", ".rst", ".pdf")
_TIED = ("controlnet", "adapter", "brushnet", "referencenet")
_NOT_TIED = ("Autoencoder", "VQModel")
_WIDTHS = "block_out_channels"


def other_parts(source: Source) -> list[Component]:
    """Return the pipeline's components without the denoiser; [] for a component alone."""
    return [part for part in source.components if part.name not in ("", source.component)]


def text_files(source: Source) -> list[Path]:
    """Return the licence, the readme and similar files beside model_index.json."""
    return sorted(
        path
        for path in source.folder.iterdir()
        if path.stem.lower().startswith(_TEXTS)
        and path.suffix.lower() in _TEXT_ENDINGS
        and path.is_file()
    )


def parts_digest(source: Source) -> JsonDict:
    """Return what a saved model copies from the source beside the denoiser, for a stage's key."""
    return {
        "index": dict(source.index),
        "texts": files_digest(text_files(source)) if source.is_pipeline else None,
        "components": {
            part.name: part.digest if is_whole(part) else None for part in other_parts(source)
        },
    }


def is_whole(part: Component) -> bool:
    """Return True if a component can be opened: its files are there, a network's weights too.

    Of a hub id a run fetches every config, and the weights of what it uses: a safety checker's
    folder then holds its config alone.
    """
    return part.exists and (not part.is_network or part.weights is not None)


def absent_notes(source: Source) -> list[str]:
    """Return a note about the components that the compressed pipeline goes without; [] for none."""
    names = [part.name for part in other_parts(source) if part.exists and not is_whole(part)]
    if not names:
        return []
    have = "has" if len(names) == 1 else "have"
    note = f"{' and '.join(names)} {have} no weights here: the compressed pipeline goes without"
    return [f"{note} (diffc fetch {source.name} --whole)" if is_hub_id(source.name) else note]


def uncompressed_notes(source: Source) -> list[str]:
    """Return a note for each further denoiser of the class, such as Wan 2.2's ``transformer_2``."""
    return [
        f"{part.name} is not compressed: the pipeline calls it in the place of {source.component} "
        "at some noise levels, and one denoiser is compressed at a time"
        for part in other_parts(source)
        if part.class_name == source.class_name
    ]


def check_parts(source: Source) -> None:
    """Refuse components that cannot be copied, or that would not fit the compressed denoiser.

    Raises:
        InputError: The message names the component.
    """
    for part in other_parts(source):
        if _is_tied(part, source):
            raise InputError(
                f"'{part.name}' ({part.class_name}) is made for the denoiser's channels as they "
                f"are, and would not fit the compressed {source.component}",
                hint=f"make its entry in {INDEX} [null, null], and compress the pipeline without "
                "it; its class may be another then",
            )
        for path in part.files:
            check_readable(path)
    for path in source.weights:
        check_readable(path)


def check_readable(path: Path) -> None:
    """Refuse a file that this user may not read.

    Raises:
        InputError: The user has no permission.
    """
    if not os.access(path, os.R_OK):
        raise InputError(
            f"cannot read {path}: Permission denied", hint="make the model's files readable"
        )


def _is_tied(part: Component, source: Source) -> bool:
    """True if a component's tensors are as wide as the denoiser's own hidden channels.

    A ControlNet and its kin add their outputs to the denoiser's hidden channels. For a class that
    diffc does not know, equal widths in both configs count as a sign of it.
    """
    if any(word in f"{part.name}.{part.class_name}".lower() for word in _TIED):
        return True
    if part.name in VAE_NAMES or part.class_name.startswith(_NOT_TIED) or not part.is_network:
        return False
    widths = part.config.get(_WIDTHS)
    same_kind = part.library == "diffusers" and part.class_name != source.class_name
    return same_kind and widths is not None and widths == source.config.get(_WIDTHS)
