"""Which pruning and which training keep quality; ``python -m bench.quality``."""
