"""``--server ovms``: a folder for OpenVINO Model Server, with the sampling loop in its client.

    config.json       the models, as ``--config_path`` takes it
    denoiser/1/       OpenVINO's model.xml and model.bin
    decoder/1/        the VAE decoder's, of a latent model
    client/           the loop: numpy alone, every step a request

Source: OpenVINO Model Server's documentation, "Preparing a Model Repository" and "Serving multiple
models".
"""

from __future__ import annotations

import json
from pathlib import Path

from diffc.bundle import readme
from diffc.bundle.contents import BundleContents, public_info, write_info
from diffc.bundle.folder import copy_file
from diffc.bundle.plain import RUNTIME, copy_runtime
from diffc.errors import RequestError
from diffc_runtime.json_types import JsonDict

ROOT, VERSION = "/models", "1"
_PRECISION = "INFERENCE_PRECISION_HINT"


def write(contents: BundleContents, to: Path) -> tuple[str, ...]:
    """Write the folder.

    Returns:
        The names of the models.

    Raises:
        RequestError: The engine is of another target.
    """
    check_target(contents.target)
    models = {"denoiser": contents.engine} | (
        {"decoder": contents.decoder} if contents.decoder else {}
    )
    for name, engine in models.items():
        for file in public_info(engine)["files"]:
            copy_file(engine / file, to / name / VERSION / file)
    _write_client(contents, to / "client")
    served = [{"config": _config(name, engine)} for name, engine in models.items()]
    _write_json(to / "config.json", {"model_config_list": served})
    (to / "README.md").write_text(readme.ovms_readme(contents), "utf-8")
    return tuple(models)


def check_target(name: str) -> None:
    """Refuse a target whose engines the server does not run.

    Raises:
        RequestError: The server runs OpenVINO's models only.
    """
    from diffc_export.targets import target, targets

    if not target(name).facts.model_server:
        others = " or ".join(other for other, one in targets().items() if one.facts.model_server)
        raise RequestError(
            f"OpenVINO Model Server runs OpenVINO's models, not an engine for '{name}'",
            hint=f"diffc build OUT --target {others}, then --target {others} here",
        )


def _config(name: str, engine: Path) -> JsonDict:
    """Return a model's entry. Without a precision OpenVINO uses bf16 by itself if that is fast."""
    precision = public_info(engine)["details"].get("settings", {}).get(_PRECISION)
    plugin = {"plugin_config": {_PRECISION: precision}} if precision else {}
    return {"name": name, "base_path": f"{ROOT}/{name}", **plugin}


def _write_client(contents: BundleContents, folder: Path) -> None:
    copy_runtime(contents.target, folder / "diffc_runtime")
    copy_file(RUNTIME / "servers" / "ovms" / "client.py", folder / "client.py")
    write_info(contents.info, folder / "engine")
    settings = {**contents.served_settings(), "decoder": contents.decoder_request()}
    _write_json(folder / "pipeline.json", settings)


def _write_json(path: Path, content: JsonDict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
