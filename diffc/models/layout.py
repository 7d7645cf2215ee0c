"""Finds the files of one component's weights in a folder: variants, shards, safetensors or pickles.

The names that diffusers and transformers write, of today and of earlier versions:

    X.safetensors                               X.fp16.safetensors
    X-00001-of-00002.safetensors                X.safetensors.index.json
    X.fp16-00001-of-00002.safetensors           X.safetensors.index.fp16.json
    X-00001-of-00002.fp16.safetensors           X.fp16.safetensors.index.json, X.safetensors.fp16...

One variant is used for each component: the plain one, else the most exact that there is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffc.errors import InputError
from diffc.models.files import TensorEntry, read_json, tensor_entries

DIFFUSERS_STEMS = ("diffusion_pytorch_model",)
TRANSFORMERS_STEMS = ("model", "pytorch_model")
SAFE, PICKLED = "safetensors", "bin"

_VARIANTS = ("", "fp32", "fp16", "bf16", "ema")
"""Variants, the best first. Others follow by name; weights without averaging come last."""
_LAST = "non_ema"

_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<before>\w+))?(?:-(?P<part>\d{5})-of-(?P<parts>\d{5}))?(?:\.(?P<after>\w+))?"
    r"\.(?P<kind>safetensors|bin)"
)
_INDEX = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<before>\w+))?\.(?P<kind>safetensors|bin)(?:\.(?P<between>\w+))?"
    r"\.index(?:\.(?P<after>\w+))?\.json"
)
_OF_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5")


@dataclass(frozen=True)
class WeightFiles:
    """One whole set of weights.

    Attributes:
        paths: The files.
        variant: ``""``, ``fp16``, ...
        kind: ``safetensors`` or ``bin``.
        index: The index of the shards; None for a single file.
    """

    paths: tuple[Path, ...]
    variant: str
    kind: str
    index: Path | None = None

    @property
    def is_pickled(self) -> bool:
        """True if reading the files means unpickling."""
        return self.kind == PICKLED

    def entries(self) -> dict[str, TensorEntry]:
        """Return name -> dtype and shape of every tensor, from the headers of safetensors.

        Raises:
            InputError: A file is damaged or truncated, lacks a tensor that the index says it holds,
                or holds one that another file holds too.
        """
        entries: dict[str, TensorEntry] = {}
        for path in self.paths:
            own = tensor_entries(path)
            twice = min(own.keys() & entries.keys(), default=None)
            if twice is not None:
                raise InputError(
                    f"{path} holds {twice}, and so does {entries[twice].path}",
                    hint="they are parts of two models: download or copy the folder again",
                )
            entries |= own
        if self.index is not None:
            _check_index(self.index, entries)
        return entries


@dataclass
class _WeightSet:
    """The files of one variant and kind, before they are known to be complete."""

    single: Path | None = None
    shards: list[Path] = field(default_factory=list)
    count: int = 0
    index: Path | None = None


def weight_files(
    folder: Path, stems: Sequence[str], *, need: bool = True, listed: Iterable[str] = ()
) -> WeightFiles | None:
    """Return the weights in ``folder``: safetensors before pickles, the best variant first.

    Args:
        folder: The component's folder.
        stems: The names, without suffixes, that the library gives to its weight files.
        need: False ignores incomplete sets: planning works from configs alone.
        listed: The names of further files that a download would bring; indices are read from the
            folder.

    Raises:
        InputError: An index names a file that is missing.
    """
    # the hub's cache is of links, whose files another program may have removed
    here = [path.name for path in folder.iterdir() if path.exists()] if folder.is_dir() else []
    names = {*here, *listed}
    sets = _collect_sets(folder, names, stems)
    for kind, variant in sorted(sets, key=_rank):
        files = _whole_set(folder, names, sets[kind, variant], need)
        if files:
            return WeightFiles(files, variant, kind, _index_of(sets[kind, variant], files))
    return None


def other_weights(folder: Path) -> list[str]:
    """Return the names of files in ``folder`` that look like weights, for messages."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.suffix in _OF_WEIGHTS and p.is_file())


def is_weight_file(path: Path) -> bool:
    """Whether a file holds weights, or is an index of such files."""
    return path.suffix in _OF_WEIGHTS or _INDEX.fullmatch(path.name) is not None


def _collect_sets(
    folder: Path, names: Iterable[str], stems: Sequence[str]
) -> Mapping[tuple[str, str], _WeightSet]:
    sets: dict[tuple[str, str], _WeightSet] = {}
    for path in (folder / name for name in sorted(names)):
        index, weights = _INDEX.fullmatch(path.name), _WEIGHTS.fullmatch(path.name)
        match = index or weights
        if match is None or match["stem"] not in stems:
            continue
        places = ("before", "between", "after") if index else ("before", "after")
        variant = next((match[place] for place in places if match[place]), "")
        entry = sets.setdefault((match["kind"], variant), _WeightSet())
        if index:
            entry.index = path
        elif match["part"] is None:
            entry.single = path
        else:
            entry.shards.append(path)
            entry.count = int(match["parts"])
    return sets


def _rank(key: tuple[str, str]) -> tuple[bool, bool, int, str]:
    kind, variant = key
    place = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
    return kind == PICKLED, variant == _LAST, place, variant


def _whole_set(
    folder: Path, names: Collection[str], entry: _WeightSet, need: bool
) -> tuple[Path, ...]:
    if entry.index is not None:
        shards = _shards(entry.index)
        missing = [path.name for path in shards if path.name not in names]
        if shards and not missing:
            return shards
        if missing and need:
            raise InputError(
                f"{entry.index.name} names {missing[0]}, which is missing in {folder}",
                hint="download or copy the folder again",
            )
    if entry.single is not None:
        return (entry.single,)
    if entry.shards and len(entry.shards) == entry.count:
        return tuple(entry.shards)
    if entry.shards and need:
        raise InputError(
            f"{folder} holds {len(entry.shards)} of {entry.count} parts of its weights",
            hint="download or copy the folder again",
        )
    return ()


def _shards(index: Path) -> tuple[Path, ...]:
    return tuple(sorted(set(_weight_map(index).values())))


def _weight_map(index: Path) -> dict[str, Path]:
    """Name of a tensor -> the file that holds it, beside the index."""
    names = read_json(index).get("weight_map", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index} has no map of weights to files", hint="copy the file again")
    return {tensor: index.parent / Path(name).name for tensor, name in names.items()}


def _check_index(index: Path, entries: Mapping[str, TensorEntry]) -> None:
    """Refuse an index that names a tensor which its file lacks."""
    for name, path in _weight_map(index).items():
        if name not in entries or entries[name].path != path:
            raise InputError(
                f"{path} lacks {name}, which {index.name} says it holds",
                hint="download or copy the folder again",
            )


def _index_of(entry: _WeightSet, files: tuple[Path, ...]) -> Path | None:
    return entry.index if entry.index is not None and files != (entry.single,) else None
