"""Distillation: the pruned student is brought back to its dense teacher in a short run.

draw.py        what step i trains on: rows, timesteps, noise, all keyed by (seed, step, row)
blocks.py      which block outputs the feature loss compares, on which channels
losses.py      output, noise and feature losses; weights over timesteps
checkpoint.py  the run's state on disk: safetensors, hashes, atomic, the last two kept
setup.py       accelerator, models on their device, optimiser, moving average
run.py         the state of a run: start, checkpoint, resume, finish
train.py       the loop: one step after the other
"""
