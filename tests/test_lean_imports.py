"""A command imports PyTorch and diffusers without what it does not need, and everything works that
needs the rest after all; a library call does not change how anything is imported.

What was imported before decides, so each piece of code has an interpreter of its own. An import of
torch takes seconds, and most pieces begin with it: two interpreters import torch alone, one of them
lean, and each piece goes on from there in a fork of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

LEAN = "from diffc.lean_imports import make_imports_lean; make_imports_lean()\n"
DEFERRED = """
import sys
make_imports_lean()
from diffc.lean_imports.deferred import PACKAGES
from diffusers import UNet2DModel
assert "diffusers.models.unets" in sys.modules
others = [name for name in sys.modules if "transformer_flux" in name or "unet_3d" in name]
assert not others, others

import diffusers.models.transformers as package
assert not hasattr(package, "__all__")
assert not [name for name in sys.modules if "transformer_flux" in name]
from diffusers.models.transformers import DiTTransformer2DModel
from diffusers import FluxTransformer2DModel
assert package.FluxTransformer2DModel is FluxTransformer2DModel
assert package.DiTTransformer2DModel is DiTTransformer2DModel
assert type(package.__spec__.loader).__name__ == "SourceFileLoader"
assert package.__loader__ is package.__spec__.loader
try:
    package.Missing
except AttributeError as error:
    assert "has no attribute 'Missing'" in str(error)
else:
    raise AssertionError("a name that nobody gives")
"""
LEFT_ALONE = """
import sys
before = list(sys.meta_path)
import diffc, diffc.models.load
assert sys.meta_path[-len(before):] == before
assert not [f for f in sys.meta_path if getattr(f, "__module__", "").startswith("diffc")]
assert "torch._dynamo" in sys.modules
"""
ABSENT = """
import sys
from diffusers import FluxTransformer2DModel, UNet2DConditionModel, UNet2DModel
large = {"torch._dynamo", "transformers", "scipy.stats", "scipy.integrate"} & set(sys.modules)
assert not large, large
"""
HANDED_OVER = """
import sys
import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.hooks.group_offloading import ModuleGroup
assert "torch._dynamo" not in sys.modules
left_out = ModuleGroup.onload_
from torch._dynamo import trace_rules
assert id(BasicTransformerBlock) in trace_rules._allowed_callable_ids
assert id(FeedForward) not in trace_rules._allowed_callable_ids
assert "__dynamo_disable" not in vars(left_out.__wrapped__)
"""
GRAPHS = """
import json
import torch
from diffusers import Transformer2DModel, UNet2DModel

torch.manual_seed(0)
graphs = []

def backend(graph, inputs):
    targets = (getattr(node.target, "__name__", str(node.target)) for node in graph.graph.nodes)
    graphs.append(list(targets))
    return graph.forward

unet = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=4, attention_head_dim=4,
).eval()
blocks = Transformer2DModel(
    num_attention_heads=1, attention_head_dim=8, in_channels=8, num_layers=1, norm_num_groups=4
).eval()
meta = torch.ones(2, device="meta") * torch.arange(2, device="meta")  # one of torch's own, before
with torch.no_grad():
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 5])
    dense = unet(x, t).sample
    compiled = torch.compile(unet, backend=backend)(x, t).sample
    assert torch.allclose(dense, compiled, atol=1e-6)
    y = torch.randn(2, 8, 4, 4)
    assert torch.allclose(
        blocks(y).sample, torch.compile(blocks, backend=backend)(y).sample, atol=1e-6
    )
    program = torch.export.export(unet, (x, t))
    assert torch.allclose(dense, program.module()(x, t).sample, atol=1e-6)

@torch.compiler.disable
def left_out(value):
    return value.sin()

@torch._disable_dynamo
def left_out_by_torch(value):
    return value.cos()

def mixed(value):
    return left_out_by_torch(left_out(value + 1) * 2) - 1

torch._dynamo.reset()
before = len(graphs)
torch.compile(mixed, backend=backend)(torch.ones(3))
print(json.dumps([graphs, len(graphs) - before, len(program.graph.nodes)]))
"""
LATER = """
import sys
import torch
from diffusers.loaders import lora_base, single_file_utils
from diffusers.quantizers import pipe_quant_config
from diffusers import DPMSolverMultistepScheduler, LMSDiscreteScheduler
assert "transformers" not in sys.modules
name = lora_base.PreTrainedModel
assert not isinstance(torch.nn.Linear(1, 1), name)
assert "transformers" not in sys.modules
import transformers
class Own(transformers.PreTrainedModel):
    pass
