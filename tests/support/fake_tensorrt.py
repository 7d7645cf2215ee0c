"""A stand-in for TensorRT on the stand-in for CUDA: an engine that gives twice its ``sample``.

refuses: calls of a context that answer False. uncapturable: whether running it spoils a capture.
"""

from types import SimpleNamespace

import numpy as np

from diffc_export.targets.trt import TARGET
from diffc_runtime.libraries import tensorrt
from diffc_runtime.machine import cuda
from support.fake_cuda import FakeRuntime, installed


class FakeContext:
    def __init__(self, library):
        self.library, self.shapes, self.addresses, self.profile = library, {}, {}, None

    def _answer(self, call):
        if call in self.library.refuses:
            self.library.log.add(1, f"{call} says no")
        return call not in self.library.refuses

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return self._answer("set_optimization_profile_async")

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return self._answer("set_input_shape")

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return self._answer("set_tensor_address")

    def get_tensor_shape(self, name):
        return self.shapes["sample"]

    def execute_async_v3(self, stream):
        runtime = self.library.runtime
        if runtime.capturing is not None and self.library.uncapturable:
            runtime.valid = False
            self.library.log.add(1, "a loop cannot be captured")
            return False
        runtime.do(self._double)
        return self._answer("execute_async_v3")

    def _double(self):
        contents = self.library.runtime.contents
        sample = np.frombuffer(contents[self.addresses["sample"]], np.float32)
        contents[self.addresses["out_sample"]] = (2 * sample).tobytes()


class FakeLibrary:
    def __init__(self, monkeypatch):
        self.runtime = installed(monkeypatch, FakeRuntime())
        self.log = tensorrt.Log()
        self.refuses, self.uncapturable, self.contexts = set(), False, []
        self.inspected = "{}"

    def Runtime(self, logger):
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self)

    device_memory_size_v2 = 4096
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def create_execution_context(self):
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def create_engine_inspector(self):
        return SimpleNamespace(get_engine_information=lambda form: self.inspected)


def install(monkeypatch):
    """Put it in tensorrt's place, and the stand-in for CUDA in libcudart's."""
    library = FakeLibrary(monkeypatch)
    loaded = tensorrt.TrtLibrary(library, None, library.log)
    monkeypatch.setitem(tensorrt.LIBRARIES, TARGET.flavour.module, loaded)
    assert cuda.installed()
    return library
