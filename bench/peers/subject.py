"""One model and what is made of it: dense, ours at half the MACs, torch-pruning's; on disk."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.peers.candidate import say
from bench.peers.models import last_layer, smooth_set, source_of
from diffc.errors import CheckFailed
from diffc.measure.inputs import fill, reference_inputs
from diffc.measure.reference import write_reference
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family as family_of
from diffc.models.families.examples import example_inputs
from diffc.models.load import load_denoiser
from diffc.models.onnx_export import export_denoiser
from diffc.models.sizes import follow_shapes
from diffc.prune.allocate import unranked_scores
from diffc.prune.by_latency.device import LatencyDevice
from diffc.prune.by_latency.search import widths_by_latency
from diffc.prune.plan import unit_plans
from diffc.prune.planning import chosen_widths, problem_of
from diffc.prune.surgery import cut
from diffc.recipe import resolve
from diffc_export.events import drain
from diffc_export.onnx.quantize import QuantizeOptions, quantize

STOCK_RATIOS = {"conv": (0.25, 0.3, 0.35), "tokens": (0.45, 0.5, 0.55)}
"""Channel ratios about half the MACs: a convolution is cut on both sides, a transformer's layer on
one, for its residual stream stays."""


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
            denoiser = denoiser_of(model, self.family, self.source.scheduler, self.specs)
            facts = {
                "prediction": denoiser.process.prediction,
                "scheduler": dict(self.source.scheduler),
                "macs": macs_of(self, model),
            }
            export_denoiser(model, self.family, self.specs, folder, facts=facts)
            write_reference(
                folder / "reference.safetensors",
                denoiser,
                smooth_set(self.specs, self.source.config),
                0,
            )
        return folder

    def ours(self) -> nn.Module:
        """Half the MACs removed; without a ranking, the same for every allocation."""
        prune = {"cut": "width", "ratio": 0.5, "ratio_of": "macs", "allocate": self.args.allocate}
        problem = problem_of(
            self.source, resolve(family=self.source.class_name, flags={"prune": prune}), None, 16
        )
        if self.args.allocate == "latency":
            bench = LatencyDevice(
                "ort-cpu", cache=self.args.work / "tables", threads=self.args.threads
            )
            scratch = self.work / "tries"
            widths = drain(widths_by_latency(problem, bench, scratch)).widths
        else:
            widths = chosen_widths(problem)
        model = copy.deepcopy(self.dense)
        groups = self.family.groups(model, example_inputs(self.specs, self.source.config))
        plans = unit_plans(groups, unranked_scores(groups), widths, problem.bounds.step.tolist())
        cut(model, groups, {p.name: np.array(p.keep) for p in plans if p.kept < p.size})
        return model

    def int8(self, side: str) -> Path:
        """Ours in int8. Raises CheckFailed when the tolerance cannot be met."""
        folder, failed = self.work / "int8" / side, self.work / f"int8-{side}.failed"
        if failed.exists():
            raise CheckFailed(failed.read_text())
        if not (folder / "reference.safetensors").exists():
            say(f"{self.name}: int8, {side}")
            options = QuantizeOptions(threads=self.args.threads, asymmetric=True)  # OpenVINO
            try:
                drain(quantize(self.onnx(side), folder, options, self.onnx("dense")))
            except CheckFailed as error:
                failed.write_text(str(error))
                raise
        return folder

    def stock(self) -> nn.Module:
        """torch-pruning's own pruner, uniform, at the channel ratio nearest to half the MACs."""
        half = self.macs["dense"] / 2
        ratios = STOCK_RATIOS["conv" if hasattr(self.dense, "conv_out") else "tokens"]
        tried = [(abs(self._stock_macs(r) - half), r) for r in ratios]
        return self._stock(min(tried)[1])

    def _stock_macs(self, ratio: float) -> float:
        return macs_of(self, self._stock(ratio))

    def _stock(self, ratio: float) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(self.dense)
        leaves = ("to_q", "to_k", "to_v")
        heads = {getattr(m, leaf): m.heads for m in model.modules() if hasattr(m, "to_q")
                 for leaf in leaves}  # fmt: skip
        inputs = example_inputs(self.specs, self.source.config)
        first = next(iter(inspect.signature(model.forward).parameters))  # what it calls the sample
        example = {first if name == "sample" else name: value for name, value in inputs.items()}
        whole: list[nn.Module] = [last_layer(model)]
        if hasattr(model, "pos_embed"):
            # positions are a buffer of the residual's width, which is not cut with it
            whole.append(model.pos_embed.proj)
        tp.pruner.BasePruner(
            model, example, importance=tp.importance.MagnitudeImportance(), pruning_ratio=ratio,
            num_heads=heads, ignored_layers=whole, channel_groups={},
            root_module_types=[nn.Conv2d, nn.Linear], customized_pruners={}, in_channel_groups={},
            out_channel_groups={},
        ).step()  # fmt: skip
        follow_shapes(model)
        return model

    def inputs(self, batch: int) -> dict[str, Tensor]:
        rows = reference_inputs(self.onnx("dense") / "reference.safetensors")
        return {s.name: torch.from_numpy(fill(rows[s.name], batch)) for s in self.specs}


def macs_of(subject: Subject, model: nn.Module) -> float:
    """Of one call of the subject, or of what was made of it."""
    inputs = example_inputs(subject.specs, subject.source.config)
    return macs_of_call(lambda: subject.family.call(model, inputs))


def macs_of_call(call: Callable[[], Any]) -> float:
    """By torch's own counter; attention as plain products, for it counts no fused ones here."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() / 2
