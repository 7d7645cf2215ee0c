"""diffc's engines beside what people use today: same machine, one process, in turn.

    python -m bench.peers --work DIR --prepare      exports, conversions, pruning, int8: no timing
    python -m bench.peers --work DIR                times what is prepared: leave the machine alone

    [--models cifar demo sd] [--batch 1 8] [--rounds N] [--seconds S] [--limit MINUTES] [--again]
    [--cifar FOLDER] [--allocate uniform|latency] [--threads N]

Models: CIFAR's 35.7 M UNet, the demo, and a small UNet2DConditionModel as Stable Diffusion's. The
first and last have random weights unless --cifar names a trained pipeline; their last convolution
is fitted by least squares so that they denoise, for int8 is calibrated on denoising trajectories.

Candidates, each dense and at half the MACs where its maker can cut:

    torch eager, torch.compile (both under bf16 autocast too)
    onnxruntime    a plain torch.onnx.export of the module at the batch's shape (torch-pruning's
                   own pruned model goes the same way); and optimum's exporter's, by tracing
    openvino       ov.convert_model of the module, in bf16 too; int8 by nncf where it is installed
    diffc          ort-cpu and openvino in fp32, bf16 and int8

bf16 is measured where the processor has it. Same threads, and fp32 stated to OpenVINO, which takes
bf16 by itself where there is any. Every
candidate is run on the same noisy inputs; diffc's and the dense peers' say whether parity held, and
one that fails it is never the fastest. One section of
bench/results/peers.json for each model and batch, written when done and kept by the next run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_numpy
from torch import Tensor, nn

from diffc.data.clean import CleanSet
from diffc.errors import CheckFailed, DiffcError, UnavailableError
from diffc.events import drain
from diffc.measure.environment import read_environment
from diffc.measure.inputs import fill, reference_inputs
from diffc.measure.latency import LatencyOptions, Timings, interleaved
from diffc.measure.parity import closeness, judge, measure_parity
from diffc.models.diffusion import process_from_scheduler
from diffc.models.families import family as family_of
from diffc.models.families.examples import example_inputs
from diffc.models.load import load_denoiser
from diffc.models.sizes import follow_shapes
from diffc.models.source import Source, find
from diffc.onnx.export import export_onnx
from diffc.onnx.quantize import QuantizeOptions, quantize
from diffc.onnx.reference import write_reference
from diffc.prune.bench import Bench
from diffc.prune.latency import unranked, widths_by_latency
from diffc.prune.plan import group_plans
from diffc.prune.planning import chosen_widths, problem_of
from diffc.prune.surgery import cut
from diffc.recipe import resolve
from diffc.targets import target
from diffc.targets.base import BuildOptions

RESULT = Path(__file__).parent / "results" / "peers.json"
SIDES = ("dense", "compressed")
RUNTIMES = ("ort-cpu", "openvino")
PACKAGES = ("torch", "onnxruntime", "openvino", "diffusers", "torch-pruning", "optimum", "nncf")
SCHEDULER = {
    "_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear",
    "beta_start": 0.0001, "beta_end": 0.02, "prediction_type": "epsilon",
}  # fmt: skip
CIFAR = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 2,
    "block_out_channels": (128, 256, 256, 256), "attention_head_dim": None, "norm_eps": 1e-6,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
"""google/ddpm-cifar10-32, as published."""
SD = {
    "sample_size": 32, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "block_out_channels": (128, 256, 256), "cross_attention_dim": 256, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
MODELS = {"cifar": ("UNet2DModel", CIFAR), "demo": None, "sd": ("UNet2DConditionModel", SD)}
Call = Callable[[], Any]
Bind = Callable[[Mapping[str, Tensor]], Call]
"""Inputs -> a call that returns the output."""


@dataclass
class Candidate:
    """One thing to time. kind: its precision class. reason: why it is absent, if it is."""

    name: str
    who: str
    runtime: str
    side: str
    kind: str = "fp32"
    call: Call | None = None
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


# --- models ---------------------------------------------------------------------------------------


def source_of(args, name: str) -> Source:
    """The model's pipeline folder; those that nobody trained are made in the work folder."""
    if MODELS[name] is None:
        return find(name)
    if name == "cifar" and args.cifar:
        return find(args.cifar)
    folder = args.work / name / "source"
    if not (folder / "scheduler" / "scheduler_config.json").exists():
        _make_source(folder, *MODELS[name])
    return find(folder)


