"""Which loops a frontier has: the reference loop, the compressed model's own, and few steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from diffc_runtime.errors import BadRequest
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop
from diffc_runtime.schedulers import FLOW_NAMES, deterministic_name

Extent: TypeAlias = Literal["off", "quick", "full"]
Role: TypeAlias = Literal["reference", "own", "same-time", "fewer-steps", "grid"]
STEPS: dict[str, tuple[int, ...]] = {
    "quick": (10, 5, 3, 1),
    "full": (25, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2, 1),
}
"""The numbers of steps of each extent."""
_MOST_OF_SECOND = {"quick": 5, "full": 25}
"""The most steps of the second-order sampler: with many, all samplers are alike."""
_MOST_BEYOND = 2
"""A quick frontier has no loops of more than so many times the steps that a student learned, for
which it is worse and slower."""
_OF_FLOWS = "linspace"
"""The spacing of a flow whose config names none: its figures name this one."""
FEWER = 0.9
"""The share of the reference loop's steps that one point of a full frontier has."""


@dataclass(frozen=True)
class WantedLoop:
    """A loop to be measured on one side.

    Attributes:
        loop: Sampler, steps and guidance, settled.
        roles: Why it is measured; the first one is the most important.
    """

    loop: Loop
    roles: tuple[Role, ...]


@dataclass(frozen=True)
class FrontierLoops:
    """The loops that a frontier is about.

    Attributes:
        reference: The dense model's loop, whose images all others are compared with; settled.
        own: The compressed model's loops, settled; the first is served.
        extent: How many loops beside them.
        call_ratio: The time of a compressed call over that of a dense one; None where unknown.
        learned: Whether the compressed model learned its own loops, and no others.
    """

    reference: Loop
    own: tuple[Loop, ...]
    extent: Extent
    call_ratio: float | None = None
    learned: bool = False

    def of_dense(self, config: JsonObject) -> list[WantedLoop]:
        """The dense side's loops, without those that its process forbids.

        Args:
            config: The dense model's scheduler config.
        """
        same_time = [loop for own in self.own for loop in self._same_time(own, config)]
        pairs: list[tuple[Loop, Role]] = [(self.reference, "reference")]
        pairs += [(loop, "same-time") for loop in same_time]
        if not same_time and _runs(self.reference, config):  # one step is all that may come near
            pairs.append((replace(self.reference, steps=1), "grid"))
        pairs += [(loop, "grid") for loop in self.own]
        pairs += [(loop, "fewer-steps") for loop in self._fewer_steps()]
        return merged([*pairs, *self._grid(config)], config)

    def of_compressed(self, config: JsonObject) -> list[WantedLoop]:
        """The compressed side's loops, likewise.

        The reference loop is among them, and each own loop with the reference loop's guidance: they
        are what one change after the other is shown by.

        Args:
            config: The compressed model's scheduler config, which may predict something else.
        """
        pairs: list[tuple[Loop, Role]] = [(loop, "own") for loop in self.own]
        pairs.append((self.reference, "grid"))
        guided = [replace(loop, guidance=self.reference.guidance) for loop in self.own]
        grid = [(loop, role) for loop, role in self._grid(config) if self._is_near(loop)]
        return merged([*pairs, *((loop, "grid") for loop in guided), *grid], config)

    def before_training(self, config: JsonObject) -> list[WantedLoop]:
        """The loops of a student before it learned its own: for images, not for times.

        Args:
            config: The dense model's scheduler config, which samples that student.
        """
        served = replace(self.own[0], guidance=self.reference.guidance)
        return merged([(self.reference, "reference"), (served, "own")], config)

    def _same_time(self, own: Loop, config: JsonObject) -> Iterator[Loop]:
        """The reference loop with as many steps as fit in the time of a compressed loop."""
        if self.call_ratio is None or not _runs(own, config) or not _runs(self.reference, config):
            return
        room = own.rows(config) * self.call_ratio + 1e-9
        shorter = [replace(self.reference, steps=n + 1) for n in range(self.reference.steps or 1)]
        fitting = bisect_right(shorter, room, key=lambda loop: loop.rows(config))
        if fitting:
            yield shorter[fitting - 1]

    def _is_near(self, loop: Loop) -> bool:
        """Whether the compressed model may be worth something by this loop."""
        most = _MOST_BEYOND * max(own.steps or 1 for own in self.own)
        return not self.learned or self.extent == "full" or (loop.steps or 1) <= most

    def _fewer_steps(self) -> Iterator[Loop]:
        steps = self.reference.steps or 1
        fewer = round(steps * FEWER)
        if self.extent == "full" and 0 < fewer < steps:
            yield replace(self.reference, steps=fewer)

    def _grid(self, config: JsonObject) -> Iterator[tuple[Loop, Role]]:
        """Few steps of the reference loop, of a first-order sampler and of a second-order one.

        The two start from the last timestep (Lin et al. 2023, 2305.08891), which matters where few
        steps are left. The reference loop keeps its spacing, down to one step, which would be at
        the first timestep.
        """
        first, second = samplers(config)
        trailing = None if first in FLOW_NAMES else "trailing"
        for steps in STEPS.get(self.extent, ()):
            if steps >= (self.reference.steps or 1):
                continue
            shorter = replace(self.reference, steps=steps)
            yield replace(shorter, spacing=trailing if steps == 1 else shorter.spacing), "grid"
            if self.reference.sampler != first:
                yield replace(shorter, sampler=first, spacing=trailing), "grid"
            if 1 < steps <= _MOST_OF_SECOND[self.extent]:  # of one step, all are alike
                yield replace(shorter, sampler=second, spacing=trailing), "grid"


def samplers(config: JsonObject) -> tuple[str, str]:
    """The deterministic samplers of a process: of the first order, and of the second."""
    first = deterministic_name(config)
    return first, "flow-dpm++" if first in FLOW_NAMES else "dpm++"


def merged(pairs: Iterable[tuple[Loop, Role]], config: JsonObject) -> list[WantedLoop]:
    """Each loop once, with all of its roles; without loops that the process of config forbids."""
    roles: dict[Loop, list[Role]] = {}
    for loop, role in pairs:
        known = roles.setdefault(resolved(loop, config), [])
        if role not in known:
            known.append(role)
    return [WantedLoop(loop, tuple(of)) for loop, of in roles.items() if _runs(loop, config)]


def resolved(loop: Loop, config: JsonObject) -> Loop:
    """The loop without what its config says anyway, so that equal loops are equal."""
    own = config.get("timestep_spacing") or (_OF_FLOWS if loop.sampler in FLOW_NAMES else None)
    same = loop.spacing in (None, own)
    return replace(loop, spacing=None if same else loop.spacing, guidance=loop.guidance or 1.0)


def short(loop: Loop) -> str:
    """The loop's text without a guidance of 1."""
    return str(replace(loop, guidance=None) if loop.guidance in (None, 1) else loop)


def _runs(loop: Loop, config: JsonObject) -> bool:
    try:
        loop.trajectory(config)
    except BadRequest:
        return False
    return True


def first_of(wanted: Sequence[WantedLoop], role: Role) -> WantedLoop | None:
    """The first loop of a role."""
    return next((one for one in wanted if role in one.roles), None)
