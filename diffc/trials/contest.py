"""Which candidates can still win, and which trial comes next.

Pure: it is given what was measured, and says what to do. What spares a trial, with its kind:

    measured   the candidate costs too much; or another one that reaches the goals is as fast
    estimate   the dense model itself, with this loop, does not reach the goal: a model that
               imitates it will not either
    expected   a candidate that cuts no more, is as exact and takes no fewer steps has missed
               the goal; or costs no more than the goals allow, where the best is wanted. Or
               the share of the loss that a training took back would not be enough here

The last two are assumptions, and the reasons say so. Where the fastest loop is wanted, the fastest
candidate that is hoped to reach the goals is trained next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from diffc.measure.frontier.standing import AS_LONG
from diffc.trials.goals import QUALITIES, SSIM, Goals, value_words
from diffc.trials.space import Choice, words_of

Values: TypeAlias = Mapping[str, float | None]
"""The figures of a candidate by the goals' names."""


@dataclass
class Entry:
    """A candidate, and what is known of it.

    Attributes:
        choice: Which.
        trial: The training that it comes from.
        ms: The measured time of its loop.
        costs: Its figures that need no training.
        out: Why it is out before any training; None where it may win.
        before: Its figures before any training; None where they say nothing.
        most: The dense model's figures with the same loop, where it cannot be better.
        short: Its figures after a short training.
        trained: Its figures after the whole training.
    """

    choice: Choice
    trial: Choice
    ms: float
    costs: Values
    out: str | None = None
    before: Values | None = None
    most: Values | None = None
    short: Values | None = None
    trained: Values | None = None

    @property
    def name(self) -> str:
        """'0.35 fp16 dpm++:8'."""
        return words_of(self.choice)

    @property
    def values(self) -> Values:
        """Every figure that is known, after the most training there was."""
        return {**self.costs, **(self.trained or self.short or self.before or {})}


NoWorse: TypeAlias = Callable[[Choice, Choice], bool]


