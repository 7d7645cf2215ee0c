"""Errors for folders that hold no model that diffc can take: one true line, and what to do instead.

quantisation       the method of a checkpoint that was quantised already, from its config alone
unsupported_error  a denoiser of a class that diffc does not know
no_model_error     a folder without the files of a model: an adapter, a training output, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from diffc.errors import InputError
from diffc.models.class_names import current_class
from diffc.models.families import families, family_names
from diffc_runtime.json_types import JsonObject

_ADAPTER_NAMES = ("lora", "adapter_model", "adapter_config", "ip-adapter", "ip_adapter")
_EMBEDDINGS = ("learned_embeds",)
_STEERING = ("ControlNet", "T2IAdapter", "MotionAdapter", "MultiAdapter", "SparseControl")
_QUANTISED_FILES = {"quanto_qmap.json": "quanto", "quantization_map.json": "quanto"}
_GIVE_ORIGINAL = "give the model it was made from, in float32, float16 or bfloat16"


def check_not_quantised(folder: Path, config: JsonObject) -> None:
    """Refuse a component whose config, or a file beside it, shows that it is quantised.

    Raises:
        InputError: The component is quantised.
    """
    method = quantisation(folder, config)
    if method is not None:
        raise InputError(f"{folder} is quantised already ({method})", hint=_GIVE_ORIGINAL)


def quantisation(folder: Path, config: JsonObject) -> str | None:
    """Return the method by which a component was quantised; None if it is not."""
    settings = config.get("quantization_config")
    if settings:
        return _method(settings)
    if config.get("quantization") or config.get("quant_method"):
        return str(config.get("quant_method") or config["quantization"])
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name in _QUANTISED_FILES:
                return _QUANTISED_FILES[path.name]
            if path.suffix == ".gguf":
                return "gguf"
    return None


def _method(settings: object) -> str:
    if not isinstance(settings, Mapping):
        return str(settings)
    if settings.get("quant_method"):
        return str(settings["quant_method"])
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_type") or "by a method that its config does not name")


def unsupported_error(what: str) -> InputError:
    """Return the error for a class that is no family."""
    denoisers = [known.class_name for known in families() if known.is_denoiser]
    return InputError(
        f"{what} is not supported",
        hint=f"supported: {', '.join(denoisers)} (or force one with --family)",
    )


def unsupported_class_error(folder: Path, class_name: str, config: JsonObject) -> InputError:
    """Return the error for a component that cannot be compressed: by its kind, or its class."""
    if any(word in class_name for word in _STEERING):
        return InputError(
            f"{folder} is a {class_name}, which steers a denoiser and is none itself",
            hint="give the pipeline or the denoiser that it belongs to",
        )
    if class_name.endswith("Scheduler"):
        return InputError(
            f"{folder} holds a scheduler's config ({class_name}) and no denoiser",
            hint="give the pipeline's folder, the one with model_index.json",
        )
    if class_name.endswith("Pipeline"):
        return InputError(
            f"{folder / 'config.json'} describes a pipeline ({class_name}), not a component",
            hint="a pipeline's own file is called model_index.json",
        )
    if not class_name:
        return no_class_error(folder, config)
    return unsupported_error(f"{class_name} ({folder})")


def no_class_error(folder: Path, config: JsonObject) -> InputError:
    if config.get("model_type") or config.get("architectures"):
        names = config.get("architectures") or [config.get("model_type")]
        return InputError(
            f"{folder} is a {names[0]} of transformers, which diffc does not compress",
            hint="give the pipeline's folder, the one with model_index.json",
        )
    return InputError(
        f"{folder / 'config.json'} names no class (_class_name)",
        hint=f"say which it is with --family, one of {', '.join(family_names())}",
    )


def exported_pipeline_error(folder: Path, class_name: str) -> InputError | None:
    """Return the error for a pipeline of another runtime; None for a PyTorch pipeline."""
    runtimes = {"Onnx": "ONNX", "ORT": "ONNX", "OV": "OpenVINO", "Flax": "Flax"}
    for start, runtime in runtimes.items():
        if class_name.startswith(start):
            hint = "give the PyTorch model it was made from"
            if runtime == "ONNX":
                hint += "; `diffc bench FILE.onnx` measures the file as it is"
            article = "an" if runtime.startswith("O") else "a"
            what = f"{article} {runtime} pipeline ({class_name})"
            return InputError(f"{folder} is {what} already", hint=hint)
    return None


def no_model_error(folder: Path) -> InputError:
    """Return the error for a folder without model_index.json and without config.json."""
    names = sorted(path.name for path in folder.iterdir())
    adapter = find_adapter(names)
    if adapter is not None:
        return adapter_error(folder, adapter)
    inner = _inner_models(folder)
    if inner:
        return InputError(
            f"{folder} is not a model itself: the model lies in {inner[-1].relative_to(folder)}",
            hint=f"give {inner[-1]}",
        )
    if "modular_model_index.json" in names:
        return InputError(
            f"{folder} is a modular pipeline, which names its parts elsewhere",
            hint="give the folder that DiffusionPipeline.save_pretrained wrote",
        )
    if any(name.endswith(".gguf") for name in names):
        return InputError(f"{folder} is quantised already (gguf)", hint=_GIVE_ORIGINAL)
    single = [name for name in names if name.endswith((".safetensors", ".ckpt"))]
    if single:
        return InputError(
            f"{folder} holds {single[0]}, a checkpoint in one file, and no diffusers model",
            hint="convert it: the pipeline class's from_single_file(FILE).save_pretrained(FOLDER)",
        )
    return InputError(
        f"{folder} is not a diffusers model: it has neither model_index.json nor config.json",
        hint="give the folder that DiffusionPipeline.save_pretrained wrote",
    )


def missing_config_error(folder: Path, name: str, class_name: str) -> InputError:
    """Return the error for a pipeline whose denoiser is in its index but not in its folder."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    adapter = find_adapter(names)
    if adapter is not None:
        return adapter_error(folder, adapter)
    if (folder / name / "model.onnx").is_file() or "model.onnx" in names:
        exported = exported_pipeline_error(folder, "Onnx")
        assert exported is not None
        return exported
    inner = [path for path in _inner_models(folder) if path.parent != folder or path.name != name]
    alike = [path for path in inner if path.parent == folder and _class_in(path) == class_name]
    index = folder / "model_index.json"
    lacking = folder / name / "config.json"
    if alike:
        hint = f"the {class_name} lies in {alike[0].name}: correct the index or the folder's name"
    elif inner:
        hint = f"give {inner[-1]}"
    else:
        folders = [path.name for path in sorted(folder.iterdir()) if path.is_dir()]
        hint = f"the folder holds {', '.join(folders[:5]) or 'nothing else'}; download it whole"
    return InputError(f"{index} names '{name}', but {lacking} is missing", hint=hint)


