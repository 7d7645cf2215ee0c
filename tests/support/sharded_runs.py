"""Toys that several processes train sharded; run as a script, one of the processes of a launch.

    python sharded_runs.py FOLDER '["flux", "loop"]' '{"steps": 20}'

does each of the names in FOLDER/NAME and writes what came out, tensors to FOLDER/NAME.safetensors
and facts to FOLDER/NAME.json: a case of ``family_cases`` is distilled, ``short`` and
``bf16`` are one in fewer steps, ``low-rank`` one of additions, ``loop`` is a student of loops,
``samples`` are samples and importance.
KILL=RANK:STEP kills one process in the middle of the checkpoint of that step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffc.data.clean import CleanSet
from diffc.data.processes import process_share
from diffc.data.sharding import shard_model, wants_sharding
from diffc.data.synthetic import synthesize
from diffc.distill import sharded_checkpoint
from diffc.distill.all_steps import ModelPair
from diffc.distill.blocks import block_names
from diffc.distill.loop.lesson import LoopLesson
from diffc.distill.loop.trajectories import TrajectorySet, make_trajectories
from diffc.distill.run import DistillResult, TrainingSettings
from diffc.distill.train import distill, train
from diffc.models.denoiser import Denoiser
from diffc.prune.importance import importance
from diffc.prune.importance.base import Subject
from diffc.recipe import DistillSection, ImportanceSection
from diffc_export.events import drain
from support import tiny_loops
from support.family_cases import Case, case, random_model
from support.tiny_training import PROCESS

FAMILIES = ("unet2d", "sd15", "dit", "pixart", "sd3", "flux", "sana", "wan")
MEANS = {"sd3": {"gradient_checkpointing": True}, "dit": {"gradient_accumulation": 2}}
SHORT = "short"
"""A run of flux that is killed and goes on."""
WHOLE = "short-whole"
"""The same, which one process goes on with, and then two."""
UNSHARDED = "unsharded-"
"""Before the name of a case that each process has whole."""
WHOLE_ONES = tuple(f"{UNSHARDED}{name}" for name in ("sd15", "flux", "wan"))
Outcome = tuple[dict[str, Tensor], dict[str, Any]]


def shards() -> bool:
    """Whether this is one of several processes."""
    return wants_sharding("on", lambda: 0)


def sharded(dense: Denoiser, *, trained: bool = False) -> Denoiser:
    """The denoiser, sharded where this is one of several processes."""
    if not shards():
        return dense
    dense.model.requires_grad_(trained)
    return dense.with_model(shard_model(dense.model, dense.family, torch.device("cpu")))


def options(**changes) -> DistillSection:
    base = {"steps": 20, "batch": 4, "precision": "fp32", "checkpoint_every": 10, "warmup": 2,
            "learning_rate": 2e-4, "losses": {"features": 0.1}}  # fmt: skip
    return DistillSection.model_validate({**base, **changes})


def clean(of: Case, n: int = 8) -> CleanSet:
    """Random samples and conditions."""
    given = [spec.name for spec in of.specs if spec.kind == "condition"]
    rows = {name: torch.cat([of.inputs[name]] * (n // 2)) for name in given}
    shape = next(spec.shape for spec in of.specs if spec.kind == "sample")
    sample = torch.randn(n, *shape, generator=torch.Generator().manual_seed(3))
    return CleanSet(sample, rows, "random")


def student(name: str) -> nn.Module:
    return random_model(case(name).family.class_name, case(name).config, seed=1)


def facts(result: DistillResult) -> dict[str, Any]:
    return {"losses": result.losses, "resumed_from": result.resumed_from, "notes": result.notes}


def distilled(name: str, folder: Path, **changes) -> Outcome:
    """A case's other weights, distilled from its own; UNSHARDED NAME: whole on every process."""
    shard, name = shards() and not name.startswith(UNSHARDED), name.removeprefix(UNSHARDED)
    of, learner = case(name), student(name)
    if shard:  # where less memory has to do, which changes nothing else
        changes |= MEANS.get(name, {})
    dense = Denoiser(of.model, of.family, of.specs, PROCESS, {})
    teacher = sharded(dense) if shard else dense
    pair = ModelPair(teacher, learner, dict.fromkeys(block_names(of.model, of.family)))
    how = options(**changes)
    result = drain(distill(pair, clean(of), how, folder, shard=shard))
    return dict(learner.state_dict()), facts(result)


