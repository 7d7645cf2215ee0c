"""``--server triton``: a model repository.

    denoiser/      the engine under its own backend (onnxruntime, tensorrt), else in Python
    decoder/       the VAE decoder of a latent model, likewise
    text_encoder/  each text encoder of a pipeline that takes prompts, likewise
    pipeline/      the whole loop in one process
    pipeline_bls/  the loop that calls the denoiser model for every step

Every model's folder is complete by itself, because servers copy models one by one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.bundle import readme, triton_check
from diffc.bundle import triton_config as configs
from diffc.bundle.contents import BundleContents, copy_engine, public_info, write_info
from diffc.bundle.folder import copy_file
from diffc.bundle.plain import RUNTIME, copy_engines, copy_runtime, copy_tokenizers
from diffc.errors import CheckFailed, RequestError
from diffc_export.targets import target
from diffc_export.targets.base import TritonBackend
from diffc_runtime.images import is_picture
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

VERSION = "1"
_THREADS = ("threads", "intra_op_thread_count")
"""The parameters for it: of a model in Python (servers/triton/serving.py), of the backend."""


def write(contents: BundleContents, to: Path) -> tuple[str, ...]:
    """Write the repository into ``to``.

    Returns:
        The names of its models.

    Raises:
        RequestError: Several engines do not name the compute capability that they are for.
        CheckFailed: The repository is not valid.
    """
    configs.config_messages()  # without the protobuf message nothing is begun
    parts = ["denoiser", *(["decoder"] if contents.decoder else []), *contents.texts]
    _write_engine_model(to / "denoiser", contents.info, [contents.engine, *contents.gpu_engines])
    info = contents.decoder_info
    if contents.decoder and info:
        _write_engine_model(to / "decoder", info, [contents.decoder])
    for name, engine in contents.texts.items():
        _write_engine_model(to / name, public_info(engine), [engine])
    _write_pipeline(contents, to / "pipeline")
    _write_bls(contents, to / "pipeline_bls")
    (to / "README.md").write_text(readme.triton_readme(contents), "utf-8")
    copy_file(RUNTIME / "servers" / "triton" / "client.py", to / "client.py")
    problems = triton_check.find_problems(to)
    if problems:
        raise CheckFailed(f"the model repository is not valid: {problems[0]}")
    return (*parts, "pipeline", "pipeline_bls")


def notes(contents: BundleContents) -> list[str]:
    """Return what people who serve the repository should know first, one line each."""
    return [line for line in (configs.no_batching_note(contents.info),) if line]


def _write_engine_model(
    folder: Path, info: JsonObject, engines: list[Path], native: bool = True
) -> None:
    """Write a model that runs an engine: under its own backend if Triton has one."""
    backend = target(info["target"]).facts.triton if native else None
    files = {} if backend is None else _copy_native(folder / VERSION, engines, backend)
    if backend is None:
        _copy_python(folder / VERSION, "engine", info["target"])
        for i, engine in enumerate(engines):
            copy_engine(engine, folder / VERSION / (f"engine-{i}" if i else "engine"))
    config = configs.engine_model(folder.name, info, native=backend is not None, plans=files)
    _write_config(folder, config)


def _copy_native(to: Path, engines: list[Path], backend: TritonBackend) -> dict[str, str]:
    """Copy the engine's files under the backend's names.

    Returns:
        Compute capability -> the file of the engine for it.
    """
    plans: dict[str, str] = {}
    for i, engine in enumerate(engines):
        info = public_info(engine)
        capability = info["device"].get("compute_capability")
        if len(engines) > 1 and not capability:
            raise RequestError(
                f"{engine} names no compute capability, by which Triton picks one of several plans",
                hint="build it for `trt` on the GPU that it is for, or leave --plan out",
            )
        suffix = f"_sm{capability.replace('.', '')}" if i and capability else ""
        name = f"{Path(backend.file).stem}{suffix}{Path(backend.file).suffix}"
        if capability:
            plans[capability] = name
        for file in info["files"]:
            main = Path(file).suffix in (".onnx", ".plan", ".engine")
            copy_file(engine / file, to / (name if main else file))
    return plans


def _copy_python(to: Path, template: str, name: str) -> None:
    """Write a Python model: its model.py, the code that it shares with others, and the runtime."""
    copy_file(RUNTIME / "servers" / "triton" / f"{template}.py", to / "model.py")
    copy_file(RUNTIME / "servers" / "triton" / "serving.py", to / "serving.py")
    copy_runtime(name, to / "diffc_runtime")


def _write_pipeline(contents: BundleContents, folder: Path) -> None:
    version = folder / VERSION
    _copy_python(version, "pipeline", contents.target)
    copy_engines(contents, version)
    _write_json(version / "pipeline.json", contents.served_settings())
    several = any(item.get("sizes") for item in contents.info["inputs"])
    config = configs.pipeline_model(folder.name, contents, instances=1, several_sizes=several)
    _write_config(folder, config)


def _write_bls(contents: BundleContents, folder: Path) -> None:
    version = folder / VERSION
    _copy_python(version, "bls", contents.target)
    write_info(contents.info, version / "engine")
    for name, engine in contents.texts.items():
        write_info(public_info(engine), version / name)
    copy_tokenizers(contents, version)
    _write_json(version / "pipeline.json", {**contents.served_settings(), **_models(contents)})
    instances = configs.bls_instances(contents.info)
    _write_config(folder, configs.pipeline_model(folder.name, contents, instances))


def _models(contents: BundleContents) -> JsonDict:
    """Return how the BLS model calls the others."""
    infos = {"denoiser": contents.info}
    if contents.decoder_info:
        infos["decoder"] = contents.decoder_info
    infos |= {name: public_info(engine) for name, engine in contents.texts.items()}
    models = {name: {"batched": configs.max_batch(info) > 0} for name, info in infos.items()}
    shape = configs.sample_shape(contents)
    return {
        "models": models,
        "decoder": contents.decoder_request(),
        "image_size": list(shape[1:]) if is_picture(shape) else None,
    }


def _write_config(folder: Path, config: ModelConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(configs.to_text(config))


def _write_json(path: Path, content: JsonObject) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def stand_in(repository: Path, name: str, engine: Path) -> None:
    """Replace the model ``name`` by one that runs ``engine`` in the Python backend.

    It has the same inputs, outputs and batching, for a server whose build lacks the engine's
    backend.
    """
    folder = repository / name
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    _write_engine_model(folder, public_info(engine), [engine], native=False)


def limit_threads(repository: Path, threads: int) -> None:
    """Write a number of threads into every model's config.pbtxt of a Triton repository.

    It holds for engines on a processor, in Python and in ONNX Runtime's own backend.
    """
    parameters = "".join(
        f'parameters {{ key: "{name}" value {{ string_value: "{threads}" }} }}\n'
        for name in _THREADS
    )
    for path in repository.rglob("config.pbtxt"):
        path.write_text(path.read_text() + parameters)
