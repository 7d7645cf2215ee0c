"""A stand-in for libcudart: its statuses, its words, its memory and what is captured in a graph.

Work "on the GPU" is a function given to ``do``: done at once, or kept while a capture is on.
"""

import ctypes
import itertools

from diffc_runtime.machine import cuda, nvml

GIB = 1 << 30
ADDRESSES = itertools.count(4096, 4096)
NO_MEMORY, TOO_OLD, BUSY, NO_DEVICE, UNCAPTURABLE, INVALIDATED = 2, 35, 46, 100, 900, 901
WORDS = {
    NO_MEMORY: b"out of memory",
    TOO_OLD: b"CUDA driver version is insufficient for CUDA runtime version",
    BUSY: b"CUDA-capable device(s) is/are busy or unavailable",
    NO_DEVICE: b"no CUDA-capable device is detected",
    UNCAPTURABLE: b"operation not permitted when stream is capturing",
    INVALIDATED: b"operation failed due to a previous error during capture",
}


class FakeRuntime:
    """libcudart. statuses: call -> the status that it gives; memory is counted.

    contents: address -> what was copied there. capturing: the work of the capture that is on.
    """

    def __init__(self, driver=13000, total=8 * GIB):
        self.statuses, self.driver, self.total = {}, driver, total
        self.held, self.made, self.cleared = {}, set(), 0
        self.contents, self.graphs, self.capturing, self.valid = {}, [], None, True

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *_: self.statuses.get(name, 0)

    def cudaGetErrorString(self, status):
        return WORDS[status]

    def cudaGetLastError(self):
        self.cleared += 1
        return 0

    def cudaDriverGetVersion(self, pointer):
        pointer._obj.value = self.driver
        return 0

    def cudaRuntimeGetVersion(self, pointer):
        pointer._obj.value = 13050
        return 0

    def cudaMemGetInfo(self, free, total):
        free._obj.value, total._obj.value = self.total - sum(self.held.values()), self.total
        return self.statuses.get("cudaMemGetInfo", 0)

    def cudaMalloc(self, pointer, size):
        if sum(self.held.values()) + size.value > self.total:
            return NO_MEMORY
        pointer._obj.value = next(ADDRESSES)
        self.made.add(pointer._obj.value)
        self.held[pointer._obj.value] = size.value
        return 0

    def cudaMemcpyAsync(self, goal, source, size, kind, stream):
        if kind == 1:
            self.contents[goal.value] = ctypes.string_at(source.value, size.value)
        else:
            ctypes.memmove(goal.value, self.contents[source.value], size.value)
        return 0

    def cudaStreamCreateWithFlags(self, pointer, flags):
        pointer._obj.value = 77
        return self.statuses.get("cudaStreamCreateWithFlags", 0)

    def cudaEventElapsedTime(self, elapsed, start, end):
        elapsed._obj.value = 2.0
        return 0

    def do(self, work):
        """Work for the GPU."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def cudaStreamBeginCapture(self, stream, mode):
        status = self.statuses.get("cudaStreamBeginCapture", 0)
        self.capturing, self.valid = (None, False) if status else ([], True)
        return status

    def cudaStreamEndCapture(self, stream, graph):
        work, self.capturing = self.capturing, None
        if not self.valid:
            return INVALIDATED
        self.graphs.append(work)
        graph._obj.value = len(self.graphs)
        return 0

    def cudaGraphInstantiate(self, launch, graph, flags):
        launch._obj.value = graph.value
        return self.statuses.get("cudaGraphInstantiate", 0)

    def cudaGraphLaunch(self, launch, stream):
        for work in self.graphs[launch.value - 1]:
            work()
        return 0

    def cudaFree(self, pointer):
        if pointer.value in self.made:  # not a buffer that another test left to the collector
            del self.held[pointer.value]
        return 0


def installed(monkeypatch, runtime):
    """``runtime`` in libcudart's place, nobody else on the GPU."""
    monkeypatch.setattr(cuda, "_runtime", lambda: runtime)
    monkeypatch.setattr(nvml, "others", list)
    return runtime
