"""How far a loop's images are from the data, on the dense model's own features.

The data are the user's images (``--data``): the dense model's own samples, which stand in for them
by default, are at no distance from it, so that no multiple of its own distance means anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diffc.errors import RequestError, UnavailableError
from diffc.measure.frontier.results import PointFigure
from diffc.recipe import Recipe
from diffc.runner import StageResult
from diffc.stage_inputs import ModelInput, RunShape
from diffc.stage_outcomes import DataOutcome
from diffc.stages.data import CLEAN, is_synthetic
from diffc.stages.frontier import ImageRows
from diffc_export.events import Work, drain
from diffc_export.targets.base import Array

METRIC = "own-frechet"
_MOST = 512
_SURE = 2.0
"""The dense model's own distance counts from so many standard errors above 0."""


@dataclass(frozen=True)
class DistanceInput:
    """What distances are measured by.

    Attributes:
        model: The dense model, with its VAE.
        data: The images.
        shape: What the denoiser's inputs are like.
    """

    model: ModelInput
    data: StageResult[DataOutcome]
    shape: RunShape


def check_distance(recipe: Recipe) -> None:
    """Raise RequestError where there are no images to measure a distance to."""
    if is_synthetic(recipe.data):
        raise RequestError(
            "--max-distance needs images: the dense model's own samples are at no distance from it",
            hint="--data IMAGES names some; or give --min-ssim, which needs none",
        )


def times_dense(figure: PointFigure | None, dense: PointFigure | None) -> float | None:
    """A distance in multiples of the dense model's own; None where one was not measured.

    Raises:
        UnavailableError: The dense model's own distance cannot be told from 0.
    """
    if figure is None or dense is None:
        return None
    if dense.value <= _SURE * (dense.se or 0.0):
        raise UnavailableError(
            f"the dense model's own distance to the data, {dense.value:.3g} with a standard error "
            f"of {dense.se or 0.0:.2g}, cannot be told from 0",
            hint="more --images make it certain, or a goal --min-ssim needs no distance",
        )
    return figure.value / dense.value


def distance_to(inputs: DistanceInput, rows: ImageRows) -> Work[Callable[[Array], PointFigure]]:
    """What measures the distance of images (N, C, H, W) to the data."""
    from diffc.data.clean import CleanSet
    from diffc.measure.quality import metric
    from diffc.measure.quality.own_distance import OwnDistance
    from diffc.measure.quality.own_features import GivenRows, middle_features

    source = inputs.model.source
    dense = inputs.shape.open(source)
    clean = CleanSet.load(inputs.data.folder / CLEAN)
    theirs = GivenRows({k: v[:_MOST] for k, v in clean.conditions.items()}, clean.null)
    data = yield from middle_features(dense, clean.sample[:_MOST], theirs)
    one = metric(METRIC)
    assert isinstance(one, OwnDistance)

    def measure(images: Array) -> PointFigure:
        import torch

        from diffc.data.latents import encode_images, vae_folder

        samples = torch.from_numpy(images.astype("float32"))
        if vae_folder(source) is not None:
            samples = drain(encode_images(source, samples, dense.sample_shape))
        given = {name: torch.from_numpy(value.copy()) for name, value in rows.conditions.items()}
        ours = drain(middle_features(dense, samples, GivenRows(given, clean.null)))
        figure = one.distance(ours, data)
        return PointFigure(value=figure.value, se=figure.error)

    return measure
