"""A client of the server: images by seed, over HTTP.

    pip install "tritonclient[http]" numpy
    python client.py --url localhost:8000 --n 4 --steps 50 --seed 0 --out images.npy

``--bls`` asks the model that runs every step on the denoiser model. ``--condition NAME=VALUE``, or
``NAME=FILE.npy``, for each of the model's conditions; ``--guidance`` for classifier-free guidance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton


def inputs(**values: Any) -> list[Any]:
    """Return Triton's inputs: ``seed``, ``steps``, ``n``, ``guidance``, conditions."""
    tensors = []
    for name, value in values.items():
        array = _array(name, value)
        tensor = triton.InferInput(name, array.shape, triton.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _array(name: str, value: Any) -> np.ndarray:
    whole = {"seed": np.int64, "n": np.int32, "steps": np.int32, "first": np.int64}
    if name in whole:
        return np.array([value], whole[name])
    if name == "guidance":
        return np.array([value], np.float32)
    if name == "scheduler":
        return np.array([value.encode()], np.object_)
    return np.asarray(value)


def generate(url: str, model: str = "pipeline", **values: Any) -> np.ndarray:
    """Request images (N, H, W, C) in uint8, or samples (N, ...) in float32 without a decoder."""
    client = triton.InferenceServerClient(url, network_timeout=600, connection_timeout=600)
    name = client.get_model_metadata(model)["outputs"][0]["name"]
    tensors = inputs(**as_declared(client, model, values))
    outputs = [triton.InferRequestedOutput(name)]
    images: np.ndarray = client.infer(model, tensors, outputs=outputs).as_numpy(name)
    return images


def as_declared(client: Any, model: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with each condition in the type that the model declares, rows first."""
    known = {item["name"]: item for item in client.get_model_metadata(model)["inputs"]}
    rows = {name for name in values if name in known and known[name]["shape"][0] == -1}
    return {name: _rows(known[name], v) if name in rows else v for name, v in values.items()}


def _rows(declared: dict[str, Any], value: Any) -> np.ndarray:
    """Return ``value`` as rows; a value without rows becomes one row for all images."""
    dtype = triton.triton_to_np_dtype(declared["datatype"])
    array = np.asarray(value)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"condition '{declared['name']}' must be {np.dtype(dtype)}")
    array = array.astype(dtype)
    return array[None] if array.ndim < len(declared["shape"]) else array


def values_by_name(given: list[str], prefix: str = "") -> dict[str, Any]:
    """Parse ``NAME=3``, ``NAME=0.5`` and ``NAME=file.npy`` into name -> value."""
    values: dict[str, Any] = {}
    for item in given:
        name, _, text = item.partition("=")
        if text.endswith(".npy"):
            values[prefix + name] = np.load(text, allow_pickle=False)
        else:
            values[prefix + name] = int(text) if text.lstrip("+-").isdigit() else float(text)
    return values


def main() -> None:
    """Request images and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--n", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=1.0, help="1 for none")
    for name in ("condition", "unconditional"):
        help_ = "a number, or an .npy file of (n, ...) or (...); may be given again"
        parser.add_argument(f"--{name}", action="append", default=[], metavar="NAME=V", help=help_)
    parser.add_argument("--bls", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("images.npy"))
    options = parser.parse_args()
    try:
        images = _request_images(options)
        np.save(options.out, images)
    except (triton.InferenceServerException, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.out}: {images.shape} {images.dtype}")


def _request_images(options: argparse.Namespace) -> np.ndarray:
    return generate(
        options.url,
        "pipeline_bls" if options.bls else "pipeline",
        n=options.n,
        steps=options.steps,
        seed=options.seed,
        guidance=options.guidance,
        **values_by_name(options.condition),
        **values_by_name(options.unconditional, "unconditional_"),
    )


if __name__ == "__main__":
    main()
