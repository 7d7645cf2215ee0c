"""torch: the model as people run it today, eager or compiled; the baseline of every engine.

Its engine folder holds no file, only what to load: a pipeline folder, hub id or ``demo``, or the
OUT/model folder beside the ONNX folder. Needs the training packages; the other targets do not.
On a GPU, ``compiled`` is torch.compile's ``max-autotune``, which captures CUDA graphs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffc.errors import RequestError, UnavailableError, unknown
from diffc.events import Progress, Work
from diffc.targets import engine, machine, shapes
from diffc.targets.base import Array, Arrays, BuildOptions, Runner, Status
from diffc.targets.onnx_file import read_onnx

if TYPE_CHECKING:
    from torch import nn

NAME = "torch"
VARIANTS = ("eager", "compiled")
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchTarget:
    """See diffc.targets.base.Target."""

    name = NAME
    hinted = frozenset({"fp16", "bf16"})

    def status(self) -> Status:
        """Runs wherever torch and diffusers are installed."""
        number = machine.version("torch")
        gpu = next(iter(machine.gpus()), None)
        device = gpu.name if gpu else f"{machine.cpu_name()}, {machine.cores()} cores"
        if number is None or machine.version("diffusers") is None:
            reason = "torch and diffusers are not installed: pip install diffc"
            return Status(False, False, False, reason, {}, device)
        return Status(True, True, True, "", {"torch": number}, device)

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """Write down what to load; nothing is loaded yet."""
        model = read_onnx(folder)
        asked = engine.asked_precision(model, options.precision, self.hinted)
        if asked not in _DTYPES:
            raise RequestError(f"target '{NAME}' does not compute in {asked}")
        variant = options.variant or VARIANTS[0]
        if variant not in VARIANTS:
            raise unknown("variant of torch", variant, VARIANTS)
        served = shapes.profiles(model, options)
        yield Progress(0, 1, "nothing to build")
        with engine.new_engine_folder(out) as new:
            info = engine.EngineInfo(
                target=NAME,
                versions=dict(self.status().versions),
                device=machine.gpu_fingerprint() or machine.cpu_fingerprint(),
                inputs=model.inputs,
                outputs=model.outputs,
                precision_asked=asked,
                precision_found=asked,
                precision_shares={asked: 1.0},
                profiles=tuple(served),
                threads=options.threads or machine.cores(),
                source=model.content,
                details={"model": _model(folder, options.model), "variant": variant},
            )
            return engine.write_info(new, info)

    def load(self, folder: Path, threads: int | None = None) -> Runner:
        """The denoiser in the engine's precision, on the GPU where there is one."""
        info = engine.open_engine(folder, NAME, {})
        if not self.status().runnable:
            raise UnavailableError(self.status().reason)
        from diffc.models.load import load_denoiser
        from diffc.models.source import find

        denoiser = load_denoiser(find(info.details["model"]))
        return TorchRunner(denoiser, info, threads or info.threads or machine.cores())


def _model(folder: Path, given: str | None) -> str:
    """What to load: as given, else OUT/model for OUT/onnx/compressed."""
    beside = folder.parent.parent / "model"
    if given is None and folder.name == "compressed" and beside.is_dir():
        return str(beside.resolve())
    if given is None:
        hint = "say which model it is: the target runs torch, not the ONNX file"
        raise RequestError(f"target '{NAME}' cannot tell the torch model of {folder}", hint=hint)
    return given


class TorchRunner:
    """See diffc.targets.base.Runner. A denoiser's module can be given directly, as tests do."""

    def __init__(self, model: nn.Module, info: engine.EngineInfo, threads: int) -> None:
        import torch

        from diffc.models.families import family

        torch.set_num_threads(threads)
        self.info = info
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = getattr(torch, _DTYPES[info.precision_asked])
        self._model: Any = _cast(model, self._device, self._dtype)
        if info.details.get("variant") == "compiled":
            mode = "max-autotune" if self._device == "cuda" else "default"
            self._model = torch.compile(self._model, mode=mode)
        self._family = family(str(info.source["class_name"]))

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once; the output comes back in float32."""
        bound = self.bind(inputs)
        bound.run()
        return bound.outputs()

    def bind(self, inputs: Arrays) -> TorchBound:
        """Tensors on the device, floats in the engine's precision."""
        import torch

        shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        tensors = {}
        for name, array in inputs.items():
            tensor = torch.as_tensor(array, device=self._device)
            tensors[name] = tensor.to(self._dtype) if tensor.is_floating_point() else tensor
        return TorchBound(lambda: self._family.call(self._model, tensors), self.info)

    def close(self) -> None:
        """Free the model."""
        del self._model


def _cast(model: nn.Module, device: str, dtype: Any) -> nn.Module:
    """On the device, in the precision, in eval mode; diffusers' own ``to`` warns on every cast."""
    from torch import nn

    return nn.Module.to(model, device, dtype).eval()


class TorchBound:
    """A forward pass; timed by GPU events on a GPU and by the clock on a CPU."""

    def __init__(self, call: Any, info: engine.EngineInfo) -> None:
        self._call = call
        self._name = info.outputs[0].name
        self._output: Any = None

    def run(self) -> float:
        """One call, in seconds."""
        import torch

        with torch.inference_mode():
            if not torch.cuda.is_available():
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


TARGET = TorchTarget()
