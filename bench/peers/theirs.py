"""What people use today: torch, ONNX Runtime and OpenVINO by their own means, nncf's int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_numpy
from torch import Tensor, nn

from bench.peers.candidate import Bind, Call, Candidate, say, timed
from bench.peers.models import Plain
from bench.peers.subject import Subject, macs_of
from diffc.errors import UnavailableError
from diffc.measure.inputs import fill, reference_inputs
from diffc.measure.parity import judge_outputs
from diffc_export.targets import target


def peers(subject: Subject, batch: int) -> list[Candidate]:
    found = []
    pruned = subject.work / "stock.pt"  # written and read by this script alone
    if not pruned.exists():
        say(f"{subject.name}: stock torch-pruning")
        try:
            torch.save(subject.stock(), pruned)
        except Exception as error:  # whatever stops a stock tool is its result
            pruned.write_text(f"{type(error).__name__}: {error}"[:300])
    models: dict[str, nn.Module | str] = {"dense": subject.dense}
    try:
        models["compressed"] = torch.load(pruned, weights_only=False)
    except Exception:
        models["compressed"] = pruned.read_text(errors="replace")[:300]
    for side, model in models.items():
        for maker in DENSE if side == "dense" else PRUNED:
            who = "peer" if side == "dense" else "torch-pruning"
            name = f"{who}: {maker.__name__.replace('_', ' ')} {side}"
            runtime, kind = MAKERS[maker]
            one = Candidate(name, who, runtime, side, kind)
            try:
                if isinstance(model, str):
                    raise RuntimeError(model)
                if kind == "bf16" and "bf16" not in target("openvino").precisions():
                    raise UnavailableError("the processor has no bf16")
                one.facts["macs_left"] = macs_of(subject, model) / subject.macs["dense"]
                bind = maker(subject, model, batch, subject.work / f"{side}-{batch}")
                one.call = timed(bind(subject.inputs(batch)))
                if side == "dense" and not subject.args.prepare:
                    one.facts["parity"] = peer_parity(subject, bind, kind, batch)
            except Exception as error:
                one.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            found.append(one)
    return found


def peer_parity(subject: Subject, bind: Bind, kind: str, batch: int) -> dict[str, Any]:
    """Of the reference's noise levels, one by one, by the rule for diffc's own engines."""
    folder = subject.onnx("dense") / "reference.safetensors"
    rows = reference_inputs(folder)
    expected, found = load_numpy(folder)["output"], []
    for i in range(len(expected)):
        one = {
            s.name: torch.from_numpy(fill(rows[s.name][i : i + 1], batch)) for s in subject.specs
        }
        found.append(np.array(bind(one)())[:1])
    verdict = judge_outputs(np.concatenate(found), expected, None, None, kind)
    return verdict.model_dump(mode="json")


def eager(subject: Subject, model: nn.Module, batch: int, _place: Path) -> Bind:
    def bind(inputs: Mapping[str, Tensor]) -> Call:
        def run() -> Tensor:
            with torch.inference_mode():
                return subject.family.call(model, inputs)

        return run

    return bind


def eager_bf16(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    exact = eager(subject, model, batch, place)

    def bind(inputs: Mapping[str, Tensor]) -> Call:
        run = exact(inputs)

        def autocast() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return run().float()

        return autocast

    return bind


def compiled(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    bind = eager(subject, torch.compile(model), batch, place)
    bind(subject.inputs(batch))()  # the compilation, or what stops it
    return bind


def compiled_bf16(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    bind = eager_bf16(subject, torch.compile(model), batch, place)
    bind(subject.inputs(batch))()
    return bind


def plain_export(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    """torch.onnx.export as its documentation shows it, at the shape that is measured."""
    return _session(subject, _exported(subject, model, batch, place, dynamo=True))


def traced_export(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    """By tracing, which is how optimum's exporter calls torch (opset 18)."""
    return _session(subject, _exported(subject, model, batch, place, dynamo=False))


