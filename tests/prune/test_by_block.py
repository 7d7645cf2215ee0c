"""Scores with one block of the network in memory: those of the whole network, and what is kept."""

from __future__ import annotations

import errno
import itertools
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from support.cut_models import FAMILIES, dense_denoiser
from support.family_cases import case
from support.quick import QUICK_IMPORTANCE
from support.timesteps import first_timesteps

from diffc.calibration import in_files as activation_files
from diffc.prune.depth.scores import with_branches
from diffc.prune.importance import by_block as by_block_file
from diffc.prune.importance import importance
from diffc.prune.importance.base import RowLimit, Subject
from diffc.prune.importance.by_block import measured_by_block
from diffc.recipe import ImportanceSection
from diffc_export.events import drain

QUICK = ImportanceSection(**{**QUICK_IMPORTANCE, "passes": 2, "grid": 2, "curve_images": 2})
METHODS = ("diff-pruning", "taylor", "reference")
CPU = torch.device("cpu")


def subject_of(name: str, method: str) -> Subject:
    dense, clean = dense_denoiser(name)
    subject = Subject(dense, clean, case(name).groups)
    few = {"taylor": 11, "reference": 3}  # timesteps: two passes, three passes
    return first_timesteps(subject, few[method]) if method in few else subject


def by_block(subject: Subject, stack: ExitStack, folder) -> Subject:
    sums = stack.enter_context(measured_by_block(subject.denoiser, subject.groups, CPU, folder))
    return Subject(subject.denoiser, subject.clean, subject.groups, (), RowLimit(2), sums, folder)


def scores_of(subject: Subject, method: str):
    options = QUICK.model_copy(update={"method": method, "batch": 4})
    return drain(importance(subject, options, 0))


def are_equal(ours, theirs):
    for name, score in theirs.scores.items():
        near = np.abs(ours.scores[name] - score).max() <= 1e-5 * np.abs(score).max()
        assert near, name
        assert score.any()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_the_whole_network(name, method, tmp_path):
    whole = scores_of(subject_of(name, method), method)
    with ExitStack() as stack:
        ours = scores_of(by_block(subject_of(name, method), stack, tmp_path), method)
    are_equal(ours, whole)
    curves = [one.why.get("curve", {}).get("relative_loss", []) for one in (ours, whole)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_killed_goes_on_behind_its_last_pass(method, tmp_path, monkeypatch):
    """Killed between two passes, and in the middle of one."""
    whole, ours = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    ours.mkdir()
    options = QUICK.model_copy(update={"method": method, "batch": 2, "grid": 3})
    with ExitStack() as stack:
        expected = drain(importance(by_block(subject_of("flux", method), stack, whole), options, 0))
    ends = {"diff-pruning": (2, 1), "taylor": (1, 0), "reference": (1, 0)}[method]
    for steps in ends:
        with ExitStack() as stack, pytest.raises(KeyboardInterrupt):
            subject = by_block(subject_of("flux", method), stack, ours)
            for _ in itertools.islice(importance(subject, options, 0), steps):
                pass
            monkeypatch.setattr(subject.by_block, "take", _interrupt)
            drain(importance(subject, options, 0))
    calls = []
    with ExitStack() as stack:
        subject = by_block(subject_of("flux", method), stack, ours)
        again = drain(_counted(importance(subject, options, 0), calls))
    for name, score in expected.scores.items():
        assert np.array_equal(score, again.scores[name])
    assert again.why == expected.why
    passes = {"diff-pruning": 3 + 2, "taylor": 2, "reference": expected.why["passes"]}[method]
    assert len(calls) < passes


def _interrupt(*_):
    raise KeyboardInterrupt


def _counted(work, calls):
    while True:
        try:
            calls.append(next(work))
        except StopIteration as end:
            return end.value
        yield calls[-1]


def test_one_block_at_a_time_has_gradients(tmp_path, monkeypatch):
    subject = subject_of("sd3", "diff-pruning")
    order = []
    with ExitStack() as stack:
        ours = by_block(subject, stack, tmp_path)
        take = ours.by_block.take

        def watch(name, parameter):
            there = {
                key.rpartition(".")[0]
                for key, value in subject.denoiser.model.named_parameters()
                if value.grad is not None or value.requires_grad
            }
            block = name.split(".")[1]
            assert all(key.startswith(f"transformer_blocks.{block}.") for key in there)
            order.append(int(block))
            take(name, parameter)

        monkeypatch.setattr(ours.by_block, "take", watch)
        scores_of(ours, "diff-pruning")
    passes = [key for key, _ in itertools.groupby(order)]
    assert passes == [1, 0] * (len(passes) // 2) and passes
    assert "forward" not in vars(subject.denoiser.model.transformer_blocks[0])
    assert not list(tmp_path.glob("tmp*"))  # activations have no names


def test_a_process_that_is_passes_ahead_changes_no_other_ones_sums(tmp_path, monkeypatch):
    layer, sums = torch.nn.Linear(2, 2, bias=False), []
    torch.nn.init.ones_(layer.weight)
    layer.weight.grad = torch.ones(2, 2)
    for rank in (0, 1):
        monkeypatch.setattr(by_block_file, "process_share", lambda rank=rank: (rank, 2))
        sums.append(by_block_file.GradientSums(layer, (), (), CPU, tmp_path))
        sums[rank].add_up_elements()
    for rank, is_first in ((0, True), (1, True), (1, False), (1, False), (0, False)):
        sums[rank].begin(accumulate=not is_first)
        sums[rank].take("weight", layer.weight)
    assert [one.along("weight", 0, absolute=True).tolist() for one in sums] == [[4, 4], [6, 6]]


def test_a_full_disk_is_an_error_and_with_room_the_run_goes_on(tmp_path, monkeypatch):
    method = "diff-pruning"
    expected = scores_of(subject_of("dit", method), method)
    with ExitStack() as stack:
        subject = by_block(subject_of("dit", method), stack, tmp_path)
        with monkeypatch.context() as full:

            def refuse(*_):
                raise OSError(errno.ENOSPC, "No space left on device")

            full.setattr(activation_files, "write_array", refuse)
            with pytest.raises(OSError, match="No space left"):
                scores_of(subject, method)
        are_equal(scores_of(subject, method), expected)


def test_branches_are_scored_as_those_of_the_whole_network(tmp_path):
    scores = []
    for is_alone in (False, True):
        whole = subject_of("dit", "diff-pruning")
        branches = whole.denoiser.family.branches(whole.denoiser.model)
        with ExitStack() as stack:
            one = by_block(whole, stack, tmp_path) if is_alone else whole
            one = Subject(one.denoiser, one.clean, one.groups, branches, by_block=one.by_block)
            channels = drain(importance(one, QUICK, 0))
            scores.append(drain(with_branches(one, channels, 0)))
    assert len(scores[0].scores) > len(case("dit").groups)
    are_equal(scores[1], scores[0])
