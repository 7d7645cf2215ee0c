"""A sampling loop as people name it: sampler, steps, guidance, spacing.

    Loop.parse("dpm++:8")              8 steps of DPM-Solver++
    Loop.parse("euler:20:7.5")         20 steps of Euler's method with a guidance of 7.5
    Loop.parse("ddim:4@trailing")      4 steps of DDIM at the timesteps of that spacing
    Loop.parse("own")                  the model's own sampler, its usual steps and guidance
    Loop.parse("deterministic:50")     50 steps of DDIM, or of Euler's method along a flow

What a loop leaves open is the model's: ``settled`` says what that comes to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import BadRequest, known_names
from .schedulers import NAMES, check_steps, deterministic_name, own_name, scheduler
from .schedules import SPACINGS, Config, train_steps
from .stepping import Scheduler

OWN = "own"
"""The word for the model's own sampler."""
DETERMINISTIC = "deterministic"
"""The word for the sampler that adds no noise: DDIM, or Euler's method along a flow."""
_FORM = "SAMPLER:STEPS[:GUIDANCE][@SPACING], such as dpm++:8 or euler:20:7.5"


@dataclass(frozen=True)
class Loop:
    """How images are sampled; what is None is the model's own.

    Attributes:
        sampler: The runtime's name of the sampler, of ``schedulers.NAMES``, or ``deterministic``.
        steps: The number of steps, 1 or more.
        guidance: The scale of classifier-free guidance; 1 for none.
        spacing: Which timesteps are visited, as diffusers' ``timestep_spacing`` names it.
    """

    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    spacing: str | None = None

    def __post_init__(self) -> None:
        if self.sampler is not None and self.sampler not in (DETERMINISTIC, *NAMES):
            raise _unknown("sampler", self.sampler, (OWN, DETERMINISTIC, *NAMES))
        if self.spacing is not None and self.spacing not in SPACINGS:
            raise _unknown("spacing", self.spacing, SPACINGS)
        if self.steps is not None and self.steps < 1:
            raise BadRequest(f"steps must be a whole number from 1, not {self.steps}")
        if self.guidance is not None and not 1 <= self.guidance < float("inf"):
            raise BadRequest(f"guidance must be a number from 1, not {self.guidance:g}")

    @classmethod
    def parse(cls, text: str) -> Loop:
        """Return the loop that ``text`` names; upper and lower case are the same.

        Args:
            text: ``SAMPLER[:STEPS[:GUIDANCE]][@SPACING]``; ``own`` for the model's sampler.

        Raises:
            BadRequest: ``text`` has another form, or names what does not exist.
        """
        words, at, spacing = text.strip().lower().partition("@")
        name, *numbers = (part.strip() for part in words.split(":"))
        if not name or len(numbers) > 2 or (at and not spacing) or "" in numbers:
            raise BadRequest(f"'{text}' is no loop: {_FORM}")
        return cls(
            sampler=None if name == OWN else name,
            steps=_whole(numbers[0], text) if numbers else None,
            guidance=_number(numbers[1], text) if len(numbers) > 1 else None,
            spacing=spacing.strip() or None,
        )

    def __str__(self) -> str:
        """Return the text that ``parse`` reads; a guidance without steps cannot be written."""
        words = self.sampler or OWN
        if self.steps is not None:
            words += f":{self.steps}"
            words += "" if self.guidance is None else f":{self.guidance:g}"
        return words if self.spacing is None else f"{words}@{self.spacing}"

    def settled(self, config: Config, *, steps: int, guidance: float = 1.0) -> Loop:
        """Return the loop with nothing left open but the spacing, which stays the config's.

        Args:
            config: The model's scheduler config.
            steps: The model's usual steps; fewer where it has fewer timesteps.
            guidance: The model's usual guidance.
        """
        usual = min(steps, train_steps(config))
        sampler = self.sampler or own_name(config)
        return replace(
            self,
            sampler=deterministic_name(config) if sampler == DETERMINISTIC else sampler,
            steps=self.steps or usual,
            guidance=guidance if self.guidance is None else self.guidance,
        )

    def config(self, config: Config) -> Config:
        """Return a model's scheduler config with this loop's spacing."""
        if self.spacing is None:
            return config
        return {**config, "timestep_spacing": self.spacing}

    def trajectory(self, config: Config) -> Scheduler:
        """Return the steps of one trajectory of a settled loop.

        Args:
            config: The model's scheduler config, with everything that its noise levels need.

        Raises:
            BadRequest: The process of the config forbids the sampler, or it has fewer timesteps.
        """
        if self.sampler in (None, DETERMINISTIC) or self.steps is None:
            raise BadRequest(f"the loop '{self}' leaves open what it has to say here")
        check_steps(self.steps, train_steps(config))
        return scheduler(str(self.sampler), self.config(config), self.steps)

    def rows(self, config: Config) -> int:
        """Return how many rows the denoiser computes for one image of a settled loop.

        One for each call, of which some samplers have more than steps (Heun's, PNDM's); two under
        guidance.

        Args:
            config: See ``trajectory``.

        Raises:
            BadRequest: See ``trajectory``.
        """
        return len(self.trajectory(config)) * (1 if self.guidance in (None, 1) else 2)


def _whole(word: str, text: str) -> int:
    if not re.fullmatch(r"[-+]?\d+", word):
        raise BadRequest(f"'{text}' is no loop: '{word}' is no number of steps ({_FORM})")
    return int(word)


def _number(word: str, text: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise BadRequest(f"'{text}' is no loop: '{word}' is no guidance ({_FORM})") from None


def _unknown(kind: str, word: str, known: tuple[str, ...]) -> BadRequest:
    return BadRequest(f"unknown {kind} '{word}' ({known_names(word, known)})")
