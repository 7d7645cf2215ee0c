"""The axes of a search, in the order in which a candidate is named.

base.py       what an axis says of itself
ratio.py      the share that is removed
cut.py        what may go: channels, branches, or both
precision.py  the precision of the engine
loop.py       sampler, steps, guidance, spacing

Another axis is a file here, a line in ``AXES``, and a flag of ``diffc search``.
"""

from diffc.trials.axes import cut, loop, precision, ratio
from diffc.trials.axes.base import Level, SearchAxis

AXES: tuple[SearchAxis, ...] = (ratio.AXIS, cut.AXIS, precision.AXIS, loop.AXIS)

__all__ = ["AXES", "Level", "SearchAxis"]
