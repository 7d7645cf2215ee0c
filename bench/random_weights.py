"""A model's folder with random weights: they are drawn and written one by one, in little memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu.networks import Network


def write_model(network: Network, folder: Path) -> int:
    """Write folder/model, weights in fp32 drawn one by one; return how many numbers they are."""
    from diffc.models.cut import skeleton

    model = skeleton(network.class_name, network.config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    home = folder / "model"
    home.mkdir()
    config = {"_class_name": network.class_name, **network.config}
    (home / "config.json").write_text(json.dumps(config))
    kind = "FlowMatchEulerDiscrete" if network.class_name == "FluxTransformer2DModel" else "DDPM"
    scheduler = {"_class_name": f"{kind}Scheduler"}
    (home / "scheduler_config.json").write_text(json.dumps(scheduler))
    header, end = {}, 0
    for key, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    generator = np.random.default_rng(0)
    with (home / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, shape in shapes.items():
            file.write(drawn(key, shape, generator).tobytes())
    return end // 4


def drawn(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    """A tensor of a network: outputs of a layer are about as large as its inputs."""
    if len(shape) > 1:
        scale = np.float32(1 / math.sqrt(math.prod(shape[1:])))
        return generator.standard_normal(shape, dtype=np.float32) * scale
    return np.full(shape, name.endswith("weight"), np.float32)
