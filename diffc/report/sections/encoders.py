"""The encoders of texts and images: engines, their precision, and how close they are to torch."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import count, size

_VAE_ENCODER = "vae encoder"
_HEADS = ("", "parameters", "engine", "precision", "size", "error to torch")


def _build(report: Report) -> Iterator[Notes | Table]:
    encoders = [] if report.texts is None else list(report.texts.encoders)
    if report.vae_encoder is not None:
        encoders.append(report.vae_encoder.model_copy(update={"name": _VAE_ENCODER}))
    rows = []
    for encoder in encoders:
        params = "" if encoder.params is None else count(encoder.params)
        rows += [
            (
                encoder.name,
                params,
                engine.target,
                engine.precision or "",
                "" if engine.bytes is None else size(engine.bytes),
                "not measured" if engine.error is None else f"{engine.error:.1e}",
            )
            for engine in encoder.engines
        ] or [(encoder.name, params, "none", "", "", "")]
    if rows:
        yield Table(rows, _HEADS)
    notes = [] if report.texts is None else list(report.texts.notes)
    for encoder in encoders:
        notes += [f"{encoder.name}: {note}" for e in encoder.engines for note in e.notes]
    if notes or rows:
        yield Notes(notes)


SECTION = Section("Encoders of texts and images", 95, _build)
