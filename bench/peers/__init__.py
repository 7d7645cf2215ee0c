"""diffc's engines beside what people use today; ``python -m bench.peers``."""
