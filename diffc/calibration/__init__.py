"""Noised clean samples, and calls of a network that stop on their way: what a cut model is mended
with before a whole network is trained.

noised.py   rows that fit, and rows held out
in_step.py  many calls of a model that wait for each other at each layer
by_block.py calls and gradients with one block in memory at a time
errors.py   how far a network is from the dense one on the rows held out
in_files.py activations that are in files, and in memory only as far as they are used
"""
