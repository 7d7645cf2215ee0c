"""The steps of ``bench.full_size`` that write a network in int8.

Calls are few and small: what is looked at is the memory, and how the layers in fp32 are chosen.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TRAJECTORIES, KEEP_MOST = 1, 1.0
"""To calibrate on; random weights may need more layers in fp32 than trained ones."""


def reference(_name: str, folder: Path) -> dict[str, Any]:
    """What torch gives at noisy samples and along a trajectory, which int8 is calibrated on."""
    from bench.peers.models import smooth_set
    from diffc.measure.reference import write_reference
    from diffc.models.denoiser import denoiser_of
    from diffc.models.families import family as family_of
    from diffc.models.mapped import mapped_denoiser
    from diffc.models.source import find_source
    from diffc_export.targets.onnx_file import REFERENCE

    source = find_source(folder / "model")
    family = family_of(source.class_name)
    with mapped_denoiser(source) as model:
        denoiser = denoiser_of(model, family, source.scheduler)
        clean = smooth_set(family.specs(model.config), source.config)
        write_reference(folder / "fp32" / REFERENCE, denoiser, clean, 0)
    return {}


def int8(_name: str, folder: Path) -> dict[str, Any]:
    """The int8 file of the fp32 one, and how many of its layers stay in fp32."""
    import onnx

    from diffc_export.events import follow
    from diffc_export.onnx.layer_macs import OPERATORS
    from diffc_export.onnx.quantize import QuantizeOptions, quantize
    from diffc_export.targets.onnx_file import MODEL, read_onnx

    options = QuantizeOptions(trajectories=TRAJECTORIES, keep_most=KEEP_MOST)
    notes = dict[str, None]()

    def note(event: Any) -> None:
        if event.note not in notes:
            notes[event.note] = None
            print(event.note, file=sys.stderr, flush=True)

    facts = follow(quantize(folder / "fp32", folder / "int8", options), note)
    graph = onnx.load(folder / "fp32" / MODEL, load_external_data=False).graph
    return {
        "bytes": sum(path.stat().st_size for path in read_onnx(folder / "int8").files),
        "layers": sum(node.op_type in OPERATORS for node in graph.node),
        "kept_fp32": len(facts["kept_fp32"]),
        "kept_fp32_by": facts.get("kept_fp32_by"),
        "error": facts["int8_error"],
        "tolerance": options.tolerance,
    }


def int8_shares(out: Path) -> dict[str, float]:
    """Stage that writes an int8 file -> bytes of that over those of the file in fp32."""
    sizes = {
        (folder.parent.name, folder.name): sum(p.stat().st_size for p in folder.glob("model.onnx*"))
        for folder in (*out.glob("onnx/int8*/*"), out / "onnx/dense", out / "onnx/compressed")
    }
    return {
        f"precision-{written}-{side}": size / sizes["onnx", side]
        for (written, side), size in sizes.items()
        if written.startswith("int8")
    }
