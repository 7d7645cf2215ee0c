"""A stand-in for libcudart: its statuses, its words, its memory, and whether a capture is on."""

from diffc.targets import cuda, nvml

GIB = 1 << 30
NO_MEMORY, TOO_OLD, BUSY, NO_DEVICE = 2, 35, 46, 100
WORDS = {
    NO_MEMORY: b"out of memory",
    TOO_OLD: b"CUDA driver version is insufficient for CUDA runtime version",
    BUSY: b"CUDA-capable device(s) is/are busy or unavailable",
    NO_DEVICE: b"no CUDA-capable device is detected",
}


class FakeRuntime:
    """libcudart: each call's status, in order; memory is counted."""

    def __init__(self, driver=13000, total=8 * GIB):
        self.statuses, self.driver, self.total = {}, driver, total
        self.held, self.cleared = {}, 0

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
        pointer._obj.value = 4096 * (len(self.held) + 1)
        self.held[pointer._obj.value] = size.value
        return 0

    def cudaFree(self, pointer):
        del self.held[pointer.value]
        return 0


def installed(monkeypatch, runtime):
    """``runtime`` in libcudart's place, nobody else on the GPU."""
    monkeypatch.setattr(cuda, "_runtime", lambda: runtime)
    monkeypatch.setattr(nvml, "others", list)
    return runtime
