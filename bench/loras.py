"""What a LoRA that a call picks by name costs: bench/results/loras.json.

    python -m bench.loras [--repeats 40] [--models demo-text,unet-50m]

For the demo-text denoiser and a random U-Net of 50 M parameters, on ort-cpu and openvino, one
thread, batch 1, a LoRA of rank 8 in every linear layer:

picked      the engine with the LoRA over the engine without, as ``pipe(..., lora=NAME)`` runs it
open_s      how long the first call with a LoRA takes longer: a copy of the engine is opened
a_b_a       whether the same inputs give the same bits with A, then B, then A again
fused       largest difference from torch with the LoRA in its weights, over the largest output

and the two layouts that were tried in its place, whose graphs have inputs:

weights     each changed weight is an input
low_rank    each A and B is an input, x A B is added to the layer's output

Ratios are medians of pairs of calls, one of each in turn, in processor time. ``same`` is the engine
beside a second copy of itself: what the ratios may differ from 1 by chance.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from diffc.models.families import family
from diffc.models.loras.pairs import LoraPair
from diffc.models.onnx_export import export_denoiser
from diffc.models.source import find_source
from diffc.recipe import Recipe
from diffc.stage_inputs import RunShape
from diffc.stages.engine_loras import SideChanges, engine_lora
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import machine, open_engine
from diffc_runtime.loras import EngineLoras

ROOT = Path(__file__).parents[1]
TARGETS = ("ort-cpu", "openvino")
RANK = 8
Call = Callable[[], np.ndarray]


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--models", default=",".join(MODELS), help="some of these alone")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "loras.json")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    models = {}
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            models[name] = measure(*MODELS[name](), Path(folder), options.repeats)
    packages = ("onnxruntime", "openvino", "torch")
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": machine.cpu.cpu_name(),
        "versions": {name: machine.packages.version(name) for name in packages},
        "threads": 1,
        "rank": RANK,
        "load_average": load,
    }
    options.out.write_text(json.dumps({**about, "models": models}, indent=2) + "\n")
    print(json.dumps(models, indent=2))


def demo_text() -> tuple[torch.nn.Module, list]:
    """The shipped text model, 8x8 latents."""
    denoiser = RunShape.of(Recipe()).open(find_source("demo-text"))
    return denoiser.model, denoiser.specs


def random_unet() -> tuple[torch.nn.Module, list]:
    """A U-Net as Stable Diffusion's, narrower, of 32x32 latents."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(128, 256, 512),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=8,
    ).eval()
    return model, family("UNet2DConditionModel").specs(dict(model.config), None)


def random_lora(model: torch.nn.Module, seed: int) -> list[LoraPair]:
    """A pair for every linear layer, each change a tenth of a weight's usual size."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            out, into = layer.weight.shape
            down = torch.randn(RANK, into, generator=generator) / into**0.5
            up = torch.randn(out, RANK, generator=generator) * 0.1 / RANK**0.5
            pairs.append(LoraPair(name, down, up, 1.0))
    return pairs


def measure(model: torch.nn.Module, specs: list, folder: Path, repeats: int) -> dict:
    """Every figure of one model."""
    known = family(type(model).__name__)
    export_denoiser(model, known, specs, folder / "onnx")
    rng = np.random.default_rng(0)
    inputs = {
        spec.name: np.full((1, *spec.shape), 500, spec.dtype)
        if spec.kind == "timestep"
        else rng.standard_normal((1, *spec.shape)).astype(spec.dtype)
        for spec in specs
    }
    loras = {name: random_lora(model, seed) for seed, name in enumerate(("a", "b"))}
    expected = with_lora(model, known, inputs, loras["a"])
    parameters = sum(p.numel() for p in model.parameters())
    results: dict[str, Any] = {"parameters": parameters, "layers": len(loras["a"])}
    for name in TARGETS:
        engine = folder / name / "engine"
        drain(target(name).build(folder / "onnx", BuildOptions(threads=1), engine))
        for lora, pairs in loras.items():
            changes = SideChanges(model.state_dict(), pairs, 0)
            engine_lora(engine, changes, 1.0).write(folder / name / "loras" / f"{lora}.npz")
        results[name] = picked(engine, inputs, expected, repeats)
        calls = {"base": graph_call(name, onnx.load(folder / "onnx/model.onnx"), inputs, {})}
        for layout, change in (("weights", weight_inputs), ("low_rank", low_rank_inputs)):
            graph = onnx.load(folder / "onnx" / "model.onnx")
            calls[layout] = graph_call(name, graph, inputs, change(graph))
        ratios = paired(calls, repeats)["ratios"]
        results[name] |= {layout: ratios[layout] for layout in ("weights", "low_rank")}
    return results


def with_lora(model: torch.nn.Module, known: Any, inputs: Mapping, pairs: list) -> np.ndarray:
    """What torch computes with a LoRA in the weights."""
    changed = copy.deepcopy(model)
    layers = dict(changed.named_modules())
    with torch.no_grad():
        for pair in pairs:
            layers[pair.layer].weight += pair.change()
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        output: np.ndarray = known.call(changed, tensors).numpy()
    return output


def picked(engine: Path, inputs: dict, expected: np.ndarray, repeats: int) -> dict:
    """The engine as a pipeline runs it, with a LoRA and without."""
    plain, again = open_engine(engine, 1).run, open_engine(engine, 1).run
    loras = EngineLoras(engine, engine.parent / "loras", 1)
    start = time.perf_counter()
    first = loras.denoise("a")(inputs)
    opened = time.perf_counter() - start
    loras.denoise("b")(inputs)
    calls = {
        "base": lambda: plain(inputs),
        "same": lambda: again(inputs),
        "a": lambda: loras.denoise("a")(inputs),
        "b": lambda: loras.denoise("b")(inputs),
    }
    times = paired(calls, repeats)
    ratios = times["ratios"]
    same_bits = all(np.array_equal(loras.denoise("a")(inputs), first) for _ in range(3))
    difference = float(np.abs(first - expected).max() / np.abs(expected).max())
    return {
        "call_ms": times["base_ms"],
        "picked": {"a": ratios["a"], "b": ratios["b"], "same": ratios["same"]},
        "open_s": opened,
        "a_b_a": same_bits,
        "fused": difference,
    }


def paired(calls: Mapping[str, Call], repeats: int) -> dict:
    """Run the calls in turn; medians of the ratios to the first, in processor time."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + 2):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if i >= 2:
                times[name].append(time.process_time() - start)
    base = times["base"]
    ratios = {
        name: statistics.median(t / b for t, b in zip(one, base, strict=True))
        for name, one in times.items()
    }
    return {"base_ms": statistics.median(base) * 1e3, "ratios": ratios}


