"""The loop: it learns, resumes to the same bits, and stops soundly when something goes wrong."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from safetensors import SafetensorError
from safetensors.torch import load_file
from support import plain_lesson, tiny_training
from support.tiny_training import Faulty, same, trained, weights
from torch.distributed.checkpoint.api import CheckpointException

from diffc.data.clean import CleanSet
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.checkpoint import write_errors
from diffc.distill.setup import make_accelerator, run_key
from diffc.distill.sharded_checkpoint import own_errors
from diffc.distill.train import find_pieces, learning_rate
from diffc.errors import InputError, RequestError, UnavailableError
from diffc.models.families.unet2d import FAMILY
from diffc_export.events import drain
from diffc_runtime.machine.out_of_memory import is_out_of_memory


@pytest.mark.slow
def test_it_learns_to_be_the_teacher(tmp_path: Path) -> None:
    """A student of the teacher's own shape comes close to it."""
    student = tiny_training.unet(8, seed=1)
    changes = {"steps": 300, "batch": 8, "learning_rate": 3e-3, "checkpoint_every": 300}
    result = drain(tiny_training.work(tmp_path, student, **changes))
    first, last = result.losses[0][1], result.losses[-1][1]
    assert last < 0.2 * first
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([10, 200, 600, 900])
    with torch.no_grad():
        error = (student(x, t).sample - tiny_training.unet(8, seed=0)(x, t).sample).square().mean()
    assert error < 0.2 * first


def test_events_tell_loss_and_speed(tmp_path: Path) -> None:
    events = list(tiny_training.work(tmp_path))
    assert [event.done for event in events] == [1, 2, 3, 4, 5, 6] and events[0].total == 6
    assert all(event.values["images_per_s"] > 0 for event in events)
    assert all(math.isfinite(event.values["loss"]) for event in events)


def test_the_students_end_is_the_moving_average(tmp_path: Path) -> None:
    """Oracle: the average written out, diffusers' warm-up (1 + s) / (10 + s), first step copied."""
    student = tiny_training.unet(4, seed=1)
    work, average = tiny_training.work(tmp_path, student, ema_decay=0.5), None
    for event in work:
        now, s = weights(student), event.done - 1
        decay = 0.0 if s <= 0 else min(0.5, (1 + s) / (10 + s))
        average = (
            now if average is None else {n: decay * average[n] + (1 - decay) * now[n] for n in now}
        )
    for name, value in weights(student).items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-7)


def test_the_schedule_is_diffusers_cosine() -> None:
    options = tiny_training.options(steps=50, warmup=5, learning_rate=0.1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    theirs = get_cosine_schedule_with_warmup(optimizer, 5, 50).lr_lambdas[0]
    for step in range(5, 50):
        assert learning_rate(step, options) == pytest.approx(0.1 * theirs(step))
    assert [learning_rate(s, options) for s in range(5)] == pytest.approx(
        [0.02, 0.04, 0.06, 0.08, 0.1]
    )


def test_a_run_shorter_than_its_warm_up_reaches_its_rate_and_ends_at_none() -> None:
    options = tiny_training.options(steps=40, warmup=500, learning_rate=0.1)
    rates = [learning_rate(step, options) for step in range(40)]
    assert max(rates) == pytest.approx(0.1) and rates[9] == max(rates) and rates[-1] < 0.001


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"gradient_accumulation": 2}])
@pytest.mark.parametrize("stop", [2, 3, 5])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, changes, stop: int) -> None:
    whole, result = trained(tmp_path / "whole", **changes)
    work = tiny_training.work(tmp_path / "parts", **changes)
    for _ in range(stop + 1):  # events come before checkpoints: the last one lets it be written
        next(work)
    work.close()
    parts, resumed = trained(tmp_path / "parts", **changes)
    assert resumed.resumed_from == stop // 2 * 2 and result.resumed_from == 0
    assert same(whole, parts) and resumed.losses == result.losses


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    first, _ = trained(tmp_path)
    again, result = trained(tmp_path)
    assert same(first, again) and result.resumed_from == 6 and result.images_per_second is None


