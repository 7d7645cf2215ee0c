"""What a training takes of memory, beside what diffc counts before it.

    python -m bench.training_memory        writes bench/results/training_memory.json

The same of gradients for the importance, of the whole network and of one block at a time, and of
the stages that take no gradients: repair, trajectories and samples of a run that cuts half of the
MACs.

Toy networks whose activations are many times their parameters, each distilled for two steps by the
dense network itself, in a process of its own: whole batches and micro-batches, with gradient
checkpointing and without, and low-rank additions in the place of the weights. The peak is that of
the process's own memory, with everything that it has loaded, and the estimate is the one that
``diffc plan`` shows. One that is more than a tenth off ends the benchmark. The C library gives
large blocks back at once, as in a run with ``--memory``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.full_size import TENTH, WATCHED, OwnMemory, StagePeaks
from diffc.measure.environment import read_environment

RESULT = Path(__file__).parent / "results" / "training_memory.json"
BATCH = 8
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "U-Net": ("UNet2DModel", {
        "sample_size": 64, "in_channels": 3, "out_channels": 3, "layers_per_block": 2,
        "block_out_channels": [48, 96], "norm_num_groups": 8,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}),
    "transformer": ("DiTTransformer2DModel", {
        "num_attention_heads": 6, "attention_head_dim": 32, "in_channels": 4, "out_channels": 8,
        "num_layers": 6, "sample_size": 64, "patch_size": 2, "num_embeds_ada_norm": 1000}),
}  # fmt: skip
FORWARD = {
    **NETWORKS,
    # whose repair is one of wide layers, where that of the others is one of many activations
    "wide transformer": ("DiTTransformer2DModel", {
        "num_attention_heads": 16, "attention_head_dim": 64, "in_channels": 4, "out_channels": 8,
        "num_layers": 2, "sample_size": 16, "patch_size": 2, "num_embeds_ada_norm": 1000}),
}  # fmt: skip
CHAIN: dict[str, Any] = {
    "prune": {"importance": {"method": "random"}, "allocate": "uniform", "cut": "width"},
    "repair": {"rows": 64},
    "data": {"guidance": 1.0},
    "distill": {"steps": 0, "aim": "loop", "loop": {
        "steps": 0, "trajectories": 64, "teacher_steps": 2, "features": 0.0}},
    "quality": {"images": 16},
    "reference_loop": "deterministic:2",
    "loops": ["ddim:1"],
}  # fmt: skip
OF_FORWARD = ("repair", "trajectories", "samples")
WORDS = ("off", "on")
CASES = [(pieces, again, 0) for again in (False, True) for pieces in (1, 4)] + [(4, True, 8)]


def main() -> None:
    """Every case, or one in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    child_words = ("NETWORK", "PIECES", "CHECKPOINTING", "RANK")
    parser.add_argument("--child", nargs=4, metavar=child_words)
    parser.add_argument("--ranking", nargs=2, metavar=("NETWORK", "BY_BLOCK"))
    parser.add_argument("--forward", metavar="NETWORK")
    args = parser.parse_args()
    if args.child:
        name, pieces, checkpointing, rank = args.child
        print(json.dumps(child(name, int(pieces), checkpointing == "True", int(rank))))
        return
    if args.ranking:
        print(json.dumps(ranking(*args.ranking)))
        return
    if args.forward:
        print(json.dumps(forward(args.forward)))
        return
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rows": [in_process(name, *case) for name in NETWORKS for case in CASES],
        "importance": [ranking_in_process(name, word) for name in NETWORKS for word in WORDS],
        "forward": [row for name in FORWARD for row in forward_in_process(name)],
        "environment": read_environment().model_dump(mode="json"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def in_process(name: str, pieces: int, checkpointing: bool, rank: int = 0) -> dict[str, Any]:
    """One case in a process of its own.

    Raises SystemExit where the estimate is more than a tenth off.
    """
    return _in_process("--child", name, str(pieces), str(checkpointing), str(rank))


def ranking_in_process(name: str, by_block: str) -> dict[str, Any]:
    """The importance of a network in a process of its own.

    Args:
        name: Of the network.
        by_block: ``on`` or ``off``.

    Raises SystemExit where the estimate is more than a tenth off.
    """
    return _in_process("--ranking", name, by_block)


def forward_in_process(name: str) -> list[dict[str, Any]]:
    """The stages of a network that take no gradients, in a process of their own.

    Raises SystemExit where the estimate of one is more than a tenth off.
    """
    rows = _answer("--forward", name)
    for row in rows:
        _check(row)
    return list(rows)


def _in_process(*words: str) -> dict[str, Any]:
    row: dict[str, Any] = _answer(*words)
    _check(row)
    return row


def _answer(*words: str) -> Any:
    command = [sys.executable, "-m", "bench.training_memory", *words]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    return json.loads(done.stdout.splitlines()[-1])


def _check(row: dict[str, Any]) -> None:
    """Raises SystemExit where the estimate is more than a tenth off."""
    print(row, file=sys.stderr, flush=True)
    if abs(row["own_peak_bytes"] - row["estimated_bytes"]) > TENTH * row["own_peak_bytes"]:
        raise SystemExit(f"the estimate is more than a tenth off: {row}")


def child(name: str, pieces: int, checkpointing: bool, rank: int) -> dict[str, Any]:
    """Distil in this process, and count the same."""
    from diffc.recipe import Recipe
    from diffc_runtime.machine.memory import return_large_blocks

    return_large_blocks()
    training = {
        "steps": 2,
        "batch": BATCH,
        "precision": "fp32",
        "warmup": 1,
        "gradient_accumulation": pieces,
        "gradient_checkpointing": checkpointing,
        "low_rank": {"rank": rank},
    }
    # at 0 nothing is cut: the student is the dense network
    recipe = Recipe.model_validate({"prune": {"ratio": 0}, "distill": training})
    with tempfile.TemporaryDirectory() as folder:
        with OwnMemory() as memory:
            _distil(name, recipe, Path(folder))
        kind, config = NETWORKS[name]
        home = Path(folder) / "model"
        home.mkdir()
        (home / "config.json").write_text(json.dumps({"_class_name": kind, **config}))
        _write_scheduler(home)
        expected = _estimate(recipe, Path(folder), "distill")
    return {
        "network": name,
        "pieces": pieces,
        "checkpointing": checkpointing,
        "rank": rank,
        "own_peak_bytes": memory.peak,
        "estimated_bytes": expected,
    }


def _distil(name: str, recipe: Any, folder: Path) -> None:
    import torch

    from diffc.data.clean import CleanSet
    from diffc.distill.all_steps import ModelPair
    from diffc.distill.train import distill
    from diffc.models.classes import network_class
    from diffc.models.denoiser import denoiser_of
    from diffc.models.families import family
    from diffc_export.events import drain

    kind, config = NETWORKS[name]
    teacher, student = (network_class(kind).from_config(dict(config)).eval() for _ in range(2))
    dense = denoiser_of(teacher, family(kind), {"num_train_timesteps": 1000})
    values = dense.examples(BATCH, torch.Generator().manual_seed(0))
    conditions = {k: v for k, v in values.items() if k not in ("sample", "timestep")}
    clean = CleanSet(values["sample"], conditions, "random")
    drain(distill(ModelPair(dense, student), clean, recipe.distill, folder))


def ranking(name: str, by_block: str) -> dict[str, Any]:
    """Take gradients in this process, and count the same."""
    from diffc.recipe import Recipe
    from diffc_runtime.machine.memory import return_large_blocks

    return_large_blocks()
    options = {"batch": BATCH, "passes": 2, "grid": 2, "curve_images": BATCH, "by_block": by_block}
    recipe = Recipe.model_validate({"prune": {"importance": options}})
    with tempfile.TemporaryDirectory() as folder:
        _write(name, Path(folder))
        with OwnMemory() as memory:
            _rank(recipe, Path(folder))
        expected = _estimate(recipe, Path(folder), "importance")
    return {
        "network": name,
        "by_block": by_block,
        "own_peak_bytes": memory.peak,
        "estimated_bytes": expected,
    }


def _rank(recipe: Any, folder: Path) -> None:
    import torch

    from diffc.data.clean import CleanSet
    from diffc.models.source import find_source
    from diffc.prune.importance import importance
    from diffc.prune.importance.base import Subject
    from diffc.prune.importance.by_block import measured_by_block
    from diffc.stage_inputs import RunShape
    from diffc_export.events import drain

    options, shape = recipe.prune.importance, RunShape.of(recipe)
    source = find_source(folder / "model")
    groups = shape.open_on_meta(source).groups()
    with ExitStack() as stack:
        by_block = None
        if options.by_block == "on":
            dense = stack.enter_context(shape.mapped(source))
            device = torch.device("cpu")
            by_block = stack.enter_context(measured_by_block(dense, groups, device, folder))
        else:
            dense = shape.open(source)
        values = dense.examples(BATCH, torch.Generator().manual_seed(0))
        conditions = {k: v for k, v in values.items() if k not in ("sample", "timestep")}
        clean = CleanSet(values["sample"], conditions, "random")
        drain(importance(Subject(dense, clean, groups, by_block=by_block), options, 0))


def forward(name: str) -> list[dict[str, Any]]:
    """Run the stages up to samples in this process, and count three of them."""
    import os

    import torch
    from safetensors.torch import save_file

    import diffc
    from diffc.data.recipe_of_model import recipe_of_model
    from diffc.models.families.examples import example_inputs
    from diffc.models.inputs import input_specs
    from diffc.models.source import find_source
    from diffc.prune.plan import Plan
    from diffc.stages.call_memory import call_bytes
    from diffc.stages.needs import stage_needs, tensor_sizes
    from diffc_runtime.machine.memory import return_large_blocks

    return_large_blocks()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["DIFFC_CACHE"] = str(folder / "cache")
        _write(name, folder)
        source, data = find_source(folder / "model"), folder / "data.safetensors"
        values = example_inputs(input_specs(source), source.config, BATCH)
        values.pop("timestep")
        save_file({key: value.contiguous() for key, value in values.items()}, data)
        options = {**CHAIN, "data": {**CHAIN["data"], "source": str(data)}}
        stages = StagePeaks()
        with WATCHED:
            diffc.compile(
                folder / "model", ratio=0.5, out=folder / "out", options=options, stop="distill",
                on_event=stages.note,
            )  # fmt: skip
        plan = Plan.read(folder / "out" / "plan.json")
        recipe = recipe_of_model(
            source, None, {**options, "prune": {**options["prune"], "ratio": 0.5}}
        )
        calls = call_bytes(source, recipe, folder / "out" / "plan.json")
    counts = plan.dense.params, plan.compressed.params
    sizes = tensor_sizes(source)
    needs = stage_needs(*counts, recipe, calls, on_gpu=False, tensor_sizes=sizes)
    estimated = {one.stage: one.memory_bytes for one in needs}
    return [
        {
            "network": name,
            "stage": stage,
            "own_peak_bytes": stages.rows[stage]["own_peak_bytes"],
            "estimated_bytes": estimated[stage],
        }
        for stage in OF_FORWARD
    ]


def _write(name: str, folder: Path) -> None:
    """The network with random weights, as a model's folder."""
    from diffc.models.classes import network_class

    kind, config = FORWARD[name]
    network_class(kind).from_config(dict(config)).save_pretrained(folder / "model")
    _write_scheduler(folder / "model")


def _write_scheduler(home: Path) -> None:
    (home / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDPMScheduler"}))


def _estimate(recipe: Any, folder: Path, stage: str) -> int:
    """The memory of a stage, as ``diffc plan`` has it."""
    import os

    from diffc.models.load import meta_denoiser
    from diffc.models.source import find_source
    from diffc.stages.call_memory import call_bytes
    from diffc.stages.needs import stage_needs

    os.environ["DIFFC_CACHE"] = str(folder / "cache")
    source = find_source(folder / "model", need_weights=False)
    sizes = [value.numel() for value in meta_denoiser(source).parameters()]
    count, calls = sum(sizes), call_bytes(source, recipe)
    needs = stage_needs(count, count, recipe, calls, on_gpu=False, tensor_sizes=sizes)
    return next(one.memory_bytes for one in needs if one.stage == stage)


if __name__ == "__main__":
    main()