# Layouts with inputs ------------------------------------------------------------------------------


def linear_nodes(graph: onnx.ModelProto) -> list:
    """(node, weight) of every linear layer with a constant weight of its own."""
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    kinds = ("MatMul", "Gemm")
    nodes = [n for n in graph.graph.node if n.op_type in kinds and n.input[1] in weights]
    return [(n, weights[n.input[1]]) for n in nodes if len(weights[n.input[1]].dims) == 2]


def weight_inputs(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Make the weights of linear layers inputs; their values."""
    values = {w.name: numpy_helper.to_array(w).copy() for _, w in linear_nodes(graph)}
    stay = [tensor for tensor in graph.graph.initializer if tensor.name not in values]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(stay)
    for name, value in values.items():
        graph.graph.input.append(helper.make_tensor_value_info(name, 1, value.shape))
    return values


def low_rank_inputs(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Add x A B to the output of each linear layer, A and B inputs; their values."""
    rng, values, nodes = np.random.default_rng(0), {}, []
    changed = {node.output[0]: weight for node, weight in linear_nodes(graph)}
    for node in graph.graph.node:
        nodes.append(node)
        weight = changed.get(node.output[0])
        if weight is None:
            continue
        rows, columns = weight.dims
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            rows, columns = columns, rows
        out = node.output[0]
        for part, shape in (("A", (rows, RANK)), ("B", (RANK, columns))):
            values[f"{out}_{part}"] = (rng.standard_normal(shape) * 0.01).astype(np.float32)
            graph.graph.input.append(helper.make_tensor_value_info(f"{out}_{part}", 1, shape))
        node.output[0] = f"{out}_base"
        nodes += [
            helper.make_node("MatMul", [node.input[0], f"{out}_A"], [f"{out}_low"]),
            helper.make_node("MatMul", [f"{out}_low", f"{out}_B"], [f"{out}_change"]),
            helper.make_node("Add", [f"{out}_base", f"{out}_change"], [out]),
        ]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)
    return values


def graph_call(name: str, graph: onnx.ModelProto, inputs: Mapping, more: Mapping) -> Call:
    """A call of a graph with inputs that stay in place."""
    values = {key: np.array(value) for key, value in {**inputs, **more}.items()}
    if name == "ort-cpu":
        import onnxruntime as ort

        from diffc_runtime.libraries.ort import session_options

        session = ort.InferenceSession(graph.SerializeToString(), session_options(1))
        fed = {key: ort.OrtValue.ortvalue_from_numpy(value) for key, value in values.items()}
        output = [graph.graph.output[0].name]
        return lambda: session.run_with_ort_values(output, fed)[0].numpy()
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(graph, Path(folder) / "model.onnx")
        read = ov.Core().read_model(Path(folder) / "model.onnx")
        read.reshape({key: list(value.shape) for key, value in inputs.items()})
        hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        settings = {**hints, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
        request = ov.Core().compile_model(read, "CPU", settings).create_infer_request()
    for key, value in values.items():
        request.set_tensor(key, ov.Tensor(value, shared_memory=True))

    def call() -> np.ndarray:
        request.infer()
        return request.get_output_tensor(0).data.copy()

    return call


MODELS = {"demo-text": demo_text, "unet-50m": random_unet}

if __name__ == "__main__":
    main()
