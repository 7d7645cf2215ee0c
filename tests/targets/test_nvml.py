"""This process's GPU memory, from a stand-in for NVIDIA's library."""

import ctypes

from diffc.targets.nvml import process_bytes

OK, TOO_SMALL, NOT_SUPPORTED = 0, 7, 3
NOT_AVAILABLE = 2**64 - 1


class FakeNvml:
    """Answers as libnvidia-ml does: a list's length first, then the list."""

    def __init__(self, compute=(), graphics=(), grows=0, status=OK):
        self._lists = {"Compute": list(compute), "Graphics": list(graphics)}
        self._grows, self._status = grows, status
        self.nvmlDeviceGetComputeRunningProcesses_v3 = self._call("Compute")
        self.nvmlDeviceGetGraphicsRunningProcesses_v3 = self._call("Graphics")

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        return OK if index == 0 else NOT_SUPPORTED

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
    from diffc.targets.nvml import _Process

    assert ctypes.sizeof(_Process) == 24
    offsets = [getattr(_Process, name).offset for name, _ in _Process._fields_]
    assert offsets == [0, 8, 16, 20]


def test_a_machine_without_the_library_says_none():
    from diffc.targets import machine

    if not machine.gpus():
        assert process_bytes() is None
