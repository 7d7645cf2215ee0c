"""Block-local distillation: each block learns alone what the dense network's block does."""

from __future__ import annotations

import copy
import errno

import numpy as np
import pytest
import torch
from support.cut_models import FAMILIES, cut_copy, dense_denoiser
from support.family_cases import case

from diffc.calibration import in_files as activation_files
from diffc.calibration.in_files import in_files
from diffc.calibration.noised import noised_batches
from diffc.distill.block_local import run, train
from diffc.distill.block_local.blocks import LocalBlock, local_blocks, output_tensors
from diffc.distill.block_local.run import Place, distil_blocks, weights_file
from diffc.errors import UnavailableError
from diffc.prune.surgery import cut, removed_positions
from diffc.recipe import BlockLocalSection, LowRankSection
from diffc_export.events import drain

CPU, FP32 = torch.device("cpu"), torch.float32
OPTIONS = BlockLocalSection(steps=3, rows=8, batch=2, learning_rate=3e-4)


def prepared(name):
    dense, clean = dense_denoiser(name)
    small, keep = cut_copy(dense, name)
    removed = removed_positions(case(name).groups, keep)
    return dense, small, local_blocks(dense.model, small, dense.family, removed), clean


def place_in(folder):
    (folder / "learnt").mkdir(parents=True, exist_ok=True)
    return Place(CPU, FP32, folder / "learnt", folder)


def learn(prepared_case, folder, options=OPTIONS, seed=0):
    dense, small, blocks, clean = prepared_case
    return drain(distil_blocks(dense, small, blocks, clean, options, place_in(folder), seed))


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_every_family_come_nearer_to_the_dense_ones(name, tmp_path):
    dense, small, blocks, clean = prepared(name)
    old, theirs = weights(small), weights(dense.model)
    outcome = learn((dense, small, blocks, clean), tmp_path)
    assert blocks and {one.name for one in outcome.blocks} == {one.name for one in blocks}
    assert any(one.is_used for one in outcome.blocks)
    assert all(one.after < one.before for one in outcome.blocks if one.is_used)
    assert outcome.dense.to_dense == 0 < outcome.before.to_dense
    files = {path.stem for path in (tmp_path / "learnt").iterdir()}
    nearer = {one.name for one in outcome.blocks if one.is_used}
    assert files == (nearer if outcome.is_used else set())
    changed = {key for key, value in weights(small).items() if not torch.equal(value, old[key])}
    if outcome.is_used:
        assert outcome.after.to_dense < outcome.before.to_dense
        assert {name for name in nearer if any(k.startswith(f"{name}.") for k in changed)} == nearer
        assert all(any(key.startswith(f"{one}.") for one in nearer) for key in changed)
    assert all(torch.equal(value, theirs[key]) for key, value in weights(dense.model).items())


@pytest.mark.parametrize("name", ["unet2d", "sd15"])
def test_a_block_reads_and_gives_the_channels_that_surgery_left(name):
    """Weights that are the number of their own channel show which ones are left."""
    dense, _ = dense_denoiser(name)
    marked = copy.deepcopy(dense.model)
    for parameter in marked.parameters():
        if parameter.ndim > 1:
            columns = torch.arange(parameter.shape[1]).reshape(1, -1, *[1] * (parameter.ndim - 2))
            parameter.data = columns.expand_as(parameter).float().clone()
    reads, keep = cut_copy(dense.with_model(marked), name)
    rows = copy.deepcopy(dense.model)
    for parameter in rows.parameters():
        if parameter.ndim > 1:
            places = torch.arange(parameter.shape[0]).reshape(-1, *[1] * (parameter.ndim - 1))
            parameter.data = places.expand_as(parameter).float().clone()
    gives, _ = cut_copy(dense.with_model(rows), name)
    small, _ = cut_copy(dense, name)
    checked = 0
    removed = removed_positions(case(name).groups, keep)
    for block in local_blocks(dense.model, small, dense.family, removed):
        module = reads.get_submodule(block.name)
        first = getattr(module, "conv1", None) or getattr(module, "proj_in", None) or module.to_k
        last = gives.get_submodule(block.name)
        last = getattr(last, "conv2", None) or getattr(last, "proj_out", None) or last.to_out[0]
        argument = "input_tensor" if hasattr(module, "conv1") else "hidden_states"
        if argument in block.inputs:
            left = first.weight[0].reshape(first.weight.shape[1], -1)[:, 0]
            assert block.inputs[argument].tolist() == left.tolist()
            checked += 1
        if block.outputs is not None:
            left = last.weight.reshape(len(last.weight), -1)[:, 0]
            assert block.outputs.tolist() == left.tolist()
            checked += 1
    assert checked > 5


