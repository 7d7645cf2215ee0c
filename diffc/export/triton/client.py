"""A client of the server: images by seed, over HTTP.

    pip install "tritonclient[http]" numpy
    python client.py --url localhost:8000 --n 4 --steps 50 --seed 0 --out images.npy

``--bls`` asks the model that runs every step on the denoiser model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton


def inputs(**values: Any) -> list[Any]:
    """Triton's inputs for the pipeline: ``seed``, ``steps``, ``n``, ``guidance``, conditions."""
    made = []
    for name, value in values.items():
        array = _array(name, value)
        tensor = triton.InferInput(name, array.shape, triton.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


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
    """(N, H, W, C) uint8 images."""
    client = triton.InferenceServerClient(url, network_timeout=600, connection_timeout=600)
    outputs = [triton.InferRequestedOutput("images")]
    images: np.ndarray = client.infer(model, inputs(**values), outputs=outputs).as_numpy("images")
    return images


def main() -> None:
    """Ask for images and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--n", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bls", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("images.npy"))
    options = parser.parse_args()
    model = "pipeline_bls" if options.bls else "pipeline"
    images = generate(options.url, model, n=options.n, steps=options.steps, seed=options.seed)
    np.save(options.out, images)
    print(f"{options.out}: {images.shape} {images.dtype}")


if __name__ == "__main__":
    main()
