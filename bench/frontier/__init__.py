"""What a millisecond buys: both sides over loops, at equal time; ``python -m bench.frontier``."""