def test_it_is_what_ordinary_hooks_and_a_plain_loop_give(tmp_path):
    """The dense network run whole, everything in memory, and AdamW written out."""
    dense, small, blocks, clean = prepared("sd3")
    student = copy.deepcopy(small)
    learn((dense, small, blocks, clean), tmp_path)
    calls = {block.name: [] for block in blocks}
    hooks = [
        dense.model.get_submodule(name).register_forward_hook(
            lambda _m, args, kwargs, out, name=name: calls[name].append((args, kwargs, out)),
            with_kwargs=True,
        )
        for name in calls
    ]
    batches = noised_batches(dense, clean, OPTIONS.rows, 0, OPTIONS.batch)
    with torch.no_grad():
        for batch in batches:
            dense.call(batch.inputs)
    for hook in hooks:
        hook.remove()
    taught = [place for place, batch in enumerate(batches) if not batch.is_held_out]
    for number, block in enumerate(blocks):
        file = weights_file(tmp_path / "learnt", block.name)
        if not file.is_file():
            continue
        module = student.get_submodule(block.name).requires_grad_(True)
        optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.0)
        for step in range(OPTIONS.steps):
            place = taught[train._place(step, len(taught), number)]
            args, kwargs, wanted = calls[block.name][place]
            terms = [
                (ours - theirs).square().flatten(1).mean(1) / theirs.square().flatten(1).mean(1)
                for ours, theirs in zip(
                    output_tensors(module(*args, **kwargs)), output_tensors(wanted), strict=True
                )
            ]
            torch.stack(terms).mean().backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = OPTIONS.learning_rate * train.rate_at(step, 3)
            optimizer.step()
            optimizer.zero_grad()
        for key, value in module.named_parameters():
            ours = small.get_submodule(block.name).get_parameter(key)
            torch.testing.assert_close(ours, value, atol=1e-6, rtol=1e-5)
    assert any((tmp_path / "learnt").iterdir())


@pytest.mark.parametrize(("name", "lost"), [("dit", [1]), ("flux", [1]), ("pixart", [0])])
def test_a_block_learns_the_work_of_lost_ones_behind_it(name, lost, tmp_path):
    dense, clean = dense_denoiser(name)
    keep = {f"transformer_blocks.{place}": np.array([], np.int64) for place in lost}
    small = copy.deepcopy(dense.model)
    cut(small, dense.units(), keep)
    blocks = local_blocks(dense.model, small, dense.family, {})
    if lost == [0]:  # nothing runs before it
        assert blocks == []
        outcome = learn((dense, small, blocks, clean), tmp_path)
        assert not outcome.is_used and outcome.before.to_dense > 0 and outcome.after is None
        return
    first, last = "transformer_blocks.0", "transformer_blocks.1"
    assert blocks == [LocalBlock(first, last, {}, None)]
    caught = {}
    for key in (first, last):
        dense.model.get_submodule(key).register_forward_hook(
            lambda _m, _i, out, key=key: caught.setdefault(key, []).append(out)
        )
    outcome = learn((dense, small, blocks, clean), tmp_path)
    with torch.no_grad():
        caught.clear()
        batch = noised_batches(dense, clean, 8, 0, 2)[-1]
        assert batch.is_held_out and len(batch) == 2
        dense.call(batch.inputs)
    errors = [
        (ours - theirs).square().flatten(1).mean(1) / theirs.square().flatten(1).mean(1)
        for ours, theirs in zip(
            output_tensors(caught[first][0]), output_tensors(caught[last][0]), strict=True
        )
    ]
    assert outcome.blocks[0].before == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
    assert outcome.blocks[0].after < outcome.blocks[0].before