assert isinstance(object.__new__(Own), name)
assert issubclass(Own, name)
assert not isinstance(torch.nn.Linear(1, 1), name)
own = single_file_utils.AutoImageProcessor.from_pretrained
assert own.__func__ is transformers.AutoImageProcessor.from_pretrained.__func__
config = transformers.BitsAndBytesConfig(load_in_8bit=True)
assert isinstance(config, pipe_quant_config.TransformersQuantConfigMixin)
assert not isinstance(1, pipe_quant_config.TransformersQuantConfigMixin)
spaced = DPMSolverMultistepScheduler(use_beta_sigmas=True)
spaced.set_timesteps(5)
assert "scipy.stats" in sys.modules
lms = LMSDiscreteScheduler()
lms.set_timesteps(5)
lms.set_begin_index(0)
assert lms.get_lms_coefficient(1, 0, 0) != 0
print(spaced.sigmas.tolist())
"""
DISTRIBUTIONS = """
from importlib import metadata
own = metadata.packages_distributions
import diffusers.utils.import_utils as module
assert metadata.packages_distributions is own
found = module._package_map
assert dict(found) == dict(own())
assert "torch" in found and found["torch"] == ["torch"] and found.get("nobody") is None
assert len(found) == len(own())
assert module._is_distribution_installed("PIL")[0]
"""
SCOPED = """
import builtins
import diffusers.utils.torch_utils as module
assert vars(module)["__builtins__"] == vars(builtins)
assert module.randn_tensor.__globals__ is vars(module)
assert module.randn_tensor.__builtins__["__import__"] is builtins.__import__
assert type(module.__spec__.loader).__name__ == "SourceFileLoader"
"""


FORKS = """
import json, os, sys, traceback
import torch
for line in sys.stdin:
    out, code = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for stream, end in ((1, ""), (2, ".err")):
            os.dup2(os.open(out + end, os.O_WRONLY | os.O_CREAT), stream)
        status = 0
        try:
            exec(compile(code, "piece", "exec"), {"__name__": "__main__", **START})
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Runs each piece of code that it reads in a fork, and says how it ended."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that has imported torch. process: ``FORKS``. folder: for what the pieces print."""

    process: subprocess.Popen[str]
    folder: Path

    def run(self, code: str) -> str:
        """What ``code`` prints; AssertionError if it fails."""
        path = self.folder / str(uuid.uuid4())
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([str(path), code]), file=self.process.stdin, flush=True)
        status = self.process.stdout.readline()
        assert status == "0\n", path.with_suffix(".err").read_text()
        return path.read_text()


@contextmanager
def interpreter(start: str, folder: Path) -> Iterator[Interpreter]:
    process = subprocess.Popen(
        [sys.executable, "-c", start + FORKS], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        yield Interpreter(process, folder)


@pytest.fixture(scope="module")
def lean(tmp_path_factory):
    with interpreter(
        LEAN + "START = {'make_imports_lean': make_imports_lean}\n", tmp_path_factory.mktemp("lean")
    ) as process:
        yield process


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with interpreter("START = {}\n", tmp_path_factory.mktemp("plain")) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [DEFERRED, ABSENT, HANDED_OVER, DISTRIBUTIONS, SCOPED],
    ids=["deferred", "absent", "handed over", "distributions", "scoped"],
)
def test_a_command_imports_lean(code: str, lean: Interpreter) -> None:
    lean.run(code)


@pytest.mark.slow
def test_a_process_that_imports_diffc_imports_as_before(plain: Interpreter) -> None:
    plain.run(LEFT_ALONE)


@pytest.mark.slow
def test_what_is_compiled_and_exported_is_the_same(plain: Interpreter, lean: Interpreter) -> None:
    before, after = json.loads(plain.run(GRAPHS)), json.loads(lean.run(GRAPHS))
    assert before[1] == 3  # a graph before, between and after the two functions that are left out
    assert after == before


@pytest.mark.slow
def test_classes_and_modules_come_at_their_first_use(plain: Interpreter, lean: Interpreter) -> None:
    assert json.loads(lean.run(LATER)) == json.loads(
        plain.run(LATER.replace('assert "transformers" not in sys.modules', ""))
    )


@pytest.mark.slow
@pytest.mark.parametrize("first", ["torch", "torch._dynamo", "diffusers", "transformers"])
def test_it_can_begin_late(first: str, plain: Interpreter) -> None:
    """What was imported before is left as it is, and what comes after works."""
    late = f"import {first}\n{LEAN}" + HANDED_OVER.replace(
        'assert "torch._dynamo" not in sys.modules', ""
    )
    plain.run(late)


RARELY = """
import gc, os, sys
usual = gc.get_threshold()
from diffc.lean_imports import collect_as_usual, make_imports_lean
make_imports_lean()
assert gc.get_threshold()[0] > 10 * usual[0]
make_imports_lean()
collect_as_usual()
assert gc.get_threshold() == usual
gc.set_threshold(123)
collect_as_usual()
assert gc.get_threshold()[0] == 123
print(os.environ["OPENBLAS_THREAD_TIMEOUT"])
"""


@pytest.mark.parametrize(
    ("chosen", "taken"), [({}, "10"), ({"OPENBLAS_THREAD_TIMEOUT": "26"}, "26")]
)
def test_garbage_is_collected_rarely_until_work_begins(chosen, taken):
    kept = {key: value for key, value in os.environ.items() if key != "OPENBLAS_THREAD_TIMEOUT"}
    done = subprocess.run(
        [sys.executable, "-c", RARELY], capture_output=True, text=True, check=True,
        env={**kept, **chosen},
    )  # fmt: skip
    assert done.stdout.strip() == taken


@pytest.mark.slow
def test_with_torch_garbage_is_collected_as_usual(plain: Interpreter, lean: Interpreter) -> None:
    code = "import gc; print(gc.get_threshold())"
    assert lean.run(code) == plain.run(code)


def test_a_piece_that_fails_is_seen(lean: Interpreter) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lean.run("1 / 0")