def _make_source(folder: Path, class_name: str, config: Mapping[str, Any]) -> None:
    import diffusers

    torch.manual_seed(0)
    model = getattr(diffusers, class_name)(**config).eval()
    fit_last_layer(model, class_name)
    model.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    content = json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", class_name]})
    (folder / "model_index.json").write_text(content)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


@torch.no_grad()
def fit_last_layer(model: nn.Module, class_name: str, images: int = 48) -> None:
    """Ridge regression of the noise on the last convolution's 3x3 patches, for all timesteps."""
    family, process = family_of(class_name), process_from_scheduler(SCHEDULER)
    specs = family.specs(model.config)
    generator = torch.Generator().manual_seed(1)
    inputs = example_inputs(specs, model.config, images, generator)
    clean = smooth_images(images, specs[0].shape, generator)
    t = torch.linspace(0, len(process) - 1, images).long()
    noise = torch.randn(clean.shape, generator=generator)
    inputs |= {"sample": process.noised(clean, noise, t), "timestep": process.time(t)}
    caught: list[Tensor] = []
    hook = model.conv_out.register_forward_pre_hook(lambda _m, given: caught.append(given[0]))
    for rows in torch.arange(images).split(8):
        family.call(model, {key: value[rows] for key, value in inputs.items()})
    hook.remove()
    patches = torch.nn.functional.unfold(torch.cat(caught), 3, padding=1)  # (N, 9 C, H W)
    x = patches.transpose(1, 2).reshape(-1, patches.shape[1]).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    y = noise.flatten(2).transpose(1, 2).reshape(-1, noise.shape[1]).double()
    gram = x.T @ x
    gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    solved = torch.linalg.solve(gram, x.T @ y).T.float()
    model.conv_out.weight.copy_(solved[:, :-1].reshape(model.conv_out.weight.shape))
    model.conv_out.bias.copy_(solved[:, -1])