def test_a_killed_run_goes_on_behind_the_last_block(tmp_path):
    dense, small, blocks, clean = prepared("dit")
    undisturbed = copy.deepcopy(small)
    learn((dense, undisturbed, blocks, clean), tmp_path / "whole")
    work = distil_blocks(dense, small, blocks, clean, OPTIONS, place_in(tmp_path / "killed"), 0)
    for _ in range(2):  # the second event comes after the first block
        next(work)
    work.close()
    (first,) = (tmp_path / "killed/learnt").iterdir()
    written = first.stat().st_mtime_ns
    learn((dense, small, blocks, clean), tmp_path / "killed")
    assert first.stat().st_mtime_ns == written
    ours, theirs = weights(small), weights(undisturbed)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("left", [0, 6, -1])
def test_a_block_whose_file_is_no_whole_one_learns_again(tmp_path, left):
    """As after a power failure, or where somebody copied it on a disk that was full."""
    dense, small, blocks, clean = prepared("dit")
    undisturbed = copy.deepcopy(small)
    learn((dense, undisturbed, blocks, clean), tmp_path / "whole")
    work = distil_blocks(dense, small, blocks, clean, OPTIONS, place_in(tmp_path / "torn"), 0)
    for _ in range(2):
        next(work)
    work.close()
    (first,) = (tmp_path / "torn/learnt").iterdir()
    first.write_bytes(first.read_bytes()[:left])
    learn((dense, small, blocks, clean), tmp_path / "torn")
    ours, theirs = weights(small), weights(undisturbed)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_network_that_comes_no_nearer_stays_as_it_is(tmp_path):
    dense, small, blocks, clean = prepared("unet2d")
    old = weights(small)
    outcome = learn(
        (dense, small, blocks, clean), tmp_path, OPTIONS.model_copy(update={"learning_rate": 30.0})
    )
    assert not any(one.is_used for one in outcome.blocks) and not outcome.is_used
    assert all(torch.equal(value, old[key]) for key, value in weights(small).items())
    assert not list((tmp_path / "learnt").iterdir())


def test_the_whole_network_decides_after_all(tmp_path, monkeypatch):
    """Each block came nearer, and together they are further away."""
    dense, small, blocks, clean = prepared("dit")
    old, honest = weights(small), train.train_block

    def spoilt(*args):
        trained = honest(*args)
        return train.TrainedBlock(
            trained.figures.model_copy(update={"is_used": True}),
            {key: value + 1.0 for key, value in args[1].named_parameters()},
        )

    monkeypatch.setattr(run, "train_block", spoilt)
    outcome = learn((dense, small, blocks, clean), tmp_path)
    assert not outcome.is_used and outcome.after.to_dense > outcome.before.to_dense
    assert all(torch.equal(value, old[key]) for key, value in weights(small).items())
    assert not list((tmp_path / "learnt").iterdir())


def test_memory_that_runs_out_is_named(tmp_path, monkeypatch):
    def full(*args):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(run, "train_block", full)
    with pytest.raises(UnavailableError, match=r"train the block transformer_blocks\.0") as caught:
        learn(prepared("dit"), tmp_path)
    assert "distill.block_local.batch" in caught.value.hint


def test_activations_lie_in_files_without_a_name(tmp_path):
    put = in_files(tmp_path)
    given = (torch.randn(3, 4), {"a": torch.randn(2).to(torch.bfloat16)}, None, torch.zeros(0))
    got = put(given)
    assert torch.equal(got[0], given[0]) and torch.equal(got[1]["a"], given[1]["a"])
    assert got[2] is None and got[3].shape == (0,) and not list(tmp_path.iterdir())
    got[0].add_(1)  # a network may write into them
    assert torch.equal(got[0], given[0] + 1)


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def full(array, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(activation_files, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        learn(prepared("dit"), tmp_path)


@pytest.mark.slow
def test_blocks_learn_by_additions_and_the_rest_of_them_stays(tmp_path):
    dense, small, blocks, clean = prepared("flux")
    old, rank = weights(small), LowRankSection(rank=2)
    options = OPTIONS.model_copy(update={"steps": 20, "learning_rate": 1e-2})
    place = place_in(tmp_path)
    outcome = drain(distil_blocks(dense, small, blocks, clean, options, place, 0, rank))
    assert outcome.is_used and outcome.after.to_dense < outcome.before.to_dense
    new = weights(small)
    assert list(new) == list(old)
    changed = {key for key, value in new.items() if not torch.equal(value, old[key])}
    assert changed and all(old[key].ndim == 2 for key in changed)
    for key in changed:  # each change is of the rank that was asked for
        assert torch.linalg.matrix_rank(new[key] - old[key], rtol=1e-4) <= 2
