"""torch: the model as people run it today; the baseline of every engine.

Its engine folder holds no file, only what to load and its hash: a pipeline folder, hub id or
``demo``, or the OUT/model folder beside the ONNX folder. Needs the training packages; the other
targets do not.

    eager      as diffusers runs it
    compiled   torch.compile; on a GPU its ``max-autotune``, which captures CUDA graphs itself
    graphs     eager, captured once as a CUDA graph and replayed (needs a GPU)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffc.errors import InputError, RequestError, UnavailableError, in_short, unknown
from diffc_export.events import Progress, Work
from diffc_export.targets import engine, shapes
from diffc_export.targets.base import Array, Arrays, BuildOptions, LoadedEngine, Status, TargetFacts
from diffc_export.targets.onnx_file import read_onnx
from diffc_runtime import machine
from diffc_runtime.machine import cuda, driver
from diffc_runtime.machine.out_of_memory import out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from diffc.models.source import Source

NAME = "torch"
VARIANTS = ("eager", "compiled", "graphs")
_WARM_UP = 3
SPINNING = 0.02
"""Seconds after which torch's idle threads sleep: on a CPU they spin for milliseconds first."""
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchTarget:
    """See diffc_export.targets.base.Target."""

    facts = TargetFacts(
        name=NAME,
        device="torch",
        packages=("torch", "diffusers"),
        requires=("torch", "diffusers"),
        libraries=("torch", "diffc.models.load"),
        alignment={"fp32": 16, "fp16": 16, "bf16": 16},
        ahead_of_time=False,
        graphs="never",  # the variants that capture are chosen with --torch
        hinted=frozenset({"fp16", "bf16"}),
        asymmetric=False,
        loader=None,
        triton=None,
        model_server=False,
        runs_torch=True,
    )

    def status(self) -> Status:
        """Runs wherever torch and diffusers are installed."""
        number = machine.packages.version("torch")
        on_gpu = driver.torch_on_gpu()
        cpu = f"{machine.cpu.cpu_name()}, {machine.cpu.cores()} cores"
        device = machine.gpu.gpus()[0].name if on_gpu else cpu
        if number is None or machine.packages.version("diffusers") is None:
            reason = "torch and diffusers are not installed: pip install diffc"
            return Status(False, False, False, reason, {}, device)
        reason = driver.old_driver("torch") if on_gpu else ""  # torch would take the CPU, silently
        return Status(True, True, not reason, reason, {"torch": number}, device)

    def precisions(self) -> frozenset[str]:
        """Those that torch casts a model to."""
        return frozenset(_DTYPES)

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """Write down what to load; nothing is loaded yet."""
        model = read_onnx(folder)
        precision = engine.asked_precision(model, options.precision, self.facts.hinted)
        if precision not in _DTYPES:
            raise RequestError(f"target '{NAME}' does not compute in {precision}")
        variant = options.variant or VARIANTS[0]
        if variant not in VARIANTS:
            raise unknown("variant of torch", variant, VARIANTS)
        machine.cpu.check_threads(options.threads)
        served = shapes.profiles(model, options)
        yield Progress(0, 1, "nothing to build")
        source = _source(_model(folder, options.model))
        with engine.new_engine_folder(out) as new:
            info = engine.EngineInfo(
                target=NAME,
                versions=dict(self.status().versions),
                device=_device(),
                inputs=model.inputs,
                outputs=model.outputs,
                precision_asked=precision,
                precision_found=precision,
                precision_shares={precision: 1.0},
                profiles=tuple(served),
                threads=options.threads,
                source=model.content,
                engine_bytes=sum(path.stat().st_size for path in source.weights),
                details={"model": source.name, "digest": source.digest, "variant": variant},
            )
            return engine.write_info(new, info)

    def load(self, folder: Path, threads: int | None = None) -> LoadedEngine:
        """The denoiser in the engine's precision, on the GPU where there is one."""
        info = engine.open_engine(folder, NAME, {})
        if not self.status().runnable:
            raise UnavailableError(f"target '{NAME}' cannot run here: {self.status().reason}")
        import torch

        from diffc.models.load import load_denoiser

        if info.details["variant"] == "graphs" and not torch.cuda.is_available():
            raise UnavailableError(f"target '{NAME}': CUDA graphs need an NVIDIA GPU")
        source = _source(info.details["model"])
        if source.digest != info.details["digest"]:
            raise InputError(
                f"{source.folder} was cut or altered since {folder} was built from it",
                hint="build the engine again",
            )
        return TorchEngine(load_denoiser(source), info, machine.cpu.threads(threads, info.threads))


def _device() -> dict[str, str]:
    return machine.gpu.gpu_fingerprint() if driver.torch_on_gpu() else machine.cpu.cpu_fingerprint()


def _source(model: str) -> Source:
    from diffc.models.loras.files import find_with_loras

    return find_with_loras(model)


def _model(folder: Path, given: str | None) -> str:
    """What to load: as given, else OUT/model for OUT/onnx/compressed."""
    beside = folder.parent.parent / "model"
    if given is None and folder.name == "compressed" and beside.is_dir():
        return str(beside.resolve())
    if given is None:
        hint = "say which model it is: the target runs torch, not the ONNX file"
        raise RequestError(f"target '{NAME}' cannot tell the torch model of {folder}", hint=hint)
    return given


