"""What the dense model sees of two sets of samples, and how it enters the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import tiny_loops

from diffc.distill.loop.features import DenseFeatures
from diffc.distill.loop.lesson import LoopLesson
from diffc.distill.loop.steps import clean_step
from diffc.distill.losses import per_sample
from diffc.errors import OutOfMemory, RequestError
from diffc_export.events import drain


def _samples(seed: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mean_over_the_blocks_before_the_middle() -> None:
    """Oracle: the blocks' outputs of a whole call, scaled by hand."""
    dense, seen = tiny_loops.dense(), DenseFeatures(tiny_loops.dense())
    level = int((dense.process.noise / dense.process.signal - 0.08).abs().argmin())
    assert seen.time == level and 10 < level < 40
    outputs: list[torch.Tensor] = []
    for block in (b.resnets[0] for b in dense.model.down_blocks):
        block.register_forward_hook(lambda _block, _given, output: outputs.append(output))
    ours, theirs = _samples(0), _samples(1)
    with torch.no_grad():
        for sample in (ours, theirs):
            dense.model(sample, torch.full((3,), level))
    unit = [value / value.square().mean(1, keepdim=True).sqrt() for value in outputs]
    wanted = sum((unit[i] - unit[i + 2]).square().flatten(1).mean(1) for i in range(2)) / 2
    torch.testing.assert_close(seen.difference(ours, theirs, {}), wanted, rtol=1e-4, atol=1e-5)


def test_gradients_reach_ours_alone_and_the_middle_does_not_run() -> None:
    dense = tiny_loops.dense()
    seen = DenseFeatures(dense)
    seen.open(torch.device("cpu"), torch.float32)
    ran: list[bool] = []
    dense.model.mid_block.register_forward_hook(lambda *_: ran.append(True))
    ours, theirs = _samples(0).requires_grad_(), _samples(1).requires_grad_()
    seen.difference(ours, theirs, {}).sum().backward()
    assert ours.grad is not None and float(ours.grad.abs().min(0).values.max()) > 0
    assert theirs.grad is None and not ran
    assert all(parameter.grad is None for parameter in dense.model.parameters())
    assert not any(module._forward_hooks for module in dense.model.down_blocks.modules())
    assert torch.equal(seen.difference(ours, ours, {}), torch.zeros(3))


def test_a_network_without_a_middle_is_refused() -> None:
    class NoMiddle(type(tiny_loops.dense().family)):
        def middle_block(self, model):
            return None

    with pytest.raises(RequestError, match="UNet2DModel has no middle block"):
        DenseFeatures(replace(tiny_loops.dense(), family=NoMiddle()))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_a_clean_step_is_the_loops_last_one(prediction: str, monkeypatch) -> None:
    """The last step of a loop ends at the clean sample."""
    monkeypatch.setitem(tiny_loops.CONFIG, "prediction_type", prediction)
    process = tiny_loops.dense().process
    for loop in tiny_loops.steps_of(1, 2, 5):
        ours = clean_step(process, loop.times[-1])
        assert ours == pytest.approx((loop.keep[-1], loop.gain[-1]), abs=1e-6)


def test_a_clean_step_along_a_flow() -> None:
    from diffc.models.diffusion import process_from_scheduler

    flow = process_from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    assert clean_step(flow, 250.0) == (1.0, -0.25)


def test_the_loss_has_both_parts(tmp_path: Path) -> None:
    learner = tiny_loops.student()
    trajectories = tiny_loops.trajectories(tmp_path)
    plain, both = (
        LoopLesson(
            learner, trajectories, tiny_loops.steps_of(1, 2), options, dense=tiny_loops.dense()
        )
        for options in (tiny_loops.options(), tiny_loops.options(features=0.5))
    )
    batch = both.draw(0, range(4))
    with torch.no_grad():
        output = learner.model(batch.sample, batch.time).sample
        keep, gain = batch.to_clean.view(4, 2, 1, 1, 1).unbind(1)
        ours, theirs = (keep * batch.sample + gain * value for value in (output, batch.target))
        seen = DenseFeatures(tiny_loops.dense()).difference(ours, theirs, {})
        pixels = per_sample(output - batch.target)
        torch.testing.assert_close(plain.loss(learner.model, batch), pixels.mean())
        whole = both.loss(learner.model, batch)
    torch.testing.assert_close(whole, (pixels + 0.5 * seen).mean())
    ends = torch.stack([trajectories.states(row)[-1] for row in range(len(trajectories))])
    last = batch.time == 499  # of two steps the last, which leads to the clean end
    assert all((ends - one).flatten(1).norm(dim=1).min() < 1e-3 for one in theirs[last])


