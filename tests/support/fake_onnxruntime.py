"""A stand-in for onnxruntime-gpu: one GPU, whose every engine gives twice its ``sample``.

What of it matters is like the real one: a session that was opened for CUDA graphs captures its
first run, and from then on replays that, on the first run's buffers, whatever is bound.
"""

import shutil
import sys
from types import ModuleType

import numpy as np

from diffc_runtime import machine

PROVIDER = "CUDAExecutionProvider"
GPU = machine.gpu.parse_gpu("NVIDIA A10G, 8.6, 570.86.15, 23028, 210, 1710")


class Fail(Exception):
    """Its failures are of classes of the extension module."""


Fail.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


class FakeSession:
    """opened: all of them, in order. refuses, fails: provider option -> why a session that asks
    for it does not open, or does not run. uses: the providers that a session says it has.
    """

    def __init__(self, path, options, providers, enable_fallback=1):
        self.fallback = bool(enable_fallback)
        self.options, self.settings = options, {**providers[0][1]}
        self.captured, self.runs = None, []
        self._raise(self.refuses)
        if options.optimized_model_filepath:
            shutil.copyfile(path, options.optimized_model_filepath)
        self.opened.append(self)

    def _raise(self, reasons):
        for option, reason in reasons.items():
            if self.settings.get(option) == "1":
                raise Fail(f"[ONNXRuntimeError] : 1 : FAIL : {reason}")

    def get_providers(self):
        return self.uses

    def disable_fallback(self):
        self.fallback = False

    def run(self, names, inputs, options=None):
        self._raise(self.fails)
        return [2 * inputs["sample"]]

    def io_binding(self):
        return FakeBinding()

    def run_with_iobinding(self, binding, options=None):
        self._raise(self.fails)
        self.runs.append(options)
        if self.settings["enable_cuda_graph"] == "1":
            self.captured = binding = self.captured or binding
        for output in binding.outputs.values():
            output.array[...] = 2 * binding.inputs["sample"].array


class FakeBinding:
    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_ortvalue_input(self, name, value):
        self.inputs[name] = value

    def bind_ortvalue_output(self, name, value):
        self.outputs[name] = value

    def synchronize_outputs(self):
        pass


class FakeValue:
    def __init__(self, array):
        self.array = array

    @classmethod
    def ortvalue_from_numpy(cls, array, device, index):
        return cls(array.copy())

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape, dtype, device, index):
        return cls(np.zeros(shape, dtype))

    def update_inplace(self, array):
        self.array[...] = array

    def numpy(self):
        return self.array.copy()


class FakeOptions:
    optimized_model_filepath = ""

    def __init__(self):
        self.entries = {}

    def add_session_config_entry(self, key, value):
        self.entries[key] = value

    add_run_config_entry = add_session_config_entry


def install(monkeypatch):
    """Put it in onnxruntime's place; returns the class of its sessions, fresh."""
    facts = {"opened": [], "refuses": {}, "fails": {}, "uses": [PROVIDER, "CPUExecutionProvider"]}
    Session = type("Session", (FakeSession,), facts)
    module = ModuleType("onnxruntime")
    module.InferenceSession, module.OrtValue = Session, FakeValue
    module.SessionOptions = module.RunOptions = FakeOptions
    module.GraphOptimizationLevel = type("Level", (), {"ORT_ENABLE_ALL": 99})
    module.set_default_logger_severity = lambda severity: None
    module.get_available_providers = lambda: [PROVIDER, "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(machine.packages, "version", {"onnxruntime-gpu": "1.32"}.get)
    monkeypatch.setattr(machine.gpu, "gpus", lambda: (GPU,))
    return Session
