"""Which engine of an output folder runs here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from diffc.bundle.contents import BundleContents, find_contents
from diffc.errors import DiffcError, unknown
from diffc.output import engine_folder
from diffc.stages.conditions import judged_conditions, null_conditions
from diffc_export.targets import target as target_of
from diffc_export.targets.engine import NAME
from diffc_runtime import Pipeline, open_engine
from diffc_runtime.bundles import (
    decoder_of,
    image_size,
    masked_decoder_of,
    pipeline_of,
    vae_encoder_of,
)
from diffc_runtime.loras import EngineLoras
from diffc_runtime.prompts import open_prompts

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


@dataclass(frozen=True)
class OutEngine:
    """An engine of OUT that may run here.

    Attributes:
        out: The output folder.
        target: The engine's target.
        side: ``dense`` or ``compressed``.
    """

    out: Path
    target: str
    side: str

    def suits(self, device: str | None, dtype: str | None) -> bool:
        """True if it runs on the device and computes in the precision that are wanted."""
        return is_on(self.target, device) and (dtype is None or self._precision == dtype)

    @property
    def _precision(self) -> str | None:
        from diffc_export.targets.engine import read_info

        try:
            return read_info(engine_folder(self.out, self.target, self.side)).precision_found
        except DiffcError:
            return None


def is_on(target: str, device: str | None) -> bool:
    """True if a target's engines run on the device; None is any."""
    return device is None or _DEVICES.get(target_of(target).facts.device) == device


def candidates(out: Path, side: str, target: str | None) -> list[OutEngine]:
    """Return the engines of OUT, the fastest that was measured first.

    Raises:
        RequestError: OUT holds no engine for ``target``.
    """
    folder = out / "engines"
    built = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    built = [name for name in built if (engine_folder(out, name, side) / NAME).is_file()]
    served = [name for name in built if _is_served(name)]
    if target is not None and target not in served:
        raise unknown("target", target, [*served, "torch"])
    times = _measured_ms(out, side)
    served.sort(key=lambda name: times.get(name, float("inf")))
    return [OutEngine(out, name, side) for name in served if target in (None, name)]


def _is_served(name: str) -> bool:
    """True if the runtime has a loader for the target's engines."""
    with suppress(DiffcError):
        return target_of(name).facts.loader is not None
    return False


def _measured_ms(out: Path, side: str) -> Mapping[str, float]:
    """Return target -> milliseconds of a call, where the report has them."""
    from diffc.report.model import Report

    times: dict[str, float] = {}
    with suppress(DiffcError):
        for result in Report.read(out).targets:
            figures = result.dense if side == "dense" else result.compressed
            if figures.latency_ms is not None:
                times.setdefault(result.target, figures.latency_ms.p50 / result.batch)
    return times


def try_open(one: OutEngine, reasons: list[str]) -> Pipeline | None:
    """Return the engine as a pipeline; None where it cannot be used, with the reason added."""
    try:
        return _open(one)
    except DiffcError as error:
        reasons.append(f"{one.target}: {error}")
        return None


def _open(one: OutEngine) -> Pipeline:
    contents = find_contents(one.out, one.target, one.side)
    loaded = open_engine(contents.engine)
    decoder = None if contents.decoder is None else open_engine(contents.decoder)
    decode = None if decoder is None else decoder_of(decoder)
    opened = pipeline_of(contents.served_settings(), loaded.info, loaded.run, decode)
    if decoder is not None:
        opened.image_size = image_size(decoder.info)
    if contents.vae_encoder is not None:
        opened.encode = vae_encoder_of(contents.vae_encoder)
    if contents.masked_decoder is not None:
        opened.decode_masked = masked_decoder_of(contents.masked_decoder)
    if contents.text is not None:
        opened.prompts = open_prompts(contents.text, contents.texts)
    opened.loras = EngineLoras(contents.engine, contents.loras)
    return as_judged(opened, one.out, contents)


def as_judged(opened: Pipeline, out: Path, contents: BundleContents) -> Pipeline:
    """Give a pipeline the conditions of the pictures that the report judged, and their guidance."""
    opened.unconditional = {
        **(opened.unconditional or {}),
        **null_conditions(out, opened.conditions),
    }
    usual = replace(opened.defaults, conditions=judged_conditions(out, opened.conditions))
    if contents.loop is not None and opened.unconditional:
        usual = replace(usual, guidance=contents.loop.guidance or 1.0)
    opened.defaults = usual
    return opened
