"""MODEL on the command line -> a checked folder, without importing torch.

MODEL is ``demo``, a diffusers folder (a pipeline, or one component of it), or a hub id. Everything
that can be refused cheaply is refused here: no diffusers model, an unsupported class, pickled
weights, truncated safetensors. Weights are hashed, because the hash is part of every cache key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffc.errors import InputError, UnavailableError, unknown
from diffc.models.families import component_of, family_names

DEMO = Path(__file__).parent.parent / "demo" / "model"
PRUNING_FILE = "pruning.json"
_WEIGHTS = "diffusion_pytorch_model"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Source:
    """A model that was found and looks usable.

    name: what the user typed. folder: the pipeline's folder, or the component's own.
    component: the denoiser's folder inside it (``unet``), ``""`` when ``folder`` is the denoiser.
    config, scheduler: the denoiser's and the scheduler's config.json ({} when there is none).
    weights: the safetensors (or, when allowed, pickled) files; empty when only configs are there.
    """

    name: str
    folder: Path
    component: str
    class_name: str
    config: Mapping[str, Any] = field(repr=False)
    scheduler: Mapping[str, Any] = field(repr=False)
    weights: tuple[Path, ...] = field(repr=False)

    @property
    def denoiser_folder(self) -> Path:
        """Where the denoiser's config.json lies."""
        return self.folder / self.component

    @property
    def is_pipeline(self) -> bool:
        """Whether there is a pipeline around the denoiser (model_index.json)."""
        return (self.folder / "model_index.json").exists()

    @property
    def pruning(self) -> Path | None:
        """pruning.json, when the model was compressed by diffc before."""
        path = self.folder / PRUNING_FILE
        return path if path.exists() else None

    @cached_property
    def digest(self) -> str:
        """sha256 over configs and weights: what every cache key of this model starts from."""
        total = hashlib.sha256(_canonical([self.class_name, self.config, self.scheduler]))
        for path in (*self.weights, *filter(None, [self.pruning])):
            total.update(path.name.encode() + file_digest(path).encode())
        return total.hexdigest()