def find_adapter(names: Iterable[str]) -> str | None:
    """Return the first of ``names`` that is an adapter's file; None if there is none."""
    adapters = (*_ADAPTER_NAMES, *_EMBEDDINGS)
    return next((n for n in names if any(word in n.lower() for word in adapters)), None)


def adapter_error(folder: Path, file: str) -> InputError:
    """Return the error for an adapter's folder."""
    if file.startswith(_EMBEDDINGS):
        return InputError(
            f"{folder} is a textual inversion ({file}), not a model",
            hint="give the pipeline that it was trained for",
        )
    return InputError(
        f"{folder} is an adapter ({file}), not a whole model",
        hint="compress its base model with --lora FILE where it is a LoRA; or load it there, "
        "fuse_lora(), unload_lora_weights(), save_pretrained(), and give that folder",
    )


def _inner_models(folder: Path) -> list[Path]:
    """Return pipelines and denoisers up to two levels down, that of the latest checkpoint last."""
    places: list[Path] = []
    for pattern in ("*", "*/*"):
        for path in folder.glob(pattern):
            if (path / "model_index.json").is_file() or _class_in(path) in family_names():
                places.append(path)
    whole = [path for path in places if path.parent not in places]  # not the parts of a pipeline
    return sorted(whole, key=lambda path: (_steps(path), path.name))


def _class_in(folder: Path) -> str:
    """Return the class that a folder's config names; "" if there is no readable config."""
    from diffc.models.files import read_json

    path = folder / "config.json"
    if not path.is_file():
        return ""
    try:
        config = read_json(path)
    except InputError:
        return ""
    return current_class(str(config.get("_class_name", "")), config)


def _steps(path: Path) -> int:
    digits = [part.rpartition("-")[2] for part in path.parts if part.startswith("checkpoint-")]
    return int(digits[-1]) if digits and digits[-1].isdigit() else -1
