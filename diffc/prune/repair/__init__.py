"""Repair: the least-squares weights of the layers that read cut channels, without training.

layers.py         which layers read cut channels, and which of them can be mended
least_squares.py  the change of weights, its ridge chosen on held-out rows
room.py           how many rows may wait in memory at once
run.py            the repair: layer by layer, and judged as a whole
"""
