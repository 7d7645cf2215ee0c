"""Repair: the least-squares weights of the layers that read cut channels, without training.

layers.py         which layers read cut channels, and which of them can be mended
in_step.py        many calls of a model that wait for each other at each layer
least_squares.py  the change of weights, its ridge chosen on held-out rows
room.py           how many rows may wait in memory at once
samples.py        noised clean samples: those that fit, and those held out
run.py            the repair: layer by layer, and judged as a whole
"""
