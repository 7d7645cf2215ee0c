"""Exports of the chain, traced once in a session: a torch export takes seconds for any network.

Most chains of the tests begin with the same tiny model, and torch would trace it anew in each. Here
the stages' ``export_denoiser`` keeps what it has written, by all that the files depend on. Tests of
the export itself import the function directly, and get it as it is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.shared import make_once


@contextmanager
def exports_shared(factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all chains of this session share the folders that ``export_denoiser`` has written."""
    from diffc.models import onnx_export

    export = onnx_export.export_denoiser

    def shared(model, family, specs, folder, *, facts=None, **options):
        def make(new: Path) -> None:
            described = export(model, family, specs, new / "onnx", facts=facts, **options)
            (new / "described.json").write_text(json.dumps(described))

        key = digest_of(model, family, specs, facts, options)
        kept = make_once(factory, f"export-{key}", make)
        shutil.copytree(kept / "onnx", folder, dirs_exist_ok=True)
        return json.loads((kept / "described.json").read_text())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "export_denoiser", shared)
        yield


def digest_of(model: Any, family: Any, specs: Any, facts: Any, options: Any) -> str:
    """A hash of the network with its weights, its processors and how it is exported."""
    import torch

    config = sorted(dict(getattr(model, "config", {})).items())
    processors = [type(getattr(module, "processor", None)).__name__ for module in model.modules()]
    described = (
        type(model).__qualname__, repr(model), processors, config,
        type(family).__qualname__, list(specs), facts, sorted(options.items()),
    )  # fmt: skip
    digest = hashlib.sha256(repr(described).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:24]
