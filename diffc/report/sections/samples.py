"""Samples of both models from the same noise: the pictures, and how close they are."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Images, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import interval, number
from diffc_runtime.json_types import JsonObject

Row = tuple[str, str, str, str]
_MEANS = (("ssim", 3), ("psnr", 2))
"""Fields of ``Report.quality`` that are means over images, and their digits."""
_DISTANCES = {"frechet": ("Frechet distance", "FID"), "kernel": ("kernel distance", "KID")}


def _build(report: Report) -> Iterator[Images | Table | Notes]:
    ssim = (report.quality or {}).get("ssim") or {}
    yield Images(
        "samples/dense.png",
        "samples/compressed.png",
        "samples/grid.png",
        "Both models from the same noise",
        f"{ssim['sampler']}, {ssim['steps']} steps" if ssim else "",
    )
    if report.quality:
        yield Table([*_mean_rows(report), *_distance_rows(report)])
        yield Notes(_notes(report))


def _mean_rows(report: Report) -> Iterator[Row]:
    """SSIM, PSNR and LPIPS; a dash for one that could not be computed."""
    quality = report.quality or {}
    absent: dict[str, str] = quality.get("absent", {})
    for name, digits in _MEANS:
        if figure := quality.get(name):
            yield _mean_row(name.upper(), figure, digits)
        elif name in absent:
            yield name.upper(), "", "-", ""
    if figure := quality.get("lpips"):
        yield _mean_row("LPIPS", figure, 3)


def _mean_row(name: str, figure: JsonObject, digits: int) -> Row:
    """A mean over images and its interval; a dash for what is not a number."""
    words = interval(figure["ci95"], digits)
    return (
        name,
        "",
        number(figure["mean"], digits),
        f"95 % {words}" if words != "-" else "one image",
    )


def _distance_rows(report: Report) -> Iterator[Row]:
    """Each side's distance to reference images, where a run has them."""
    quality = report.quality or {}
    for name, (long, short) in _DISTANCES.items():
        if figure := quality.get(name):
            features = figure["features"]
            errors = figure.get("se", {})
            dense, compressed = (
                f"{figure[side]:.4g}" + (f" ± {errors[side]:.2g}" if side in errors else "")
                for side in ("dense", "compressed")
            )
            yield (
                short if features == "InceptionV3" else f"{long} on {features}",
                dense,
                compressed,
                f"to {figure['reference']['n']} images",
            )


def _notes(report: Report) -> list[str]:
    """How the images were made, and why a figure is left out."""
    quality = report.quality or {}
    absent: dict[str, str] = quality.get("absent", {})
    figures = [quality[name] for name, _ in _MEANS if quality.get(name)]
    notes = [_settings(figures[-1])] if figures else []
    named = {"ssim", "psnr", *({"lpips"} if "lpips" in quality else {})}
    notes += dict.fromkeys(why for name, why in absent.items() if name in named)
    if any(name in quality for name in _DISTANCES):
        notes.append("distances: ± one standard error; fewer images give a larger Frechet distance")
    return notes


def _settings(figure: JsonObject) -> str:
    plural = "s" if figure["n"] != 1 else ""
    words = f"{figure['n']} image{plural} from the same noise, {figure['sampler']}, "
    words += f"{figure['steps']} steps, seed {', '.join(map(str, figure['seeds']))}"
    scale = figure.get("guidance", 1)
    return words + (f", guidance {scale:g}" if scale != 1 else "")


SECTION = Section("Compressed against dense samples", 20, _build)