def find(
    model: str | Path,
    *,
    need_weights: bool = True,
    allow_pickle: bool = False,
    family: str | None = None,
) -> Source:
    """The ``Source`` that ``model`` names.

    need_weights: False for planning, which is content with config files.
    allow_pickle: accept ``.bin`` weights (they are still read with ``weights_only=True``).
    family: treat the denoiser as this class whatever its config says.

    Raises InputError (exit code 2) with what is wrong and what would do, UnavailableError when a
    hub id cannot be fetched.
    """
    if family is not None and family not in family_names():
        raise unknown("family", family, family_names())
    name, folder = str(model), _folder(str(model), need_weights)
    component, config = _denoiser(folder, family)
    class_name = family or str(config["_class_name"])
    weights = _weights(folder / component, need_weights, allow_pickle)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return Source(
        name=name,
        folder=folder,
        component=component,
        class_name=class_name,
        config=config,
        scheduler=read_json(scheduler) if scheduler.exists() else {},
        weights=weights,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``; InputError naming the file when it is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    return value


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            total.update(block)
    return total.hexdigest()


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file's header; InputError when the file is cut or no such file.

    Only the header is read: 8 bytes of length, then JSON, whose largest offset must be the size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise InputError(f"{path} is truncated or no safetensors file ({size:,} bytes)")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise InputError(f"{path} has a damaged header: {error}") from error
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise InputError(
            f"{path} is truncated: its header promises {end:,} bytes, the file has {size:,}",
            hint="download or copy the file again",
        )
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _folder(model: str, need_weights: bool) -> Path:
    if model == "demo":
        return DEMO
    path = Path(model).expanduser()
    if path.is_dir():
        return _inside_output(path)
    if path.exists():
        raise InputError(f"{model} is a file; a diffusers model is a folder")
    if _HUB_ID.fullmatch(model) and not model.startswith((".", "/", "~")):
        return _from_hub(model, need_weights)
    raise InputError(
        f"there is no folder '{model}'",
        hint="MODEL is a diffusers folder, a hub id such as google/ddpm-cifar10-32, or demo",
    )


def _inside_output(path: Path) -> Path:
    """An output folder of diffc stands for the compressed model inside it."""
    if (path / "recipe.lock.yaml").exists() and (path / "model" / "model_index.json").exists():
        return path / "model"
    return path


def _from_hub(model: str, need_weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = model.partition("@")
    patterns = [
        "*.json",
        "*/*.json",
        "*/merges.txt",  # tokenizers, for prompts
        "*/vocab.txt",
        "*/*.model",
        *(["*/*.safetensors", "*.safetensors"] if need_weights else []),
    ]
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many kinds, of several libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnavailableError(
            f"cannot fetch '{model}' from the hub: {reason[:160]}",
            hint="check the id and the network, or download the model and give its folder",
        ) from error


def _denoiser(folder: Path, family: str | None) -> tuple[str, dict[str, Any]]:
    """The component's folder name and config."""
    index = folder / "model_index.json"
    if index.exists():
        return _from_index(folder, read_json(index), family)
    if (folder / "config.json").exists():
        config = read_json(folder / "config.json")
        if family is None and config.get("_class_name") not in family_names():
            raise _unsupported(f"{folder} holds {config.get('_class_name', 'nothing')}")
        return "", config
    raise InputError(
        f"{folder} is no diffusers model: it has neither model_index.json nor config.json",
        hint="give the folder that DiffusionPipeline.save_pretrained wrote",
    )


def _from_index(
    folder: Path, index: Mapping[str, Any], family: str | None
) -> tuple[str, dict[str, Any]]:
    classes = {
        name: entry[1]
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and not name.startswith("_")
    }
    name = _denoiser_name(classes, family)
    if name is None:
        listed = ", ".join(map(str, classes.values())) or "no component"
        raise _unsupported(f"{folder} holds {listed}")
    config = folder / name / "config.json"
    if not config.exists():
        raise InputError(f"{folder / 'model_index.json'} names '{name}', but {config} is missing")
    return name, read_json(config)


def _denoiser_name(classes: Mapping[str, str], family: str | None) -> str | None:
    """The component that is the denoiser: of the forced family, or the first that diffc knows.

    Families are ordered denoisers first, so that a pipeline's VAE is not taken for one.
    """
    if family is not None:
        same = [name for name, class_name in classes.items() if class_name == family]
        place = component_of(family)
        return same[0] if same else place if place in classes else None
    for known in family_names():
        if classes.get(component_of(known)) == known:
            return component_of(known)
    return None


def _unsupported(what: str) -> InputError:
    return InputError(
        f"{what}, which diffc cannot compress",
        hint=f"supported: {', '.join(family_names())} (or force one with --family)",
    )


def _weights(folder: Path, need: bool, allow_pickle: bool) -> tuple[Path, ...]:
    for stem in (_WEIGHTS, f"{_WEIGHTS}.fp16"):
        found = _shards(folder, stem)
        for path in found:
            check_safetensors(path)
        if found:
            return found
    pickles = tuple(sorted(folder.glob(f"{_WEIGHTS}*.bin")))
    if pickles and allow_pickle:
        return pickles
    if pickles and need:
        raise InputError(
            f"{folder} has only pickled weights ({pickles[0].name}), which can run code when read",
            hint="convert them to safetensors, or pass --allow-pickle if you trust their origin",
        )
    if need:
        raise InputError(
            f"{folder} has no weights ({_WEIGHTS}.safetensors)",
            hint="plan and inspect work from the config alone; everything else needs weights",
        )
    return ()


def _shards(folder: Path, stem: str) -> tuple[Path, ...]:
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        single = folder / f"{stem}.safetensors"
        return (single,) if single.exists() else ()
    names: Iterable[str] = sorted(set(read_json(index).get("weight_map", {}).values()))
    shards = tuple(folder / Path(name).name for name in names)
    for shard in shards:
        if not shard.exists():
            raise InputError(f"{index.name} names {shard.name}, which is missing in {folder}")
    return shards


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
