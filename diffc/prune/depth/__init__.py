"""Branches and blocks that can go: what each is worth.

scores.py   what happens to the output without a branch, in the unit of the channels' scores
staying.py  which branches must stay so that the network reads every input
"""
