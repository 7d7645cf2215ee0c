"""Block-local distillation: each block of the cut network learns alone to give what the dense
network's block gives, from the dense network's own activations.

One block is trained at a time, so memory holds one block with its optimiser, and a network that is
too large to be trained as a whole can be trained so. The blocks do not depend on one another.

Source: Li et al. 2020, "Blockwisely Supervised Neural Architecture Search with Knowledge
Distillation" (section 3.2), and Bercovich et al. 2024, "Puzzle" (blockwise local distillation).

blocks.py  which blocks, and which of their channels are left
train.py   the training of one block
run.py     all blocks, in the order in which the dense network runs them
"""
