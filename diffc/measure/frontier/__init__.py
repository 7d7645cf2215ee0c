"""The frontier: what a millisecond buys, of the dense model and of the compressed one.

A user pays for an image, so the loop is what is compared: sampler, steps and guidance of each side.
A compressed loop is worth having where no dense loop that takes as long is closer to the reference
loop's images. Every loop is timed whole and in turn with all others, and its images are judged
against those of the reference loop from the same noise.

loops.py      which loops are measured
results.py    the points of a frontier, and what is compared of two of them
measuring.py  sampling by the engines, and timing them in turn
judging.py    images against the reference loop's
standing.py   who is ahead at equal time, and where that changes
served.py     the served loop's times, for whole images
rungs.py      the ladder of an image, from torch to the loop that is served
"""