@dataclass
class Contest:
    """The candidates of a search.

    Attributes:
        entries: All of them.
        goals: What they must reach.
        no_worse: Whether one candidate is expected to be as close to dense as another.
        behind: Trial -> why it was given up after a short training.
        spare: Whether a candidate that cannot win any more is out.
    """

    entries: list[Entry]
    goals: Goals
    no_worse: NoWorse
    behind: dict[Choice, str] = field(default_factory=dict)
    spare: bool = True

    def best(self) -> Entry | None:
        """The winner so far: of the trained ones that reach the goals, the fastest or the best."""
        able = [one for one in self.entries if one.trained is not None and self._reaches(one)]
        return self._first(able)

    def nearest(self) -> Entry | None:
        """The candidate that misses the goals by least, of those that were trained; else of all."""
        trained = [one for one in self.entries if one.trained is not None]
        return min(trained or self.entries, key=self._distance, default=None)

    def live(self) -> list[Entry]:
        """The candidates that were not trained and may win, the fastest first."""
        left = [one for one in self.entries if one.trained is None and self.why_out(one) is None]
        return sorted(left, key=lambda one: one.ms)

    def next_trials(self, most: int = 1) -> list[Choice]:
        """The trainings that come next, at most so many at once; none when the search is over."""
        live = self.live()
        if not live:
            return []
        if self.goals.wants_fastest:
            order = self._by_hope(live, most)
        else:
            order = sorted(live, key=self._promise, reverse=True)
        return list(dict.fromkeys(one.trial for one in order))[:most]

    def _by_hope(self, live: list[Entry], most: int) -> list[Entry]:
        """What to train first where the fastest is wanted.

        The fastest candidate that is hoped to reach the goals; where nothing can be hoped, the
        middle one, since what it gives takes about half of the others away.
        """
        hopeful = [one for one in live if (hope := self._hope(one)) and not self._missed(hope)]
        places = [(2 * i + 1) * len(live) // (2 * most) for i in range(most)]
        return [*hopeful, *(live[place] for place in places), *live]

    def _hope(self, entry: Entry) -> Values | None:
        """What a training may give, by the share of the loss that other trainings took back."""
        shares = [share for one in self.entries if (share := _share(one)) is not None]
        return _between(entry, sum(shares) / len(shares) if shares else _USUAL_SHARE)

    def live_trials(self) -> list[Choice]:
        """The trainings of all candidates that may win."""
        return list(dict.fromkeys(one.trial for one in self.live()))

    def why_out(self, entry: Entry) -> str | None:
        """Why a candidate that was not trained cannot win any more; None where it can."""
        if entry.out is not None:
            return entry.out
        if not self.spare:
            return None
        if entry.trial in self.behind:
            return self.behind[entry.trial]
        if self.goals.wants_fastest:
            return self._why_not_fastest(entry)
        return self._why_not_best(entry)

    def _why_not_fastest(self, entry: Entry) -> str | None:
        best = self.best()
        if best is not None and entry.ms >= best.ms / AS_LONG:
            return f"not faster than {best.name}, which reaches the goals"
        if entry.most is not None and (missed := self._missed(entry.most)):
            return f"estimate: the dense model itself misses the goals with this loop ({missed})"
        for other in self.entries:
            if other.trained is None or self._reaches(other):
                continue
            if self.no_worse(other.choice, entry.choice):
                return f"expected: {other.name} is to be no worse, and misses the goals"
        if words := self._why_too_little(entry):
            return words
        if entry.before is not None and not self._missed(entry.before):
            return None
        promise = self._promised()
        if promise is not None and promise is not entry and entry.ms >= promise.ms * AS_LONG:
            return f"slower than {promise.name}, which reaches the goals before any training"
        return None

    def _why_too_little(self, entry: Entry) -> str | None:
        """Why a candidate is expected to miss the goals by what it lacks before any training.

        A training takes back a share of what the cut lost; more cut off, the share is no larger.
        """
        for other in self.entries:
            share = _share(other)
            if share is None or other is entry or not self.no_worse(other.choice, entry.choice):
                continue
            at_most = _between(entry, share)
            if at_most is not None and (missed := self._missed(at_most)):
                return (
                    f"expected: with the share that training took back of {other.name}'s loss "
                    f"it has {missed}"
                )
        return None

    def _promised(self) -> Entry | None:
        """The fastest candidate that reaches the goals before any training."""
        able = [
            one
            for one in self.entries
            if one.out is None
            and one.trained is None
            and one.before is not None
            and not self._missed(one.before)
        ]
        return min(able, key=lambda one: one.ms, default=None)

    def _why_not_best(self, entry: Entry) -> str | None:
        for other in self.entries:
            if other is entry or other.out is not None or other.trial in self.behind:
                continue
            if self.no_worse(other.choice, entry.choice) and not (
                self.no_worse(entry.choice, other.choice)
                and self.entries.index(entry) < self.entries.index(other)
            ):
                return f"expected: {other.name} is to be no worse, and costs no more than allowed"
        best = self.best()
        if best is not None and entry.most is not None:
            most, there = entry.most.get(SSIM), (best.trained or {}).get(SSIM)
            if most is not None and there is not None and most <= there:
                return (
                    f"estimate: the dense model itself with this loop has SSIM {most:.3f}, and "
                    f"{best.name} has {there:.3f}"
                )
        return None

    def _reaches(self, entry: Entry) -> bool:
        return entry.out is None and not self._missed(entry.trained or {})

    def _missed(self, values: Values) -> str:
        """The goals of quality that are missed, with the figures; '' where all are reached."""
        missed = self.goals.only(QUALITIES).shortfalls(values)
        return ", ".join(value_words(name, values.get(name)) for name in missed)

    def _first(self, able: Iterable[Entry]) -> Entry | None:
        if self.goals.wants_fastest:
            return min(able, key=lambda one: one.ms, default=None)
        return max(able, key=lambda one: _ssim(one.trained), default=None)

    def _promise(self, entry: Entry) -> float:
        """What to try first where the best is wanted."""
        known = entry.short or entry.before
        return _ssim(known) if known is not None else _ssim(entry.most)

    def _distance(self, entry: Entry) -> float:
        return sum(self.goals.shortfalls(entry.values).values())


_USUAL_SHARE = 0.6
"""The share of the loss that a training takes back, before one has shown it."""


def _share(entry: Entry) -> float | None:
    """The share of the SSIM that the cut lost which the training took back; None where unknown."""
    if entry.trained is None or entry.before is None or entry.most is None:
        return None
    lost = _ssim(entry.most) - _ssim(entry.before)
    share = (_ssim(entry.trained) - _ssim(entry.before)) / lost if lost > 0 else float("nan")
    return share if 0 <= share <= 1 else None


def _between(entry: Entry, share: float) -> Values | None:
    """The figures between those before any training and the dense model's; None where unknown."""
    if entry.before is None or entry.most is None:
        return None
    values: dict[str, float | None] = {}
    for name, low in entry.before.items():
        high = entry.most.get(name)
        values[name] = None if low is None or high is None else low + share * (high - low)
    return values


def _ssim(values: Values | None) -> float:
    value = None if values is None else values.get(SSIM)
    return float("-inf") if value is None else value
