"""bf16 is chosen where it is faster, not wherever the instructions exist."""

from __future__ import annotations

import pytest
import torch

from diffc.data import precision
from diffc_runtime import machine

XEON = "avx512f avx512_bf16"


@pytest.mark.parametrize(
    ("flags", "vendor", "expected"),
    [
        (f"{XEON} amx_tile amx_bf16", "GenuineIntel", torch.bfloat16),
        (XEON, "AuthenticAMD", torch.bfloat16),
        (XEON, "GenuineIntel", torch.float32),  # measured: half again as slow as fp32
        ("avx512f", "AuthenticAMD", torch.float32),
        ("", "", torch.float32),
    ],
)
def test_the_fast_type_of_a_processor(monkeypatch, flags, vendor, expected) -> None:
    monkeypatch.setattr(machine.cpu, "cpu_info", lambda: {"flags": flags, "vendor_id": vendor})
    assert precision.fast_dtype(torch.device("cpu")) == expected
