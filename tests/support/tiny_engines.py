"""Denoisers of a few ONNX nodes, and the folders that diffc writes around such a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "clip_sample": True,
}
SHAPE = (3, 8, 8)


def _value(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, ["batch", *shape])


def graph(conditions: bool) -> onnx.ModelProto:
    """out = tanh(w * sample + t / 1000 [+ label / 10 + mean(text)]), w a 1x1 convolution.

    There are ten labels.
    """
    outputs = 6 if conditions else 3
    rng = np.random.default_rng(3)
    weight = (rng.standard_normal((outputs, 3, 1, 1)) * 0.5).astype(np.float32)
    constants = {
        "weight": weight,
        "axes": np.array([1, 2, 3], np.int64),
        "scale": np.array(1e-3, np.float32),
        "labels": np.arange(10, dtype=np.float32) / 10,
        "text_axes": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["sample", "weight"], ["features"]),
        helper.make_node("Cast", ["timestep"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["t", "scale"], ["t_scaled"]),
        helper.make_node("Unsqueeze", ["t_scaled", "axes"], ["t_wide"]),
        helper.make_node("Add", ["features", "t_wide"], ["timed"]),
    ]
    inputs = [_value("sample", TensorProto.FLOAT, SHAPE), _value("timestep", TensorProto.INT64, ())]
    last = "timed"
    if conditions:
        inputs += [
            _value("class_labels", TensorProto.INT64, ()),
            _value("encoder_hidden_states", TensorProto.FLOAT, (4, 5)),
        ]
        nodes += [
            helper.make_node("Gather", ["labels", "class_labels"], ["label_scaled"]),
            helper.make_node(
                "ReduceMean", ["encoder_hidden_states", "text_axes"], ["text"], keepdims=0
            ),
            helper.make_node("Add", ["label_scaled", "text"], ["condition"]),
            helper.make_node("Unsqueeze", ["condition", "axes"], ["condition_wide"]),
            helper.make_node("Add", ["timed", "condition_wide"], ["conditioned"]),
        ]
        last = "conditioned"
    nodes.append(helper.make_node("Tanh", [last], ["output"]))
    used = {name for node in nodes for name in node.input}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "denoiser",
            inputs,
            [_value("output", TensorProto.FLOAT, (outputs, *SHAPE[1:]))],
            [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def decoder_graph() -> onnx.ModelProto:
    """(B, 3, 8, 8) latents -> (B, 3, 16, 16) samples: each pixel four times."""
    node = helper.make_node("ConvTranspose", ["latent", "weight"], ["sample"], strides=[2, 2])
    weight = np.eye(3, dtype=np.float32)[:, :, None, None] * np.ones((2, 2), np.float32)
    return helper.make_model(
        helper.make_graph(
            [node],
            "decoder",
            [_value("latent", TensorProto.FLOAT, SHAPE)],
            [_value("sample", TensorProto.FLOAT, (3, 16, 16))],
            [numpy_helper.from_array(weight, "weight")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def onnx_folder(folder: Path, model: onnx.ModelProto, **more) -> Path:
    """The ONNX folder of docs/architecture.md around ``model``."""
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    kinds = {"sample": "sample", "latent": "sample", "timestep": "timestep"}
    inputs = [
        {
            "name": value.name,
            "shape": [d.dim_value for d in value.type.tensor_type.shape.dim][1:],
            "dtype": str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            "kind": kinds.get(value.name, "condition"),
        }
        for value in model.graph.input
    ]
    content = {
        "class_name": "UNet2DModel",
        "inputs": inputs,
        "output": {"name": model.graph.output[0].name, "shape": list(SHAPE)},
        "precision": "fp32",
        "prediction": "epsilon",
        "scheduler": SCHEDULER,
        **more,
    }
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def engine_folder(
    out: Path, conditions: bool = False, batch: tuple[int, ...] = (1, 2, 4), **more
) -> Path:
    """An engine folder built by diffc's ort-cpu target."""
    source = onnx_folder(out.parent / f"{out.name}-onnx", graph(conditions), **more)
    options = BuildOptions(batch=batch, one_profile=True, threads=1)
    drain(target("ort-cpu").build(source, options, out))
    return out


def decoder_folder(out: Path, **more) -> Path:
    """An engine folder of the decoder."""
    source = onnx_folder(out.parent / f"{out.name}-onnx", decoder_graph(), **more)
    drain(target("ort-cpu").build(source, BuildOptions(batch=(2,), threads=1), out))
    return out