@pytest.mark.parametrize(("steps", "room"), [(100, 1e9), (2, 1e9), (100, 1e3)])
def test_what_the_targets_show_is_computed_once_where_it_pays_and_fits(
    steps: int, room: float, tmp_path: Path, monkeypatch
) -> None:
    """The loss is the same with what is kept, whatever the order and the pieces of the rows."""
    monkeypatch.setattr("diffc.distill.loop.lesson.MOST_SEEN_BYTES", room)
    trajectories, dense = tiny_loops.trajectories(tmp_path), tiny_loops.dense()
    options = tiny_loops.options(features=0.5, steps=steps, batch=4)
    lesson = LoopLesson(
        tiny_loops.student(), trajectories, tiny_loops.steps_of(1, 2), options, dense=dense
    )
    calls = []
    seen = lesson.features.seen
    monkeypatch.setattr(lesson.features, "seen", lambda *a: calls.append(len(a[0])) or seen(*a))
    network = tiny_loops.student().model
    for step in (3, 0):
        for piece in lesson.draw(step, range(4)).pieces(2):
            with torch.no_grad():
                output = network(piece.sample, piece.time).sample
                ours, theirs = piece.clean(output), piece.clean(piece.target)
                plain = DenseFeatures(dense).difference(ours, theirs, {})
                whole = per_sample(output - piece.target) + 0.5 * plain
                torch.testing.assert_close(lesson.loss(network, piece), whole.mean())
    targets = len(trajectories) * 3
    kept = steps == 100 and room == 1e9
    assert (sum(calls) == targets) == kept
    assert bool(lesson._seen) == kept


def short_of_memory(most: int, call):
    """``call``, where there is room for ``most`` rows at once."""

    def limited(rows, *more):
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(rows, *more)

    return limited


def test_targets_are_looked_at_fewer_at_once_where_memory_is_short(tmp_path, monkeypatch) -> None:
    trajectories = tiny_loops.trajectories(tmp_path)
    options = tiny_loops.options(features=0.5, steps=100)
    network, losses = tiny_loops.student().model, []
    for most in (99, 3):
        lesson = LoopLesson(
            tiny_loops.student(), trajectories, tiny_loops.steps_of(1, 2), options,
            dense=tiny_loops.dense(),
        )  # fmt: skip
        limited = short_of_memory(most, lesson.features.seen)
        monkeypatch.setattr(lesson.features, "seen", limited)
        losses.append(lesson.loss(network, lesson.draw(0, range(4))).detach())
        assert lesson._seen
    torch.testing.assert_close(*losses)
    monkeypatch.setattr(lesson.features, "seen", short_of_memory(0, lesson.features.seen))
    with pytest.raises(OutOfMemory, match=r"while looking at the targets .*, one at a time"):
        lesson._seen_in_all(lesson.features)


def test_the_last_layer_is_solved_with_fewer_rows_at_once_where_memory_is_short(tmp_path) -> None:
    learner = tiny_loops.student()

    class Family:
        call = staticmethod(
            lambda model, inputs: short_of_memory(
                3, lambda _: learner.family.call(model, inputs)
            )(inputs["sample"])
        )  # fmt: skip

    lesson = LoopLesson(
        replace(learner, family=Family()), tiny_loops.trajectories(tmp_path),
        tiny_loops.steps_of(1, 2), tiny_loops.options(),
    )  # fmt: skip
    before = learner.model.conv_out.weight.clone()
    (note,) = lesson.begin(learner.model)
    assert "the last layer was solved" in note
    assert not torch.equal(before, learner.model.conv_out.weight)


@pytest.mark.slow
def test_a_student_learns_by_it(tmp_path: Path) -> None:
    trajectories = tiny_loops.trajectories(tmp_path / "trajectories")
    states = torch.stack([trajectories.states(i) for i in range(12)])
    seen = DenseFeatures(tiny_loops.dense())

    def difference(steps: int) -> float:
        learner = tiny_loops.student()
        changes = {"steps": steps, "batch": 12, "learning_rate": 5e-3, "checkpoint_every": 999,
                   "features": 1.0}  # fmt: skip
        drain(tiny_loops.work(tmp_path, learner, (1,), **changes))
        (loop,) = tiny_loops.steps_of(1)
        with torch.no_grad():
            output = learner.model(states[:, 0], torch.full((12,), 999)).sample
            end = loop.keep[0] * states[:, 0] + loop.gain[0] * output
            return float(seen.difference(end, states[:, -1], {}).mean())

    assert difference(60) < 0.8 * difference(0)
