"""trt-rtx: TensorRT for RTX. Engines are built ahead of time, without a GPU or driver.

Default GPUs: compute capability 8.0 and later, in one engine; ``--gpu sm86,sm89`` names them (75,
80, 86, 89, 120, 121 are known to version 1.7).
"""

from __future__ import annotations

from diffc_export.targets.trt_builder import Flavour
from diffc_export.targets.trt_target import TrtTarget

TARGET = TrtTarget(
    Flavour(
        target="trt-rtx",
        module="tensorrt_rtx",
        packages=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
        extra="rtx",
        ahead_of_time=True,
        minimum=(1, 2),
        minimum_sm={"bf16": 80, "int8": 86, "fp8": 89, "fp4": 120},
    )
)
