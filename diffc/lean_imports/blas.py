"""The threads of numpy's BLAS sleep as soon as they have nothing to do.

By default each spins for a while after numpy's import and after every product: as many cores as
there are, for nothing, and beside an engine that is timed.
"""

from __future__ import annotations

import os

_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"
_TIMEOUT = "10"  # 2^10 cycles; OpenBLAS takes 4 to 30, and 26 by itself


def let_threads_sleep() -> None:
    """Ask OpenBLAS for it, which reads this as numpy is imported; a choice of the user stays."""
    os.environ.setdefault(_VARIABLE, _TIMEOUT)