def loop_student(folder: Path, **changes) -> Outcome:
    """A student of loops, by Muon and with features."""
    dense, learner = sharded(tiny_loops.dense()), tiny_loops.student()
    data, place = tiny_loops.clean(), folder / "trajectories"
    drain(make_trajectories(dense, data, tiny_loops.plan(), place))
    set_of_all = TrajectorySet.load(place, data)
    how = tiny_loops.options(**{"features": 0.1, "learning_rate": 1e-4, **changes})
    lesson = LoopLesson(learner, set_of_all, tiny_loops.steps_of(1, 2), how, dense=dense)
    settings = TrainingSettings(how, folder, shard=shards())
    result = drain(train(lesson, learner.model, settings))
    return dict(learner.model.state_dict()), facts(result)


def loop_output(state: dict[str, Tensor]) -> Tensor:
    """What a student of loops gives with some weights."""
    learner = tiny_loops.student()
    learner.model.load_state_dict(state)
    with torch.no_grad():
        return learner.call(learner.examples(2, torch.Generator().manual_seed(5)))


def samples() -> Outcome:
    """Samples of a dense model, and the importance of its channels by every score."""
    of = case("flux")
    dense = Denoiser(of.model, of.family, of.specs, PROCESS, dict(tiny_loops.CONFIG))
    groups = dense.groups()
    dense.model.requires_grad_(True)
    dense = sharded(dense, trained=True)
    drawn = drain(synthesize(sharded(tiny_loops.dense()), 5, steps=3))
    tensors = {"drawn": drawn.sample}
    subject = Subject(dense, clean(of), groups)
    for method in ("diff-pruning", "magnitude"):
        how = ImportanceSection(method=method, grid=4, passes=4, batch=3, curve_images=3)
        scored = drain(importance(subject, how, 0))
        tensors |= {f"{method}.{n}": torch.from_numpy(v) for n, v in scored.scores.items()}
    return tensors, {}


def done(name: str, folder: Path, **changes) -> Outcome:
    """What comes out of one of the names."""
    torch.set_num_threads(1)
    with patch("diffc.data.synthetic.fast_dtype", lambda _device: torch.float32):
        if name == "loop":
            return loop_student(folder / name, **changes)
        if name == "samples":
            return samples()
    if name in (SHORT, WHOLE):
        return distilled("flux", folder / name, steps=8, checkpoint_every=2)
    if name == "low-rank":
        return distilled("flux", folder / name, steps=8, learning_rate=0.01, low_rank={"rank": 2})
    if name == "bf16":
        return distilled("flux", folder / name, steps=6, precision="bf16")
    return distilled(name, folder / name, **changes)


def kill_in_checkpoint(rank: int, step: int) -> None:
    """Have one process killed when it has written its part of a checkpoint."""
    real = sharded_checkpoint.file_digest

    def digest(path: Path) -> str:
        if process_share()[0] == rank and f"step-{step:08d}" in path.parent.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    sharded_checkpoint.file_digest = digest


def main() -> None:
    """See the top."""
    folder, names, changes = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    if "KILL" in os.environ:
        kill_in_checkpoint(*map(int, os.environ["KILL"].split(":")))
    for name in names:
        tensors, found_out = done(name, folder, **changes)
        if process_share()[0] == 0:
            whole = {key: value.contiguous() for key, value in tensors.items()}
            save_file(whole, folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(found_out))


if __name__ == "__main__":
    main()
