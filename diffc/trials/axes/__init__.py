"""The axes of a search, in the order in which a candidate is named.

base.py       what an axis says of itself
ratio.py      the share that is removed
precision.py  the precision of the engine
loop.py       sampler, steps, guidance, spacing

Another axis is a file here, a line in ``AXES``, and a flag of ``diffc search``.
"""

from diffc.trials.axes import loop, precision, ratio
from diffc.trials.axes.base import Level, SearchAxis

AXES: tuple[SearchAxis, ...] = (ratio.AXIS, precision.AXIS, loop.AXIS)

__all__ = ["AXES", "Level", "SearchAxis"]
