"""trt: TensorRT, 10.9 and later, and 11. Builds for the GPU at hand, and needs one to build."""

from __future__ import annotations

from diffc_export.targets.trt_builder import Flavour
from diffc_export.targets.trt_target import TrtTarget

TARGET = TrtTarget(
    Flavour(
        target="trt",
        module="tensorrt",
        packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        extra="trt",
        ahead_of_time=False,
        minimum=(10, 9),
        minimum_sm={"bf16": 80, "int8": 75, "fp8": 89, "fp4": 100},
    )
)
