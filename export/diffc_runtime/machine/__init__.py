"""This machine, as far as an engine depends on it. No runtime is imported, and nothing installed.

cpu.py             cores, threads, the processor's name and instruction sets
gpu.py             the NVIDIA GPUs that this process may use, from nvidia-smi
packages.py        versions of installed distributions
driver.py          whether there is a driver, and whether it is new enough
nvml.py            memory and processes of a GPU, from the driver's own library
cuda.py            buffers, streams, events and graphs, through libcudart
cuda_libraries.py  CUDA's libraries, loaded from where Python packages keep them
memory.py          this process's memory, now and at its peak
out_of_memory.py   one error for memory that ran out, in any runtime's words
"""

from __future__ import annotations

from . import cpu as cpu
from . import gpu as gpu
from . import packages as packages
