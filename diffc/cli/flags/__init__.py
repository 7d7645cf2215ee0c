"""The flag table: a flag is one row, and a verb names the rows that it takes.

flag.py        Flag: a row, and how it becomes a parameter of the command line
of_recipes.py  rows with a path in the recipe, such as ``build.threads``, by section
of_training.py rows of recipes for what comes after the cut, and for the memory that it may take
of_folders.py  rows of the folders that others load
of_images.py   rows of the verb that makes images
of_verbs.py    all other rows: what to work on, where to write, how to show
values.py      texts that become values, such as 1,4,8
completion.py  what completion offers for a flag

A new option of the recipe is a field there, one row in of_recipes.py, and its name in ``@takes``
of each verb that takes it (cli/command.py).

Nothing here imports torch, numpy or pydantic: ``diffc --help`` reads the whole table.
"""

from diffc.cli.flags.flag import Flag
from diffc.cli.flags.of_recipes import RECIPE_FLAGS
from diffc.cli.flags.of_verbs import VERB_FLAGS

FLAGS: dict[str, Flag] = {flag.key: flag for flag in (*RECIPE_FLAGS, *VERB_FLAGS)}
"""Every flag by its key."""

__all__ = ["FLAGS", "Flag"]
