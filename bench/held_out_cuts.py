"""Cuts of the demo without training, by every score: errors on held-out images, repaired or not.

``bench.pruning --only heldout`` runs it. Rows of one seed: each score with uniform widths, as the
publication has them, at 30 and 50 % of the MACs; and the scores that can be compared between groups
with widths by importance (global) as well, at 70 % too. ``repaired`` has closed-form weights after
the cut, as the product's default has them, fitted on the same samples as the importance.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bench.held_out import HeldOut
from bench.squared_loss import SquaredLoss
from bench.stock_taylor import add_gradients, stock, stock_at_macs
from diffc.data.clean import CleanSet
from diffc.data.synthetic import synthesize
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family as family_of
from diffc.models.families.examples import example_inputs
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.importance import importance
from diffc.prune.importance.base import Subject
from diffc.prune.plan import unit_plans
from diffc.prune.planning import chosen_widths, problem_of
from diffc.prune.repair.layers import readers
from diffc.prune.repair.run import repair
from diffc.prune.surgery import cut
from diffc.recipe import ImportanceSection, PruneSection, resolve
from diffc_export.events import drain

CUTS = (0.3, 0.5, 0.7)
PUBLISHED = (0.3, 0.5)
"""The shares of MACs that every score is tried at."""
SQUARED = "squared-loss"
METHODS = ("diff-pruning", SQUARED, "reference", "stock taylor", "magnitude", "random")
COMPARABLE = {"diff-pruning": "ours", SQUARED: SQUARED}
"""Scores that can be compared between groups -> their name in the rows."""
REPAIR_ROWS = 128


class Study:
    """The demo, its synthetic calibration samples, and the held-out images."""

    def __init__(self, args) -> None:
        self.work = args.work
        self.source = find_source("demo")
        self.dense = load_denoiser(self.source)
        recipe = resolve(family=self.source.class_name, flags={"prune": {"cut": "width"}})
        self.problem = problem_of(self.source, recipe, None, 16)
        self.family = family_of(self.source.class_name)
        self.specs = self.family.specs(self.source.config)
        self.groups = self.family.groups(self.dense, example_inputs(self.specs, self.source.config))
        self.denoiser = denoiser_of(self.dense, self.family, self.source.scheduler, self.specs)
        self.process = self.denoiser.process
        path = args.work / "synthetic.safetensors"
        if not path.exists():  # the product's defaults: 256 images, 20 steps
            drain(synthesize(self.denoiser, 256, steps=20, seed=0, batch=32)).save(path)
        self.clean = CleanSet.load(path)
        self.subject = Subject(self.denoiser, self.clean, self.groups)
        self.held_out = HeldOut(self.denoiser, args.fashion)

    def error(self, model: nn.Module) -> float:
        """On the held-out images."""
        return self.held_out.error(model)

    def scores(self, method: str, seed: int, **options):
        """(scores, why, seconds); kept in the work folder."""
        named = "-".join(f"{key}{value}" for key, value in options.items())
        path = self.work / f"scores-{method}-{seed}-{named}.npz"
        if not path.exists():
            start = time.perf_counter()
            if method == SQUARED:
                work = SquaredLoss().measure(self.subject, ImportanceSection(**options), seed)
            else:
                section = ImportanceSection(method=method, **options)
                work = importance(self.subject, section, seed)
            ranking = drain(work)
            seconds = time.perf_counter() - start
            facts = json.dumps({"why": dict(ranking.why), "seconds": seconds})
            np.savez(path, **ranking.scores, facts=facts)
        scores = dict(np.load(path))
        facts = json.loads(str(scores.pop("facts")))
        return scores, facts["why"], facts["seconds"]

    def cut(self, scores, ratio: float, allocate: str, *, repair_seed: int | None = None):
        """The demo after a cut, and after its repair where that has a seed."""
        options = PruneSection(ratio=ratio, allocate=allocate)
        problem = replace(self.problem, options=options, ranked=scores)
        widths = chosen_widths(problem)
        plans = unit_plans(self.groups, scores, widths, problem.bounds.step.tolist())
        model = copy.deepcopy(self.dense)
        model.zero_grad(set_to_none=True)
        keep = {p.name: np.array(p.keep) for p in plans if p.kept < p.size}
        cut(model, self.groups, keep)
        if repair_seed is not None:
            layers = readers(self.dense, model, self.groups, keep)
            drain(repair(self.denoiser, model, layers, self.clean, rows=REPAIR_ROWS,
                         seed=repair_seed))  # fmt: skip
        return model

    def gradients(self, seed: int, batch: int = 8) -> None:
        """What stock Taylor sees: gradients added over every 10th t, one batch and one noise."""
        generator = torch.Generator().manual_seed(seed)
        clean, _ = self.clean.draw(batch, generator)
        add_gradients(self.dense, self.process, clean, generator)

    def stock(self, ratio: float) -> nn.Module:
        """torch-pruning's own pruner at a uniform channel ratio, on the gradients at hand."""
        return stock(self.dense, torch.randn(1, 1, 32, 32), ratio)

    def macs(self, model: nn.Module) -> float:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.family.call(model, example_inputs(self.specs, self.source.config))
        return counter.get_total_flops() / 2

    def stock_ratio(self, left: float) -> float:
        """The channel ratio at which stock pruning leaves the nearest to this share of the MACs."""
        return stock_at_macs(self.dense, torch.randn(1, 1, 32, 32), left)[1]


def heldout(args, found: dict) -> None:
    study = Study(args)
    dense_macs = study.macs(study.dense)
    found["dense"] = study.error(study.dense)
    for seed in args.seeds:
        rows = found.setdefault("seeds", {}).setdefault(str(seed), {})
        for method in args.methods:
            print(time.strftime("%H:%M:%S"), "seed", seed, method, flush=True)
            for ratio, models in heldout_models(study, found, method, seed).items():
                for name, model in models.items():
                    left = study.macs(model) / dense_macs
                    rows.setdefault(ratio, {})[name] = {
                        "error": study.error(model),
                        "macs_left": left,
                    }
            args.save()
        print(json.dumps(rows), flush=True)
    summarise(found)


def heldout_models(study: Study, found: dict, method: str, seed: int) -> dict[str, dict]:
    """Share cut -> row -> model, for one method."""
    rows: dict[str, dict] = {str(ratio): {} for ratio in CUTS}
    if method == "stock taylor":
        study.gradients(seed)
        ratios = found.setdefault("stock_channel_ratio", {})
        for ratio in map(str, PUBLISHED):
            ratios[ratio] = ratios.get(ratio) or study.stock_ratio(1 - float(ratio))
            rows[ratio]["taylor, stock torch-pruning"] = study.stock(ratios[ratio])
        return rows
    scores = study.scores(method, seed)[0]
    name = COMPARABLE.get(method, method)
    for ratio in CUTS:
        models = rows[str(ratio)]
        if ratio in PUBLISHED:
            models[f"{name} (uniform)"] = study.cut(scores, ratio, "uniform")
        if method in COMPARABLE:
            models[f"{name} (global)"] = study.cut(scores, ratio, "global")
            models[f"{name} (global), repaired"] = study.cut(
                scores, ratio, "global", repair_seed=seed
            )
    return rows


def summarise(found: dict) -> None:
    for ratio in map(str, CUTS):
        rows: dict[str, list[float]] = {}
        for seed in found["seeds"].values():
            for name, row in seed.get(ratio, {}).items():
                rows.setdefault(name, []).append(row["error"])
        found[f"cut {ratio}"] = {
            name: {"mean": statistics.mean(errors), "errors": errors}
            for name, errors in rows.items()
        }
