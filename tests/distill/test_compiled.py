"""distill.compile: the same training through torch.compile, without a trace left behind.

The backend is PyTorch's own eager one: what is captured runs as it is, so results can be compared,
and nothing waits for a C++ compiler.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_training
from support.tiny_training import trained, weights

from diffc.distill.blocks import kept_channels
from diffc_export.events import drain

COMPILE = torch.nn.Module.compile


@pytest.fixture
def compiled_calls(monkeypatch):
    """Graphs that were captured."""
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph, _inputs):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: COMPILE(self, backend=backend))
    yield graphs
    torch._dynamo.reset()


def close(a, b) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiling_changes_nothing_but_speed(tmp_path: Path, compiled_calls) -> None:
    plain, _ = trained(tmp_path / "a")
    assert not compiled_calls
    student = tiny_training.unet(4, seed=1)
    judged: list[int] = []

    def judge(model) -> float:
        judged.append(len(compiled_calls))
        return 0.5

    drain(tiny_training.work(tmp_path / "b", student, judge=judge, compile=True, quality_every=3))
    close(weights(student), plain)
    assert sum(compiled_calls) > 100  # both networks, not a few stray operations
    assert len(judged) == 2
    assert student._compiled_call_impl is None


@pytest.mark.slow
def test_a_compiled_run_resumes_to_the_same_weights(tmp_path: Path, compiled_calls) -> None:
    whole, _ = trained(tmp_path / "whole", compile=True)
    work = tiny_training.work(tmp_path / "parts", compile=True)
    while next(work).done < 3:
        pass
    work.close()
    parts, result = trained(tmp_path / "parts", compile=True)
    assert result.resumed_from == 2
    close(parts, whole)


@pytest.mark.slow
def test_features_are_caught_in_compiled_models(tmp_path: Path, compiled_calls) -> None:
    kept = kept_channels(tiny_training.unet(8, seed=0), tiny_training.FAMILY, [], {})
    found = []
    for name, compiled in (("a", False), ("b", True)):
        student = tiny_training.unet(8, seed=1)
        changes = {"losses": {"output": 1.0, "features": 0.5}, "compile": compiled}
        drain(tiny_training.work(tmp_path / name, student, kept=kept, **changes))
        found.append(weights(student))
    assert compiled_calls
    close(*found)
