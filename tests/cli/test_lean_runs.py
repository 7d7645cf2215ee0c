"""What a run imports before a stage works: one whose stages are all reused imports no more."""

from __future__ import annotations

import subprocess
import sys

COMPUTING = {
    "torch",
    "diffusers",
    "onnx",
    "diffc.measure.engines",
    "diffc.bundle.build",
    "diffc_runtime.pipeline",
    "urllib.request",
}
"""What only a stage that works needs, or a bundle that is written."""


def test_the_order_of_the_stages_imports_nothing_that_computes():
    script = (
        "import sys\n"
        "import diffc.stages.order, diffc.bundle.contents, diffc.bundle.server\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    assert "diffc.stages.build_and_measure" in modules
    assert not modules & COMPUTING
