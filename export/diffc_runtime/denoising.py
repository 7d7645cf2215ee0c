"""The sampling loop: from noise to samples, step by step.

There is one, for engines and for torch models, for images, calibration data and parity. ``x`` is
any array that a sampler computes with (stepping.py); ``call`` runs the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .stepping import Array, Scheduler, Scratch, multiply

ModelCall = Callable[[Array, float], Array]
"""(the model's input (B, ...), timestep) -> the model's output, shaped like x."""


def denoise(
    call: ModelCall,
    sampler: Scheduler,
    x: Array,
    draw: Callable[[Array], None] | None = None,
    model_input: Array | None = None,
    after: Callable[[int, Array], None] | None = None,
) -> Iterator[Array]:
    """Move ``x`` along the sampler's steps, in place, and yield it after each step.

    Args:
        call: Runs the model.
        sampler: The steps of one trajectory.
        x: (B, ...) the initial noise, of standard deviation ``sampler.init_noise_sigma``.
        draw: Fills an array like x with standard normal noise; a sampler that adds noise needs it.
        model_input: The array that ``call`` gets its input in, so that none is allocated.
        after: Changes x in place when step i, its first argument, is done.
    """
    noise = x * 0 if sampler.stochastic else None
    for i, timestep in enumerate(sampler.timesteps.tolist()):
        output = call(sampler.scale_input(x, i, out=model_input), timestep)
        if noise is not None and draw is not None and sampler.noise_scale[i]:
            draw(noise)
            sampler.step(output, i, x, noise)
        else:
            sampler.step(output, i, x)
        if after is not None:
            after(i, x)
        yield x


def denoise_whole(
    call: ModelCall,
    sampler: Scheduler,
    x: Array,
    draw: Callable[[Array], None] | None = None,
    model_input: Array | None = None,
    after: Callable[[int, Array], None] | None = None,
) -> Array:
    """Return ``x`` at the end of ``denoise``.

    Args:
        call: See ``denoise``, as for all of them.
        sampler: The steps.
        x: The initial noise, which is overwritten.
        draw: Gives the noise of a step.
        model_input: The array that ``call`` gets its input in.
        after: Changes x after a step.
    """
    for x in denoise(call, sampler, x, draw, model_input, after):  # noqa: B007, B020 (x is overwritten)
        pass
    return x


def linear_sampler(timesteps: Array, coefficients: Sequence[Sequence[float]]) -> Scheduler:
    """Return the sampler whose step i is x <- a x + b f(x, t).

    Args:
        timesteps: (S,) t of each step.
        coefficients: (S, 2): a, b.
    """
    scratch = Scratch(1)

    def advance(i: int, x: Array, output: Array) -> None:
        (work,) = scratch(x)
        a, b = coefficients[i]
        multiply(output, b, out=work)
        x *= a
        x += work

    return Scheduler("linear", timesteps, advance)
