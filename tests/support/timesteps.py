"""A subject of importance with a shorter noising process, for scores that walk all timesteps."""

from __future__ import annotations

from dataclasses import replace

from diffc.prune.importance.base import Subject


def first_timesteps(subject: Subject, count: int) -> Subject:
    """The same subject with the first ``count`` timesteps of its process alone."""
    process = subject.denoiser.process
    few = replace(process, signal=process.signal[:count], noise=process.noise[:count])
    return replace(subject, denoiser=replace(subject.denoiser, process=few))