@pytest.mark.slow
def test_another_runs_checkpoints_are_left_alone(tmp_path: Path) -> None:
    trained(tmp_path)
    work = tiny_training.work(tmp_path, learning_rate=1e-4)
    for _ in range(3):
        next(work)
    work.close()
    assert {p.stem for p in tmp_path.glob("*.json")} == {f"step-{i:08d}" for i in (2, 4, 6)}
    assert trained(tmp_path)[1].resumed_from == 6
    assert trained(tmp_path, learning_rate=1e-4)[1].resumed_from == 2


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"step-{i:08d}.{kind}" for i in (4, 6) for kind in ("json", "safetensors")
    ]


def test_the_key_knows_options_data_and_start() -> None:
    def digests(n: int = 12) -> list[bytes]:
        pair = ModelPair(tiny_training.teacher(), tiny_training.unet(4, seed=1))
        return list(AllSteps(pair, tiny_training.clean(n), tiny_training.options()).digests())

    base = (tiny_training.unet(4, seed=1), digests(), tiny_training.options())
    key = run_key(*base)
    for same_run in (
        {"checkpoint_every": 5},
        {"aim": "loop", "loop": {"steps": 7}},
        {"gradient_accumulation": 2, "gradient_checkpointing": True},
    ):
        other = tiny_training.options(**same_run)
        assert key == run_key(tiny_training.unet(4, seed=1), digests(), other)
    assert key != run_key(tiny_training.unet(4, seed=2), *base[1:])
    assert key != run_key(base[0], digests(11), base[2])
    assert key != run_key(*base, seed=1)


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (OSError(28, "No space left on device"), UnavailableError),
        (RuntimeError("Connection closed by peer"), RuntimeError),
    ],
)
def test_what_ends_a_sharded_checkpoint_is_told(tmp_path: Path, cause, kind) -> None:
    with pytest.raises(kind, match=str(cause.args[-1])), write_errors(tmp_path), own_errors():
        raise CheckpointException("", {1: (cause, None)})


@pytest.mark.slow
def test_a_truncated_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole")
    work = tiny_training.work(tmp_path / "cut")
    for _ in range(5):
        next(work)
    work.close()
    newest = max((tmp_path / "cut").glob("*.safetensors"))
    assert newest.stem == "step-00000004"
    newest.write_bytes(newest.read_bytes()[:1000])
    student = tiny_training.unet(4, seed=1)
    events = list(tiny_training.work(tmp_path / "cut", student))
    assert "step-00000004 is damaged" in events[0].note and "step 2" in events[1].note
    assert same(weights(student), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "poison",
    [
        lambda output: output * float("nan"),
        lambda output: output * float("inf"),
        lambda output: output + (output * 0).abs().sqrt(),  # finite loss, gradient not a number
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, poison) -> None:
    family = Faulty(lambda call, output: poison(output) if call == 4 else output)
    student = tiny_training.unet(4, seed=1)
    with pytest.raises(RequestError, match=r"stopped at step 4 of 6.*step 2 is kept") as caught:
        drain(tiny_training.work(tmp_path, student, family=family))
    assert "learning_rate 3.3e-04" in caught.value.hint
    assert all(value.isfinite().all() for value in student.state_dict().values())
    whole, _ = trained(tmp_path / "whole")
    parts, result = trained(tmp_path)  # without the fault it goes on from the kept checkpoint
    assert result.resumed_from == 2 and same(whole, parts)


def test_what_stops_a_run_names_its_section_and_the_checkpoint_that_is_there(tmp_path) -> None:
    """Of the loops' training too, and where checkpoints come at other steps than before."""
    plain_lesson.killed_at(5, tmp_path)

    def fault(step: int, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if step == 4 else output

    again = plain_lesson.work(tmp_path, fault=fault, section="distill.loop", checkpoint_every=3)
    with pytest.raises(
        RequestError, match=r"at step 5 of 6.*checkpoint of step 4 is kept"
    ) as caught:
        drain(again)
    assert "under distill.loop in a recipe" in str(caught.value.hint)


def test_several_processes_try_the_largest_piece(tmp_path: Path) -> None:
    """Six rows in four pieces are two of one row and two of two: these have to fit."""

    def fault(step: int, output: torch.Tensor) -> torch.Tensor:
        if len(output) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output

    run = plain_lesson.started(tmp_path, fault, batch=12)
    run.accelerator = SimpleNamespace(
        num_processes=2, process_index=0, device=torch.device("cpu"), gather=lambda pieces: pieces,
        no_sync=lambda model: nullcontext(),
    )  # fmt: skip
    drain(find_pieces(run))
    assert run.pieces == 6


@pytest.mark.slow
def test_out_of_memory_halves_the_pieces_and_keeps_the_batch(tmp_path: Path) -> None:
    def fault(call, output):
        if len(output) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output

    student = tiny_training.unet(4, seed=1)
    work = tiny_training.work(tmp_path / "oom", student, family=Faulty(fault))
    events = list(work)
    assert [e.note for e in events[:2]] == [
        "out of memory: going on with 2 samples at a time (the batch stays 4)",
        "out of memory: going on with 1 samples at a time (the batch stays 4)",
    ]
    expected, _ = trained(tmp_path / "asked", gradient_accumulation=4)
    assert same(weights(student), expected)


def test_out_of_memory_on_one_sample_is_the_end(tmp_path: Path) -> None:
    def fault(call, output):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(UnavailableError, match="a single sample"):
        drain(tiny_training.work(tmp_path, family=Faulty(fault)))


def test_a_real_failed_allocation_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_pieces_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    """AdamW's first moment after one step is the gradient times a constant."""
    trained(tmp_path / "a", steps=1)
    trained(tmp_path / "b", steps=1, gradient_accumulation=3)
    states = [load_file(tmp_path / side / "step-00000001.safetensors") for side in "ab"]
    for name in (name for name in states[0] if name.startswith("exp_avg.")):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-7)


def test_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    result = drain(tiny_training.work(tmp_path, data=tiny_training.clean(3), batch=8))
    assert result.steps == 6 and all(math.isfinite(loss) for _, loss in result.losses)


def test_no_samples_at_all(tmp_path: Path) -> None:
    empty = CleanSet(torch.zeros(0, 1, 8, 8), {}, "nothing")
    with pytest.raises(InputError, match="no samples"):
        drain(tiny_training.work(tmp_path, data=empty))


def test_zero_steps_leave_the_student_as_it_was(tmp_path: Path) -> None:
    after, result = trained(tmp_path, steps=0)
    assert same(after, weights(tiny_training.unet(4, seed=1))) and result.steps == 0


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "a")
    saved, _ = trained(tmp_path / "b", gradient_checkpointing=True)
    for name in plain:
        torch.testing.assert_close(plain[name], saved[name], rtol=1e-4, atol=1e-6)


