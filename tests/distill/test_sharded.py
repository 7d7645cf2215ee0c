"""Sharded over two processes, every family is trained, ranked and sampled as by one process; and so
where both have it whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import sharded_runs

pytestmark = pytest.mark.slow

SHORT = sharded_runs.SHORT


def launch(folder: Path, names, changes=None, *, kill: str = "", processes: int = 2):
    """The script under torchrun, whatever its end."""
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    env |= {"KILL": kill} if kill else {}
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    given = [str(folder), json.dumps(names), json.dumps(changes or {})]
    command = [sys.executable, *launcher, sharded_runs.__file__, *given]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)


def read(folder: Path, name: str):
    return load_file(folder / f"{name}.safetensors"), json.loads(
        (folder / f"{name}.json").read_text()
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two processes make of everything."""
    folder = tmp_path_factory.mktemp("two")
    others = [*sharded_runs.WHOLE_ONES, "loop", "samples", SHORT, "bf16", "low-rank"]
    ended = launch(folder, [*sharded_runs.FAMILIES, *others])
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.parametrize("name", [*sharded_runs.FAMILIES, *sharded_runs.WHOLE_ONES, "loop"])
def test_a_student_is_that_of_one_process(two: Path, tmp_path: Path, name: str) -> None:
    ours, facts = read(two, name)
    alone, of_one = sharded_runs.done(name, tmp_path)
    losses = [[loss for _, loss in one["losses"]] for one in (facts, of_one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) in (6, 20)
    if name == "loop":  # a bias in front of a norm has no gradient but rounding: what they compute
        outputs = [sharded_runs.loop_output(state) for state in (ours, alone)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
        return
    for key, value in alone.items():
        if not key.endswith(("to_k.bias", "add_k_proj.bias")):  # softmax: no gradient but rounding
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-5)
    start = sharded_runs.student(name.removeprefix(sharded_runs.UNSHARDED)).state_dict()
    assert max(float((ours[k] - start[k]).abs().max()) for k in start) > 1e-3  # it learned


def test_low_rank_additions_are_those_of_one_process(two: Path, tmp_path: Path) -> None:
    """They are sharded with their blocks, and merged where the network is whole."""
    (ours, facts), (alone, of_one) = read(two, "low-rank"), sharded_runs.done("low-rank", tmp_path)
    losses = [[loss for _, loss in one["losses"]] for one in (facts, of_one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][-1] < losses[0][0]
    assert set(ours) == set(alone)
    for key, value in alone.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-5)


def test_mixed_precision_is_that_of_one_process(two: Path, tmp_path: Path) -> None:
    """Blocks run in bf16; the weights that are trained are in float32."""
    (ours, facts), (alone, of_one) = read(two, "bf16"), sharded_runs.done("bf16", tmp_path)
    losses = [[loss for _, loss in one["losses"]] for one in (facts, of_one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    exact = read(two, "flux")[1]["losses"]
    assert losses[0] != [loss for _, loss in exact[: len(losses[0])]]
    assert all(value.dtype == torch.float32 for value in ours.values()) and set(ours) == set(alone)


def test_samples_and_importance_are_those_of_one_process(two: Path, tmp_path: Path) -> None:
    ours, _ = read(two, "samples")
    alone, _ = sharded_runs.done("samples", tmp_path)
    assert set(ours) == set(alone)
    for key, value in alone.items():
        torch.testing.assert_close(
            ours[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max())
        )


def test_a_process_killed_in_a_checkpoint(two: Path, tmp_path: Path) -> None:
    """The one before it is used, by as many processes and by fewer, and so if one is damaged."""
    ended = launch(tmp_path, [SHORT], kill="1:6")
    assert ended.returncode != 0 and not (tmp_path / "short.json").exists()
    place, other = tmp_path / SHORT, tmp_path / sharded_runs.WHOLE
    assert (place / ".step-00000006.part").is_dir()
    written = sorted(path.name for path in place.glob("*.json"))
    assert written == ["step-00000002.json", "step-00000004.json"]
    shutil.copytree(place, other)
    # one process alone, whose newest checkpoint has a byte altered
    parts = sorted((other / "step-00000004").iterdir())
    assert len(parts) == 2 and parts[0].stat().st_size < 1.2 * parts[1].stat().st_size
    content = bytearray(parts[0].read_bytes())
    content[-1] ^= 1
    parts[0].write_bytes(content)
    alone, facts = sharded_runs.done(other.name, tmp_path)
    assert facts["resumed_from"] == 2 and "step-00000004 is damaged" in facts["notes"][0]
    for path in other.glob("step-00000008.*"):
        path.unlink()
    # two again, from their own checkpoint and from that of the one
    assert launch(tmp_path, [SHORT, other.name]).returncode == 0
    (weights, resumed), (mixed, later) = read(tmp_path, SHORT), read(tmp_path, other.name)
    whole, undisturbed = read(two, SHORT)
    assert [resumed["resumed_from"], later["resumed_from"]] == [4, 6]
    assert resumed["losses"] == undisturbed["losses"]
    for key, value in whole.items():
        assert torch.equal(weights[key], value)
        torch.testing.assert_close(alone[key], value, rtol=0, atol=1e-5)
        torch.testing.assert_close(mixed[key], value, rtol=0, atol=1e-5)
