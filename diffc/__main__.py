"""``python -m diffc``."""

from diffc.cli import main

main()
