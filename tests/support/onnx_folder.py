"""A small real ONNX folder, as docs/architecture.md describes it, for tests of what comes after.

``write_onnx_folder`` exports a diffusers UNet2DModel with torch and writes what torch fp32 gave
beside it. The real exporter is export/diffc_export/onnx/export.py; this one is independent of it
on purpose.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": False,
}


def tiny_unet(channels=(16, 32), size=8, seed=0):
    """A random two-level UNet2DModel with attention, in eval mode."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=channels,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


class _Plain(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, sample, timestep):
        return self.model(sample, timestep, return_dict=False)[0]


def write_onnx_folder(model, folder, scheduler=SCHEDULER):
    """Export ``model`` (a UNet2DModel) into ``folder``: model.onnx, model.json, reference."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (model.config.in_channels, model.config.sample_size, model.config.sample_size)
    example = (torch.randn(2, *shape), torch.tensor([10, 500]))
    batch = torch.export.Dim("batch", min=1, max=63)  # torch would trace twice for more
    torch.onnx.export(
        _Plain(model),
        example,
        folder / "model.onnx",
        dynamo=True,
        external_data=False,
        input_names=["sample", "timestep"],
        output_names=["out_sample"],
        dynamic_shapes=({0: batch}, {0: batch}),
        opset_version=20,
        verbose=False,
    )
    _write_reference(model, folder, shape)
    _write_model_json(model, folder, shape, scheduler)
    return folder


def _write_reference(model, folder, shape, levels=4, steps=10):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(levels, *shape, generator=generator)
    timestep = torch.linspace(20, 980, levels).long()
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    times = torch.arange(900, -1, -100)[:steps]
    previous = torch.cat([bar[times[1:]], torch.ones(1, dtype=torch.float64)])
    now = bar[times]
    a = (previous / now).sqrt()
    b = (1 - previous).sqrt() - a * (1 - now).sqrt()
    initial = torch.randn(1, *shape, generator=generator)
    with torch.no_grad():
        output = model(sample, timestep).sample
        x = initial
        for t, ai, bi in zip(times, a, b, strict=True):
            x = ai.float() * x + bi.float() * model(x, t).sample
    arrays = {
        "input.sample": sample,
        "input.timestep": timestep,
        "output": output,
        "trajectory.initial": initial,
        "trajectory.timesteps": times,
        "trajectory.coefficients": torch.stack([a, b], 1),
        "trajectory.final": x,
    }
    numpy = {name: np.ascontiguousarray(value.numpy()) for name, value in arrays.items()}
    save_file(numpy, folder / "reference.safetensors")


def _write_model_json(model, folder, shape, scheduler):
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    digest = hashlib.sha256(b"model.onnx" + digest.encode()).hexdigest()
    content = {
        "class_name": "UNet2DModel",
        "inputs": [
            {"name": "sample", "shape": list(shape), "dtype": "float32", "kind": "sample"},
            {"name": "timestep", "shape": [], "dtype": "int64", "kind": "timestep"},
        ],
        "output": {"name": "out_sample", "shape": list(shape)},
        "precision": "fp32",
        "opset": 20,
        "sha256": digest,
        "prediction": "epsilon",
        "scheduler": dict(scheduler),
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": 0,
    }
    (folder / "model.json").write_text(json.dumps(content, indent=2))


def write_handmade_folder(
    folder, channels=8, size=8, seed=0, macs=1_000_000, dtype=np.float32, others=()
):
    """An ONNX folder of two convolutions and a timestep, made without torch in milliseconds.

    y = conv(relu(conv(x) + t / 1000)) with weights in ``dtype``; the inputs and output stay
    float32. Its reference is computed with numpy. others: (H, W) that it serves beside its own.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    first = generator.standard_normal((channels, 1, 3, 3)).astype(dtype) * dtype(0.3)
    second = generator.standard_normal((1, channels, 3, 3)).astype(dtype) * dtype(0.3)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["sample"], ["x"], to=kind, name="cast_x"),
        helper.make_node("Cast", ["timestep"], ["t"], to=kind, name="cast_t"),
        helper.make_node("Reshape", ["t", "shape"], ["t4"], name="reshape_t"),
        helper.make_node("Mul", ["t4", "scale"], ["ts"], name="scale_t"),
        helper.make_node("Conv", ["x", "w1"], ["h"], name="conv_1", **pads),
        helper.make_node("Add", ["h", "ts"], ["h2"], name="add_t"),
        helper.make_node("Relu", ["h2"], ["h3"], name="relu"),
        helper.make_node("Conv", ["h3", "w2"], ["y"], name="conv_2", **pads),
        helper.make_node("Cast", ["y"], ["out_sample"], to=TensorProto.FLOAT, name="cast_y"),
    ]
    constants = {
        "w1": first,
        "w2": second,
        "scale": np.array([1e-3], dtype),
        "shape": np.array([-1, 1, 1, 1], np.int64),
    }
    image = ["batch", 1, "height", "width"] if others else ["batch", 1, size, size]
    graph = helper.make_graph(
        nodes,
        "handmade",
        [
            helper.make_tensor_value_info("sample", TensorProto.FLOAT, image),
            helper.make_tensor_value_info("timestep", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, image)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    precision = {"float32": "fp32", "float16": "fp16"}[np.dtype(dtype).name]
    describe_folder(folder, (1, size, size), precision=precision, macs=macs, others=others)
    _write_numpy_reference(folder, first, second, size, others=others)
    return folder


def describe_folder(folder, shape, precision="fp32", macs=1_000_000, others=()):
    """Write model.json for the model.onnx in ``folder``, with its true hash."""
    sizes = {"sizes": [list(shape[-2:]), *map(list, others)]} if others else {}
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    content = {
        "class_name": "UNet2DModel",
        "inputs": [
            {"name": "sample", "shape": list(shape), "dtype": "float32", "kind": "sample", **sizes},
            {"name": "timestep", "shape": [], "dtype": "int64", "kind": "timestep"},
        ],
        "output": {"name": "out_sample", "shape": list(shape)},
        "precision": precision,
        "opset": 20,
        "sha256": hashlib.sha256(b"model.onnx" + digest.encode()).hexdigest(),
        "prediction": "epsilon",
        "scheduler": SCHEDULER,
        "parameters": 1000,
        "macs": macs,
    }
    (folder / "model.json").write_text(json.dumps(content, indent=2))


def _convolved(x, weight):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weight)


def _write_numpy_reference(folder, first, second, size, levels=4, others=()):
    first, second = first.astype(np.float64), second.astype(np.float64)

    def call(x, t):
        hidden = _convolved(x.astype(np.float64), first) + t.reshape(-1, 1, 1, 1) / 1000
        return _convolved(np.maximum(hidden, 0), second).astype(np.float32)

    generator = np.random.default_rng(1)
    sample = generator.standard_normal((levels, 1, size, size)).astype(np.float32)
    timestep = np.linspace(20, 980, levels).astype(np.int64)
    times = np.array([900, 600, 300, 0])
    coefficients = np.array([[0.9, -0.1]] * 4, np.float32)
    x = initial = sample[:1]
    for t, (a, b) in zip(times, coefficients, strict=True):
        x = a * x + b * call(x, np.array([t]))
    arrays = {
        "input.sample": sample,
        "input.timestep": timestep,
        "output": call(sample, timestep),
        "trajectory.initial": initial,
        "trajectory.timesteps": times,
        "trajectory.coefficients": coefficients,
        "trajectory.final": x.astype(np.float32),
    }
    for height, width in others:
        sample = generator.standard_normal((levels, 1, height, width)).astype(np.float32)
        at = {"input.sample": sample, "input.timestep": timestep, "output": call(sample, timestep)}
        arrays |= {f"at.{height}x{width}.{name}": value for name, value in at.items()}
    save_file(arrays, folder / "reference.safetensors")