def smooth_images(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Low-pass noise in [-1, 1], (count, *shape): as smooth as images are."""
    small = torch.randn(count, shape[0], 4, 4, generator=generator)
    grown = nn.functional.interpolate(small, shape[1:], mode="bicubic", align_corners=False)
    return (grown * 0.7).clamp(-1, 1)


class Plain(nn.Module):
    """The module as a peer's exporter sees it: named tensors in, one tensor out."""

    def __init__(self, model: nn.Module, family: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.family, self.names = model, family, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.family.call(self.model, dict(zip(self.names, tensors, strict=True)))


def macs_of(subject: Subject, model: nn.Module) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    inputs = example_inputs(subject.specs, subject.source.config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.family.call(model, inputs)
    return counter.get_total_flops() / 2


# --- diffc's own ----------------------------------------------------------------------------------


class Subject:
    """One model: dense, ours at half the MACs, torch-pruning's; kept in the work folder."""

    def __init__(self, args, name: str) -> None:
        self.args, self.name, self.work = args, name, args.work / name
        self.work.mkdir(parents=True, exist_ok=True)
        self.source = source_of(args, name)
        self.family = family_of(self.source.class_name)
        self.specs = self.family.specs(self.source.config)
        self.dense = load_denoiser(self.source)
        self.macs = {"dense": macs_of(self, self.dense)}

    def onnx(self, side: str) -> Path:
        """Our ONNX folder of one side, with its reference."""
        folder = self.work / "onnx" / side
        if not (folder / "reference.safetensors").exists():
            say(f"{self.name}: exporting ours, {side}")
            model = self.dense if side == "dense" else self.ours()
            process = process_from_scheduler(self.source.scheduler)
            facts = {"prediction": process.prediction, "scheduler": dict(self.source.scheduler),
                     "macs": macs_of(self, model)}  # fmt: skip
            export_onnx(model, self.family, self.specs, folder, facts=facts)
            write_reference(folder / "reference.safetensors", model, self.family, process,
                            self.clean(), 0)  # fmt: skip
        return folder

    def clean(self) -> CleanSet:
        generator = torch.Generator().manual_seed(2)
        inputs = example_inputs(self.specs, self.source.config, 16, generator)
        conditions = {k: v for k, v in inputs.items() if k not in ("sample", "timestep")}
        return CleanSet(smooth_images(16, self.specs[0].shape, generator), conditions, "low-pass")

    def ours(self) -> nn.Module:
        """Half the MACs removed; without a ranking, the same for every allocation."""
        prune = {"ratio": 0.5, "ratio_of": "macs", "allocate": self.args.allocate}
        problem = problem_of(
            self.source, resolve(family=self.source.class_name, flags={"prune": prune}), None, 16
        )
        if self.args.allocate == "latency":
            bench = Bench("ort-cpu", cache=self.args.work / "tables", threads=self.args.threads)
            scratch = self.work / "tries"
            widths = drain(widths_by_latency(problem, bench, scratch)).widths
        else:
            widths = chosen_widths(problem)
        model = copy.deepcopy(self.dense)
        groups = self.family.groups(model, example_inputs(self.specs, self.source.config))
        plans = group_plans(groups, unranked(groups), widths, problem.bounds.step.tolist())
        cut(model, groups, {p.name: np.array(p.keep) for p in plans if p.kept < p.size})
        return model

    def int8(self, side: str) -> Path:
        """Ours in int8. Raises CheckFailed when the tolerance cannot be met."""
        folder, failed = self.work / "int8" / side, self.work / f"int8-{side}.failed"
        if failed.exists():
            raise CheckFailed(failed.read_text())
        if not (folder / "reference.safetensors").exists():
            say(f"{self.name}: int8, {side}")
            options = QuantizeOptions(threads=self.args.threads)
            try:
                drain(quantize(self.onnx(side), folder, options, self.onnx("dense")))
            except CheckFailed as error:
                failed.write_text(str(error))
                raise
        return folder

    def stock(self) -> nn.Module:
        """torch-pruning's own pruner, uniform, at the channel ratio nearest to half the MACs."""
        half = self.macs["dense"] / 2
        tried = [(abs(self._stock_macs(r) - half), r) for r in (0.25, 0.3, 0.35)]
        return self._stock(min(tried)[1])

    def _stock_macs(self, ratio: float) -> float:
        return macs_of(self, self._stock(ratio))

    def _stock(self, ratio: float) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(self.dense)
        leaves = ("to_q", "to_k", "to_v")
        heads = {getattr(m, leaf): m.heads for m in model.modules() if hasattr(m, "to_q")
                 for leaf in leaves}  # fmt: skip
        example = example_inputs(self.specs, self.source.config)
        tp.pruner.BasePruner(
            model, example, importance=tp.importance.MagnitudeImportance(), pruning_ratio=ratio,
            num_heads=heads, ignored_layers=[model.conv_out], channel_groups={},
            root_module_types=[nn.Conv2d, nn.Linear], customized_pruners={}, in_channel_groups={},
            out_channel_groups={},
        ).step()  # fmt: skip
        follow_shapes(model)
        return model

    def inputs(self, batch: int) -> dict[str, Tensor]:
        rows = reference_inputs(self.onnx("dense") / "reference.safetensors")
        return {s.name: torch.from_numpy(fill(rows[s.name], batch)) for s in self.specs}


def our_folder(subject: Subject, kind: str, side: str) -> Path:
    """The ONNX folder of a precision; bf16 is OpenVINO's own hint, of the fp32 file."""
    return subject.int8(side) if kind == "int8" else subject.onnx(side)


def our_engine(subject: Subject, runtime: str, kind: str, side: str, batch: int) -> Path:
    out = subject.work / f"engine-{runtime}-{kind}-{side}-{batch}-{subject.args.threads}"
    if not (out / "engine.json").exists():
        options = BuildOptions(batch=(batch,), threads=subject.args.threads, precision=kind)
        drain(target(runtime).build(our_folder(subject, kind, side), options, out))
    return out


def ours(subject: Subject, batch: int) -> list[Candidate]:
    kinds = [(runtime, "fp32") for runtime in RUNTIMES]
    kinds += [("openvino", "bf16"), ("openvino", "int8"), ("ort-cpu", "int8")]
    found = []
    for runtime, kind in kinds:
        for side in SIDES:
            one = Candidate(f"diffc {runtime} {kind} {side}", "diffc", runtime, side, kind)
            try:
                if kind not in target(runtime).precisions():
                    raise UnavailableError(f"{runtime} does not compute in {kind} here")
                out = our_engine(subject, runtime, kind, side, batch)
                if not subject.args.prepare:
                    _load_ours(one, subject, out, batch)
            except DiffcError as error:  # the precision is not to be had here
                one.reason = " ".join(str(error).split())[:300]
            found.append(one)
    return found


def _load_ours(one: Candidate, subject: Subject, out: Path, batch: int) -> None:
    runner = target(one.runtime).load(out)
    reference = subject.onnx(one.side) / "reference.safetensors"
    parity = drain(measure_parity(runner, reference))
    inputs = {name: value.numpy() for name, value in subject.inputs(batch).items()}
    one.facts = {"parity": parity.model_dump(mode="json"),
                 "precision_shares": dict(runner.info.precision_shares),
                 "kept_fp32": len(runner.info.source.get("kept_fp32", ())),
                 "build_seconds": runner.info.build_seconds}  # fmt: skip
    if one.kind != "fp32":
        exact = target(one.runtime).load(our_engine(subject, one.runtime, "fp32", one.side, batch))
        found = closeness(runner, exact, reference)
        one.facts["ssim_to_fp32"] = None if found is None else found.model_dump()
        exact.close()
    one.call = runner.bind(inputs).run


# --- peers ----------------------------------------------------------------------------------------


def timed(function: Call) -> Call:
    """A call that returns its seconds."""

    def call() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return call


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
    verdict = judge(np.concatenate(found), expected, None, None, kind)
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


# --- figures --------------------------------------------------------------------------------------


def section(args, name: str, batch: int) -> dict[str, Any]:
    """Everything of one model at one batch, timed in turn."""
    subject = Subject(args, name)
    found = [*peers(subject, batch), *ours(subject, batch)]
    for one in found:
        if one.reason:
            say(f"{name}, batch {batch}: absent: {one.name}: {one.reason}")
    calls = {one.name: one.call for one in found if one.call is not None}
    load = os.getloadavg()
    options = LatencyOptions(rounds=args.rounds, seconds=args.seconds, most_seconds=args.most)
    timings = drain(interleaved(calls, options))
    left = {side: _macs(subject, side) / _macs(subject, "dense") for side in SIDES}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "parameters": sum(p.numel() for p in subject.dense.parameters()),
        "macs": subject.macs["dense"],
        "macs_left": left,
        "weights": "trained" if name == "demo" or args.cifar else "random, last layer fitted",
        "allocate": args.allocate,
        "threads": args.threads,
        "load": [load, os.getloadavg()],
        "candidates": {one.name: _row(one, timings) for one in found},
        "figures": figures(found, timings),
    }


def _macs(subject: Subject, side: str) -> float:
    return float(json.loads((subject.onnx(side) / "model.json").read_text())["macs"])


def _row(one: Candidate, timings: Timings) -> dict[str, Any]:
    row = {"runtime": one.runtime, "side": one.side, "precision": one.kind, **one.facts}
    if one.call is None:
        return row | {"absent": one.reason}
    eager_ratio = timings.ratio("peer: eager dense", one.name)
    times = timings.paired(one.name) * 1e3
    return row | {
        "ms": float(np.median(times)),
        "least_ms": float(times.min()),
        "rounds": len(times),
        "over_eager": {"median": eager_ratio.median, "ci95": eager_ratio.ci95},
    }


def figures(found: list[Candidate], timings: Timings) -> dict[str, Any]:
    """Ours against the fastest of theirs: in each precision, on each runtime, and against eager."""
    timed_ones = [one for one in found if one.call is not None and _passed(one)]

    def fastest(**wanted: str) -> str | None:
        fit = [o.name for o in timed_ones if all(getattr(o, k) == v for k, v in wanted.items())]
        return min(fit, key=lambda n: float(np.median(timings.paired(n)))) if fit else None

    def over(theirs: str | None, own: str | None) -> dict[str, Any] | None:
        if theirs is None or own is None:
            return None
        ratio = timings.ratio(theirs, own)
        return {"theirs": theirs, "ours": own, "median": ratio.median, "ci95": ratio.ci95,
                "pairs": ratio.pairs}  # fmt: skip

    made: dict[str, Any] = {}
    for kind in ("fp32", "bf16", "int8"):
        theirs = fastest(who="peer", side="dense", kind=kind)
        own = fastest(who="diffc", side="compressed", kind=kind)
        made[f"compressed over fastest dense peer, {kind}"] = over(theirs, own)
        stock = fastest(who="torch-pruning", side="compressed", kind=kind)
        made[f"compressed over torch-pruning's, {kind}"] = over(stock, own)
    for runtime in RUNTIMES:
        own = fastest(who="diffc", side="dense", kind="fp32", runtime=runtime)
        theirs = fastest(who="peer", side="dense", kind="fp32", runtime=runtime)
        made[f"dense over best dense peer, fp32, {runtime}"] = over(theirs, own)
    best = fastest(who="diffc", side="compressed")
    made["best over torch eager fp32"] = over("peer: eager dense", best)
    for side in SIDES:
        exact = fastest(who="diffc", side=side, kind="fp32")
        made[f"int8 over fp32, {side}"] = over(exact, fastest(who="diffc", side=side, kind="int8"))
    return {name: value for name, value in made.items() if value is not None}


def _passed(one: Candidate) -> bool:
    return bool(one.facts.get("parity", {"passed": True})["passed"])


# --- the run --------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def optimum_reason() -> str:
    """Why optimum's exporter is or is not here."""
    try:
        return (
            f"optimum-onnx {metadata.version('optimum-onnx')} is installed; it calls torch's tracer"
        )
    except metadata.PackageNotFoundError:
        return ("optimum-onnx 0.1 needs transformers < 4.58 and knows no UNet2DModel; "
                "its tracer is measured as 'traced export'")  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--cifar", type=Path, help="a trained pipeline of CIFAR's UNet")
    parser.add_argument("--allocate", choices=["uniform", "latency"], default="uniform")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--most", type=float, default=90.0, help="seconds of timing per section")
    parser.add_argument(
        "--limit", type=float, default=30.0, help="minutes; no section begins later"
    )
    parser.add_argument("--again", action="store_true", help="sections that are there already too")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    args.work = args.work.resolve() / args.allocate
    return args


def main() -> None:
    """Run the sections that are missing; write each when it is done."""
    args = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    start = time.monotonic()
    held = json.loads(args.out.read_text()) if args.out.exists() else {}
    sections = held.get("sections", {})
    for name in args.models:
        for batch in args.batch:
            key = f"{name}, batch {batch}"
            if (key in sections and not args.again) or time.monotonic() - start > args.limit * 60:
                continue
            say(key)
            if args.prepare:
                subject = Subject(args, name)
                peers(subject, batch)
                ours(subject, batch)
                continue
            sections[key] = section(args, name, batch)
            whole = {
                "environment": read_environment().model_dump(mode="json"),
                "versions": {p: _version(p) for p in PACKAGES},
                "optimum": optimum_reason(),
                "sections": sections,
            }
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(whole, indent=1) + "\n")
            print(json.dumps({key: sections[key]["figures"]}, indent=1), flush=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
