"""This process's GPU memory, from a stand-in for NVIDIA's library."""

import ctypes

import pytest

from diffc_runtime.machine.nvml import (
    MigSlice,
    OtherProcess,
    busy,
    device_memory,
    driver_cuda,
    others,
    process_bytes,
    slices,
    words,
)

OK, NOT_FOUND, TOO_SMALL, NOT_SUPPORTED = 0, 6, 7, 3
GIB = 1 << 30
NOT_AVAILABLE = 2**64 - 1


class FakeNvml:
    """Answers as libnvidia-ml does: a list's length first, then the list."""

    def __init__(self, compute=(), graphics=(), grows=0, status=OK, **facts):
        self.facts = {"percent": 0, "cuda": 13000, "mig": None, **facts}
        self._lists = {"Compute": list(compute), "Graphics": list(graphics)}
        self._grows, self._status = grows, status
        self.nvmlDeviceGetComputeRunningProcesses_v3 = self._call("Compute")
        self.nvmlDeviceGetGraphicsRunningProcesses_v3 = self._call("Graphics")

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = 1
        return OK if index == 0 else NOT_SUPPORTED

    def nvmlSystemGetCudaDriverVersion_v2(self, number):
        number._obj.value = self.facts["cuda"]
        return OK

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        number = handle.value
        total = 80 * GIB if number == 1 else (number - 9) * 10 * GIB
        memory._obj.total, memory._obj.used, memory._obj.free = total, GIB, total - GIB
        return OK

    def nvmlDeviceGetUtilizationRates(self, handle, rates):
        rates._obj.gpu = self.facts["percent"]
        return OK

    def nvmlDeviceGetMigMode(self, handle, now, later):
        now._obj.value = later._obj.value = self.facts["mig"] is not None
        return OK

    def nvmlDeviceGetMaxMigDeviceCount(self, handle, most):
        most._obj.value = 7
        return OK

    def nvmlDeviceGetMigDeviceHandleByIndex(self, parent, index, handle):
        if index not in self.facts["mig"]:
            return NOT_FOUND
        handle._obj.value = 10 + index
        return OK

    def nvmlDeviceGetName(self, handle, name, length):
        name.value = self.facts["mig"][handle.value - 10].encode()
        return OK

    def _call(self, kind):
        def call(handle, count, processes):
            if self._status != OK:
                return self._status
            held = self._lists[kind]
            room = count._obj.value
            count._obj.value = len(held)
            if not held:
                return OK
            if processes is None or room < len(held):
                if self._grows:  # others start between the two calls
                    held += [(9000 + i, 1) for i in range(20)]
                    self._grows -= 1
                return TOO_SMALL
            for i, (pid, used) in enumerate(held):
                processes[i].pid, processes[i].used = pid, used
            return OK

        return call


def read(library, pid=7, device=0):
    return process_bytes(device, library=library, pid=pid)


def test_this_process_is_found_among_others():
    assert read(FakeNvml([(3, 111), (7, 222 << 30), (8, 333)])) == 222 << 30


def test_a_process_in_both_lists_counts_once():
    assert read(FakeNvml([(7, 500)], [(7, 500)])) == 500


def test_processes_that_start_meanwhile():
    assert read(FakeNvml([(7, 500)], grows=1)) == 500


def test_what_is_not_known_is_none():
    assert read(FakeNvml([(3, 111)])) is None  # a container: another number for this process
    assert read(FakeNvml([(7, NOT_AVAILABLE)])) is None
    assert read(FakeNvml(status=NOT_SUPPORTED)) is None
    assert read(FakeNvml([(7, 1)]), device=1) is None


def test_the_structure_is_the_drivers():
    """nvmlProcessInfo_v2_t of nvml.h: unsigned, (padding), unsigned long long, two unsigned."""
    from diffc_runtime.machine.nvml import _Process

    assert ctypes.sizeof(_Process) == 24
    offsets = [getattr(_Process, name).offset for name, _ in _Process._fields_]
    assert offsets == [0, 8, 16, 20]


def test_a_machine_without_the_library_says_none():
    from diffc_runtime import machine

    if not machine.gpu.gpus():
        assert process_bytes() is None


def test_the_drivers_cuda_and_the_devices_memory():
    assert driver_cuda(FakeNvml(cuda=12020)) == (12, 2)
    assert device_memory(0, FakeNvml()) == (79 * GIB, 80 * GIB)
    assert device_memory(5, FakeNvml()) is None


def test_the_gpu_is_the_first_that_is_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert device_memory(None, FakeNvml()) is None  # the stand-in has number 0 alone
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert device_memory(None, FakeNvml()) is not None


def test_other_processes_are_those_that_compute():
    found = FakeNvml([(7, 5), (3, 2 * GIB), (9, NOT_AVAILABLE)], [(4, 300)])
    assert others(0, found, pid=7) == [OtherProcess(3, 2 * GIB), OtherProcess(9, None)]
    assert others(0, FakeNvml(), pid=7) == []


def test_in_a_container_one_of_the_processes_may_be_this_one():
    found = FakeNvml([(3, 100), (4, 100)])
    assert others(0, found, pid=7, mine=True) is None
    assert others(0, found, pid=7, mine=False) == [OtherProcess(3, 100), OtherProcess(4, 100)]


def test_a_busy_device_is_said():
    held = FakeNvml([(3, 10 * GIB), (4, GIB), (5, NOT_AVAILABLE), (6, 2 * GIB)])
    assert busy(0, held, mine=False) == (
        "process 3 holds 10.0 GiB of it, process 6 holds 2.0 GiB of it, "
        "process 4 holds 1.0 GiB of it, and 1 more"
    )
    assert busy(0, FakeNvml(percent=93), mine=False) == "it is 93 % busy"
    assert busy(0, FakeNvml(percent=93), mine=True) is None  # it may be us
    assert busy(0, FakeNvml(percent=2), mine=False) is None
    assert words([OtherProcess(9, None)]) == "process 9 uses it"


def test_mig_slices_with_empty_places_between():
    cut = FakeNvml(mig={0: "NVIDIA H100 MIG 1g.10gb", 3: "NVIDIA H100 MIG 3g.40gb"})
    assert slices(0, cut) == (
        MigSlice("NVIDIA H100 MIG 1g.10gb", 10 * GIB),
        MigSlice("NVIDIA H100 MIG 3g.40gb", 40 * GIB),
    )
    assert slices(0, FakeNvml()) is None
    assert slices(0, FakeNvml(mig={})) == ()


def test_a_driver_that_knows_no_mig():
    class Old(FakeNvml):
        nvmlDeviceGetMigMode = None

    assert slices(0, Old()) is None


@pytest.mark.parametrize(("name", "size"), [("_Memory", 24), ("_Utilization", 8)])
def test_the_other_structures_are_the_drivers(name, size):
    from diffc_runtime.machine import nvml

    assert ctypes.sizeof(getattr(nvml, name)) == size