def test_fp16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="fp16"):
        drain(tiny_training.work(tmp_path, precision="fp16"))


def test_unknown_trackers_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="nonsense"):
        drain(tiny_training.work(tmp_path, trackers=("nonsense",)))


def test_a_tracker_that_is_not_installed_is_not_left_out_in_silence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UnavailableError, match="'tensorboard' needs a package") as caught:
        drain(tiny_training.work(tmp_path, trackers=("tensorboard",)))
    assert caught.value.hint == "pip install 'diffc[trackers]'"


def test_each_training_of_a_run_has_its_own_curves(tmp_path: Path, monkeypatch) -> None:
    names: list[str] = []

    class Accelerator:
        num_processes = 1

        def __init__(self, **_options: object) -> None:
            pass

        def init_trackers(self, name: str) -> None:
            names.append(name)

    monkeypatch.setattr("accelerate.Accelerator", Accelerator)
    monkeypatch.setattr("diffc.distill.setup.check_trackers", list)
    for section in ("distill", "distill.loop"):
        make_accelerator(tiny_training.options(trackers=("tensorboard",)), tmp_path, section)
    assert names == ["diffc-distill", "diffc-distill-loop"]


def test_the_teacher_runs_once_a_batch(tmp_path: Path) -> None:
    class Counting:
        calls: dict[int, int] = {}  # noqa: RUF012

        def call(self, model, inputs):
            width = model.config.block_out_channels[0]
            self.calls[width] = self.calls.get(width, 0) + len(inputs["sample"])
            return FAMILY.call(model, inputs)

    drain(tiny_training.work(tmp_path, family=Counting()))
    assert Counting.calls == {8: 6 * 4, 4: 6 * 4}


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path: Path, monkeypatch) -> None:
    whole, _ = trained(tmp_path / "whole")
    import safetensors.torch as library

    sound, calls = library.save_file, []

    def save_file(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        sound(tensors, path)

    monkeypatch.setattr(library, "save_file", save_file)
    with pytest.raises(UnavailableError, match="No space left"):
        trained(tmp_path / "full")
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == [
        "step-00000002.json",
        "step-00000002.safetensors",
    ]
    parts, result = trained(tmp_path / "full")
    assert result.resumed_from == 2 and same(whole, parts)
