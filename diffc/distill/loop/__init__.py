"""Distillation for a loop: the student learns the steps that will be served, down to one call.

steps.py         the steps of a loop, each linear in the model's output; the student's scheduler
path.py          the dense model's way through the timesteps that the loops visit
trajectories.py  where the dense model comes by on that way: made once, in shards, and read
lesson.py        what step i trains on: a state of the loop and the output that it should give
features.py      how alike two sets of samples look to the dense model: a part of the loss
readout.py       the last layer solved for these outputs, so that training starts near them

The student sees the states that its loop visits, on the dense model's own trajectories from noise,
and learns the output that takes each of them to the next one in one step of the loop.
"""
