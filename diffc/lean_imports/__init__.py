"""Lets a command import what it needs of PyTorch and diffusers without all that lies beside it.

One class of diffusers brings torch._dynamo, transformers, scipy and some fifty other models, which
is half of a short command's time. In a process of diffc's own these wait until something needs
them, and then come as they would have come. A caller's process, which imports ``diffc`` as a
library, is left as it is; and what was imported before is left as it is, too.

finder.py     which module is imported in which way
running.py    what surrounds a module's own code while it runs
deferred.py   modules whose code waits until code asks for a name
dynamo.py     torch._dynamo, and the functions and classes that it has to know
later.py      classes that are imported at their first use
garbage.py    how often garbage is collected meanwhile
blas.py       how long the threads of numpy's BLAS wait for work

Nothing here imports anything large, since this runs before everything else.
"""

from __future__ import annotations

from diffc.lean_imports.finder import make_imports_lean
from diffc.lean_imports.garbage import collect_as_usual

__all__ = ["collect_as_usual", "make_imports_lean"]
