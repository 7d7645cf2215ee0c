"""trt-rtx: TensorRT for RTX. Engines are built ahead of time, without a GPU or driver.

Default GPUs: compute capability 8.0 and later, in one engine; ``--gpu sm86,sm89`` names them (75,
80, 86, 89, 120, 121 are known to version 1.7).
"""

from __future__ import annotations

from dataclasses import replace

from diffc_export.targets.base import TENSOR_CORES, EngineMemory, TargetFacts
from diffc_export.targets.trt_builder import Flavour
from diffc_export.targets.trt_target import TrtTarget
from diffc_runtime.machine.packages import TENSORRT_RTX

_MEMORY = EngineMemory(built=2.17, library=560_000_000, opened=None)

_FACTS = TargetFacts(
    name="trt-rtx",
    device="gpu",
    packages=(*TENSORRT_RTX, "nvidia-cuda-runtime"),
    requires=("tensorrt-rtx-cu13", "nvidia-cuda-runtime"),
    libraries=("tensorrt_rtx",),
    alignment=TENSOR_CORES,
    ahead_of_time=True,
    graphs="always",
    hinted=frozenset(),
    asymmetric=False,
    loader="diffc_runtime.loaders.trt_rtx",
    triton=None,
    model_server=False,
    runs_torch=False,
    memory={
        **dict.fromkeys(("fp32", "fp16", "bf16", "fp8"), _MEMORY),
        "int8": replace(_MEMORY, built=2.7),
    },
)

TARGET = TrtTarget(
    Flavour(
        facts=_FACTS,
        packages=TENSORRT_RTX,
        extra="rtx",
        minimum=(1, 2),
        minimum_sm={"bf16": 80, "int8": 86, "fp8": 89, "fp4": 120},
    )
)
