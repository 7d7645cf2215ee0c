"""bf16 is chosen where it is faster, not wherever the instructions exist."""

from __future__ import annotations

import pytest
import torch

from diffc.data import precision


@pytest.mark.parametrize(
    ("amx", "avx512", "vendor", "expected"),
    [
        (True, True, "GenuineIntel", torch.bfloat16),
        (False, True, "AuthenticAMD", torch.bfloat16),
        (False, True, "GenuineIntel", torch.float32),  # measured: half again as slow as fp32
        (False, False, "AuthenticAMD", torch.float32),
    ],
)
def test_the_fast_type_of_a_processor(monkeypatch, amx, avx512, vendor, expected) -> None:
    has = {"_is_amx_tile_supported": amx, "_is_avx512_bf16_supported": avx512}
    monkeypatch.setattr(precision, "_supports", has.__getitem__)
    monkeypatch.setattr(precision, "cpu_vendor", lambda: vendor)
    assert precision.fast_dtype(torch.device("cpu")) == expected


def test_the_vendor_is_the_processors_own_word() -> None:
    assert precision.cpu_vendor() in ("AuthenticAMD", "GenuineIntel", "")
