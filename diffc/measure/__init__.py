"""Measuring: latency, memory, parity, the sampling loop, the machine. Nothing is estimated."""
