"""What a copy of a pipeline is: another object around the same open engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .errors import BadRequest

if TYPE_CHECKING:
    from .pipeline import Pipeline


def same_engine(pipe: Pipeline, memo: object = None) -> Pipeline:
    """Return a pipeline with the engine, the encoders and the LoRAs of ``pipe``.

    Args:
        pipe: The pipeline.
        memo: Python's own, of a deep copy.
    """
    other = object.__new__(type(pipe))
    other.__dict__.update(pipe.__dict__)
    return other


def no_pickle(pipe: Pipeline) -> NoReturn:
    """Refuse to send a pipeline to another process. Raises BadRequest."""
    raise BadRequest(
        f"a pipeline cannot be pickled: {pipe.runs_on or 'its function'} is open in this process",
        hint="open the folder in the other process",
    )
