"""The caller's state of PyTorch neither reaches into the work nor is changed by it."""

from __future__ import annotations

import random
import warnings
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from support.runs import compile_quickly

import diffc
from diffc.torch_state import own_state
from diffc_runtime.files import file_digest

WEIGHTS = "model/unet/diffusion_pytorch_model.safetensors"


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def switches():
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
        torch.set_grad_enabled(True)


@contextmanager
def convolutions():
    """As the torch target leaves them, which times fp32 without TF32."""
    cudnn = torch.backends.cudnn
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, True, True
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = True, False, False


CALLERS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "dtype": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "switches": switches,
    "convolutions": convolutions,
}


def state() -> list:
    return [
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"), torch.get_default_device(), torch.get_num_threads(),
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
        list(warnings.filters),
    ]  # fmt: skip


@pytest.mark.parametrize("name", CALLERS)
def test_everything_is_set_and_given_back(name):
    with CALLERS[name]():
        before = state()
        with own_state():
            x = torch.ones(2, 2, requires_grad=True)
            assert (x.dtype, x.device.type, (x @ x).dtype) == (torch.float32, "cpu", torch.float32)
            (x @ x).sum().backward()
            cudnn = torch.backends.cudnn
            assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (True, False, False)
            warnings.simplefilter("ignore")
            drawn = torch.rand(3).tolist(), random.random(), np.random.rand()
            with torch.device("meta"):
                assert torch.ones(1).device.type == "meta"  # our own contexts go on working
        assert state() == before
    with own_state():
        assert drawn == (torch.rand(3).tolist(), random.random(), np.random.rand())


def test_an_error_gives_the_state_back_too():
    with torch.no_grad():
        before = state()
        with pytest.raises(ValueError, match="inside"), own_state():
            torch.rand(1)
            raise ValueError("inside")
        assert state() == before


def test_accelerates_state_is_the_callers_again():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    mine = Accelerator(cpu=True, mixed_precision="bf16")
    with own_state():
        assert Accelerator(cpu=True, mixed_precision="no").mixed_precision == "no"
    assert mine.mixed_precision == "bf16" and AcceleratorState().mixed_precision == "bf16"
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def plain(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFC_CACHE", str(out / "cache"))
        compile_quickly(tiny_model, out / "o", "distill")
    return file_digest(out / "o" / WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all", "device"])
def test_the_result_is_the_same_under_any_state(tiny_model, plain, tmp_path, name):
    together = ("no_grad", "inference_mode", "autocast", "dtype", "switches")
    torch.manual_seed(5)
    with ExitStack() as stack:
        for caller in together if name == "all" else (name,):
            stack.enter_context(CALLERS[caller]())
        before = state()
        compile_quickly(tiny_model, tmp_path / "o", "distill")
        assert state() == before
    assert file_digest(tmp_path / "o" / WEIGHTS) == plain


@pytest.mark.parametrize("name", CALLERS)
def test_a_loaded_model_is_float32_and_can_be_trained(tiny_model, name):
    with CALLERS[name]():
        unet = diffc.load(tiny_model).unet
    weight = unet.conv_in.weight
    assert (weight.dtype, weight.device.type) == (torch.float32, "cpu")
    assert weight.requires_grad and not weight.is_inference()


@pytest.mark.slow
def test_a_callback_that_fails_leaves_no_state_and_no_lock(tiny_model, tmp_path):
    def fail(event):
        if event.kind == "progress":
            raise ZeroDivisionError

    before = state()
    with pytest.raises(ZeroDivisionError):
        compile_quickly(tiny_model, tmp_path / "o", "plan", on_event=fail)
    assert state() == before
    compile_quickly(tiny_model, tmp_path / "o", "plan")