class TorchEngine:
    """See diffc_export.targets.base.LoadedEngine. Tests give a denoiser's module directly."""

    def __init__(self, model: nn.Module, info: engine.EngineInfo, threads: int) -> None:
        import torch

        from diffc.models.families import family

        torch.set_num_threads(threads)
        if info.precision_asked == "fp32":
            _forbid_tf32()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = getattr(torch, _DTYPES[info.precision_asked])
        self._on_gpu = self._device == "cuda"
        self.info = info.with_details(timed_by=cuda.EVENTS if self._on_gpu else cuda.CLOCK)
        self.settle = 0.0 if self._on_gpu else SPINNING
        with out_of_memory(f"loading a {type(model).__name__} into torch", self._on_gpu):
            self._model: Any = _cast(model, self._device, self._dtype)
        if info.details.get("variant") == "compiled":
            mode = "max-autotune" if self._device == "cuda" else "default"
            if not self._on_gpu:
                _check_compiler()
            self._model = torch.compile(self._model, mode=mode, dynamic=False)
        self._family = family(str(info.source["class_name"]))
        self._bound: dict[shapes.Call, TorchCall] = {}

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once; the output comes back in float32. A graph's buffers are kept by shape."""
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        if call not in self._bound:
            self._bound[call] = self.bind(inputs)
        self._bound[call].write(inputs)
        self._bound[call].run()
        return self._bound[call].outputs()

    def bind(self, inputs: Arrays) -> TorchCall:
        """Tensors on the device, floats but the timestep in the engine's precision."""
        import torch

        from diffc.models.inputs import input_dtype

        shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        tensors: dict[str, Any] = {}

        def call() -> Any:
            return self._family.call(self._model, tensors)

        with out_of_memory(shapes.call_words(NAME, inputs), self._on_gpu):
            for name, array in inputs.items():
                tensor = torch.tensor(array, device=self._device)  # a copy: it is written to
                tensors[name] = tensor.to(input_dtype(name, tensor.dtype, self._dtype))
            captured = Captured(call) if self.info.details.get("variant") == "graphs" else None
        return TorchCall(captured or call, tensors, self.info)

    def allocator_bytes(self) -> int | None:
        """torch's own peak on the GPU; None on a CPU, where it keeps no count."""
        import torch

        return int(torch.cuda.max_memory_allocated()) if self._device == "cuda" else None

    def close(self) -> None:
        """Free the model, and on a GPU what torch keeps of it for itself."""
        import torch

        self._bound.clear()
        del self._model
        if self._on_gpu:
            torch.cuda.empty_cache()


def _forbid_tf32() -> None:
    """fp32 means fp32, as in every other target: torch's convolutions are in TF32 by default."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _cast(model: nn.Module, device: str, dtype: Any) -> nn.Module:
    """On the device, in the precision, in eval mode; diffusers' own ``to`` warns on every cast."""
    from torch import nn

    return nn.Module.to(model, device, dtype).eval()


class Captured:
    """A forward pass as one CUDA graph, after the warm-up that a capture asks for."""

    def __init__(self, call: Callable[[], Any]) -> None:
        import torch

        cuda: Any = torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side), torch.inference_mode():
            for _ in range(_WARM_UP):  # libraries choose their kernels and allocate
                call()
        cuda.current_stream().wait_stream(side)
        self._graph = cuda.CUDAGraph()
        with cuda.graph(self._graph), torch.inference_mode():
            self._output = call()

    def __call__(self) -> Any:
        """Replay; the output is the same memory each time."""
        self._graph.replay()
        return self._output


class TorchCall:
    """A forward pass; timed by GPU events on a GPU and by the clock on a CPU."""

    def __init__(
        self, call: Callable[[], Any], tensors: Mapping[str, Any], info: engine.EngineInfo
    ) -> None:
        self._call = call
        self._tensors = tensors
        self._doing = shapes.call_words(NAME, tensors)
        self._name = info.outputs[0].name
        self._output: Any = None

    def write(self, inputs: Arrays) -> None:
        """Copy new inputs of the same shapes into the same tensors."""
        import torch

        with torch.inference_mode():
            for name, array in inputs.items():
                self._tensors[name].copy_(torch.as_tensor(array))

    def run(self) -> float:
        """One call, in seconds. Raises UnavailableError where torch.compile does not work."""
        import torch

        on_gpu = torch.cuda.is_available()
        with out_of_memory(self._doing, on_gpu), torch.inference_mode(), _compiling():
            if not on_gpu:
                start = time.perf_counter()
                self._output = self._call()
                return time.perf_counter() - start
            event: Any = torch.cuda.Event
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record()
            self._output = self._call()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3

    def outputs(self) -> dict[str, Array]:
        """What the last run gave."""
        return {self._name: self._output.float().cpu().numpy()}


@contextmanager
def _compiling() -> Iterator[None]:
    """torch.compile's own failures, in one line: a C++ compiler that is missing, say."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        words = in_short(error) or type(error).__name__
        hint = "on a CPU it needs a C++ compiler; the eager variant needs none"
        raise UnavailableError(f"torch.compile does not work here: {words}", hint=hint) from None


def _check_compiler() -> None:
    """Raise UnavailableError without a C++ compiler: torch itself looks for it after tracing."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler
    except ImportError:  # a torch that has it elsewhere finds out at the first call
        return
    with _compiling():
        get_cpp_compiler()


TARGET = TorchTarget()
