"""A process that is forked off runs what its parent has opened: it is not stuck."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from diffc.errors import UnavailableError
from diffc.generate.torch_model import torch_call

FORKED = """
import os, signal, sys
import numpy as np, torch
import diffc

torch.set_num_threads(2)
pipe = diffc.pipeline(sys.argv[1], target=sys.argv[2])
by_torch = sys.argv[2] == "torch"
work = lambda: torch.randn(1000, 1000) @ torch.randn(1000, 1000) if by_torch else None
first = pipe.generate(4, 2, 0)
work()
child = os.fork()
if child == 0:
    signal.alarm(100)
    work()
    same = np.abs(pipe.generate(4, 2, 0) - first).max() < 1e-3
    os._exit(0 if same else 1)
print("ended with", os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("target", ["torch", "ort-cpu"])
def test_a_forked_process_makes_the_same_images(compiled, target):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(compiled[0]), target], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["ended with 0"], done.stderr


def test_a_gpu_of_another_process_is_one_line(monkeypatch):
    """PyTorch's own error comes from deep inside the network."""
    denoiser = SimpleNamespace(model=torch.nn.Linear(1, 1))
    call = torch_call(denoiser, torch.device("cuda"))
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(UnavailableError, match="of the process that opened the model") as caught:
        call({})
    assert "spawn" in caught.value.hint
