"""What a student of loops trains on, and that it learns them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_loops

from diffc.distill.loop.lesson import LoopLesson
from diffc.distill.loop.readout import fit_readout, last_layer
from diffc.distill.loop.steps import LoopSteps
from diffc.errors import InputError
from diffc_export.events import drain


def after_loop(output, loop: LoopSteps, x: torch.Tensor) -> torch.Tensor:
    """The loop from x by a function of (x, t), written out."""
    for time, keep, gain in zip(loop.times, loop.keep, loop.gain, strict=True):
        x = keep * x + gain * output(x, time)
    return x


def test_the_targets_lead_along_the_trajectory(tmp_path: Path) -> None:
    """A network that gave exactly the targets would land on each kept state."""
    lesson = tiny_loops.lesson(tmp_path, tiny_loops.student(), (1, 2, 4), batch=84)
    batch = lesson.draw(0, range(84))
    states = torch.stack([lesson.trajectories.states(i) for i in range(12)])
    steps = {
        (place.time, place.end): (place.keep, place.gain, place.begin) for place in lesson.places
    }
    assert len(steps) == 7
    seen = set()
    for row in range(84):
        place = lesson.places[row % 7]
        begin, end = place.begin, place.end
        lands = place.keep * batch.sample[row] + place.gain * batch.target[row]
        number = int((states[:, begin] - batch.sample[row]).abs().flatten(1).sum(1).argmin())
        assert torch.equal(states[number, begin], batch.sample[row])
        torch.testing.assert_close(lands, states[number, end], rtol=1e-4, atol=1e-4)
        assert batch.time[row] == place.time and batch.time.dtype == torch.int64
        seen.add((number, row % 7))
    assert len(seen) >= 50


def test_every_batch_has_its_share_of_each_step(tmp_path: Path) -> None:
    lesson = tiny_loops.lesson(tmp_path, tiny_loops.student(), (1, 2), batch=6)
    for step in range(3):
        assert sorted(lesson.draw(step, range(6)).time.tolist()) == [499] * 2 + [999] * 4


def test_rows_do_not_depend_on_who_draws_them(tmp_path: Path) -> None:
    lesson = tiny_loops.lesson(tmp_path, tiny_loops.student())
    whole = lesson.draw(3, range(4))
    parts = [lesson.draw(3, range(2)), lesson.draw(3, range(2, 4))]
    assert torch.equal(whole.sample, torch.cat([part.sample for part in parts]))
    assert torch.equal(whole.target, torch.cat([part.target for part in parts]))
    assert torch.equal(whole.target, torch.cat([piece.target for piece in whole.pieces(3)]))


def test_trajectories_that_lack_a_state(tmp_path: Path) -> None:
    made = tiny_loops.trajectories(tmp_path, (1, 2))
    with pytest.raises(InputError, match=r"no states at the timesteps \[749.0, 249.0\]"):
        LoopLesson(tiny_loops.student(), made, tiny_loops.steps_of(4), tiny_loops.options())


@pytest.mark.slow
def test_a_student_learns_its_loops(tmp_path: Path) -> None:
    """It comes nearer to the trajectories' ends, in one call and in two; the last layer alone
    comes a part of the way."""
    made = tiny_loops.trajectories(tmp_path / "trajectories")
    states = torch.stack([made.states(i) for i in range(12)])

    def errors(steps: int) -> list[float]:
        learner = tiny_loops.student()
        changes = {"steps": steps, "batch": 12, "learning_rate": 5e-3, "checkpoint_every": 999}
        drain(tiny_loops.work(tmp_path, learner, **changes))

        @torch.no_grad()
        def output(x, t):
            return learner.model(x, torch.full((len(x),), int(t))).sample

        ends = (after_loop(output, loop, states[:, 0]) for loop in tiny_loops.steps_of(1, 2))
        return [float((end - states[:, -1]).square().mean()) for end in ends]

    solved, trained = errors(0), errors(100)
    before = float(states[:, -1].var())
    assert all(one < before for one in solved)
    assert all(after < 0.7 * one for after, one in zip(trained, solved, strict=True))


@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole, parts = tiny_loops.student(), tiny_loops.student()
    result = drain(tiny_loops.work(tmp_path / "whole", whole))
    work = tiny_loops.work(tmp_path / "parts", tiny_loops.student())
    for _ in range(stop + 2):  # the first event says that the last layer was solved
        next(work)
    work.close()
    resumed = drain(tiny_loops.work(tmp_path / "parts", parts))
    assert resumed.resumed_from == stop // 2 * 2 and resumed.losses == result.losses
    ours, theirs = whole.model.state_dict(), parts.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_last_layer_is_the_least_squares_one() -> None:
    """Oracle: numpy's lstsq on patches cut out by hand."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 3), (3, 2))]
    net = torch.nn.Sequential(layers[0], torch.nn.SiLU(), layers[1]).requires_grad_(False)
    x, y = torch.randn(6, 1, 5, 5), torch.randn(6, 2, 5, 5)

    class Rows:
        def __init__(self, part):
            self.sample, self.target = x[part], y[part]

    batches = [Rows(slice(0, 3)), Rows(slice(3, 6))]
    before, after = fit_readout(net, batches, lambda rows: net(rows.sample))
    wide = torch.nn.functional.pad(net[1](net[0](x)), (1, 1, 1, 1)).numpy()
    patches, wanted = [], []
    for n in range(6):
        for i in range(5):
            for j in range(5):
                patches.append([*wide[n, :, i : i + 3, j : j + 3].ravel(), 1.0])
                wanted.append(y[n, :, i, j].numpy())
    import numpy as np

    best, *_ = np.linalg.lstsq(np.array(patches), np.array(wanted), rcond=None)
    left = float(((np.array(patches) @ best - np.array(wanted)) ** 2).mean())
    assert float((net(x) - y).square().mean()) == pytest.approx(after, rel=1e-3)
    assert after == pytest.approx(left, rel=0.02) and before > after


@pytest.mark.parametrize("tail", [torch.nn.Tanh(), torch.nn.Conv2d(2, 2, 1, groups=2)])
def test_a_network_that_does_not_end_in_a_plain_layer_is_left_alone(tail) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), tail)
    x = torch.randn(1, 1, 4, 4)
    assert last_layer(net, lambda: net(x)) is None
