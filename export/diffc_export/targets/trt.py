"""trt: TensorRT, 10.9 and later, and 11. Builds for the GPU at hand, and needs one to build."""

from __future__ import annotations

from diffc_export.targets.base import TENSOR_CORES, TargetFacts, TritonBackend
from diffc_export.targets.trt_builder import Flavour
from diffc_export.targets.trt_target import TrtTarget
from diffc_runtime.machine.packages import TENSORRT

_FACTS = TargetFacts(
    name="trt",
    device="gpu",
    packages=TENSORRT,
    requires=("tensorrt",),
    libraries=("tensorrt",),
    alignment=TENSOR_CORES,
    ahead_of_time=False,
    graphs="always",
    hinted=frozenset(),
    asymmetric=False,
    loader="diffc_runtime.loaders.trt",
    triton=TritonBackend(platform="tensorrt_plan", file="model.plan", any_batch=False),
    model_server=False,
    runs_torch=False,
)

TARGET = TrtTarget(
    Flavour(
        facts=_FACTS,
        packages=TENSORRT,
        extra="trt",
        minimum=(10, 9),
        minimum_sm={"bf16": 80, "int8": 75, "fp8": 89, "fp4": 100},
    )
)