def _exported(subject: Subject, model: nn.Module, batch: int, place: Path, *, dynamo: bool) -> Path:
    path = place.with_name(f"{place.name}-{'dynamo' if dynamo else 'traced'}.onnx")
    if not path.exists():
        say(f"{subject.name}: {path.name}")
        names = [spec.name for spec in subject.specs]
        more = {"external_data": False, "verbose": False} if dynamo else {"opset_version": 18}
        with torch.no_grad():
            torch.onnx.export(
                Plain(model, subject.family, names), tuple(subject.inputs(batch).values()), path,
                dynamo=dynamo, input_names=names, output_names=["out"], **more,
            )  # fmt: skip
    return path


def _session(subject: Subject, path: Path) -> Bind:
    """Default options but for the threads, and for spinning, which would disturb the others."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = subject.args.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def bind(inputs: Mapping[str, Tensor]) -> Call:
        feed = {name: value.numpy() for name, value in inputs.items()}
        return lambda: session.run(None, feed)[0]

    return bind


def own_conversion(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    """ov.convert_model of the torch module, for low latency."""
    import openvino as ov

    path = place.with_name(f"{place.name}-ov.xml")
    if not path.exists():
        say(f"{subject.name}: {path.name}")
        inputs = tuple(subject.inputs(batch).values())
        names = [spec.name for spec in subject.specs]
        with torch.no_grad():
            graph = ov.convert_model(
                Plain(model, subject.family, names), example_input=inputs,
                input=[list(value.shape) for value in inputs],
            )  # fmt: skip
        ov.save_model(graph, path, compress_to_fp16=False)
    return _request(subject, path)


def own_conversion_bf16(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    own_conversion(subject, model, batch, place)
    return _request(subject, place.with_name(f"{place.name}-ov.xml"), "bf16")


def _request(subject: Subject, path: Path, precision: str = "f32") -> Bind:
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": subject.args.threads,
                "INFERENCE_PRECISION_HINT": precision}  # fmt: skip
    request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()

    def bind(inputs: Mapping[str, Tensor]) -> Call:
        arrays = [value.numpy() for value in inputs.values()]
        return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)[0]

    return bind


def nncf_int8(subject: Subject, model: nn.Module, batch: int, place: Path) -> Bind:
    """nncf's default post-training quantisation of OpenVINO's own conversion."""
    path = place.with_name(f"{place.name}-nncf.xml")
    if not path.exists():
        import nncf
        import openvino as ov

        say(f"{subject.name}: {path.name}")
        own_conversion(subject, model, batch, place)
        graph = ov.Core().read_model(place.with_name(f"{place.name}-ov.xml"))
        arrays = [value.numpy() for value in subject.inputs(max(batch, 8)).values()]
        rows = [[a[i : i + batch] for a in arrays] for i in range(0, len(arrays[0]), batch)]
        quantized = nncf.quantize(graph, nncf.Dataset(rows), subset_size=len(rows))
        ov.save_model(quantized, path, compress_to_fp16=False)
    return _request(subject, path)


DENSE = (eager, eager_bf16, compiled, compiled_bf16, plain_export, traced_export, own_conversion,
         own_conversion_bf16, nncf_int8)  # fmt: skip
PRUNED = (eager, eager_bf16, plain_export, own_conversion, own_conversion_bf16)
MAKERS = {
    eager: ("torch", "fp32"), eager_bf16: ("torch", "bf16"),
    compiled: ("torch", "fp32"), compiled_bf16: ("torch", "bf16"),
    plain_export: ("ort-cpu", "fp32"), traced_export: ("ort-cpu", "fp32"),
    own_conversion: ("openvino", "fp32"), own_conversion_bf16: ("openvino", "bf16"),
    nncf_int8: ("openvino", "int8"),
}  # fmt: skip
"""Maker -> its runtime and precision."""
