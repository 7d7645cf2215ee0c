"""Distillation: the pruned student is brought back to its dense teacher in a short run.

lesson.py      what a run teaches: the data of each step and their loss
all_steps.py   the lesson of all noise levels
loop/          the lesson of the loops that will be served
block_local/   before either: each block learns alone from the dense network's activations
draw.py        what step i of all noise levels trains on, all keyed by (seed, step, row)
blocks.py      which block outputs the feature loss compares, on which channels
fresh_loss.py  whether a training left its student nearer to the dense model than it was
losses.py      output, noise and feature losses; weights over timesteps
checkpoint.py  the run's state on disk: safetensors, hashes, atomic, the last two kept
sharded_checkpoint.py  the same of a sharded run, each process's part in a file
low_rank.py    additions that learn in the place of a network's weights, and are merged
muon.py        an optimiser whose steps on matrices are orthogonal
setup.py       accelerator, models on their device, optimiser, moving average
run.py         the state of a run: start, checkpoint, resume, finish
train.py       the loop: one step after the other
"""
