"""Widths by latency that is measured on the target. prune/ itself measures nothing.

device.py        the target whose latency counts, and how engines are built for it
layers.py        the layers of a network, each with the dimensions that are its widths
layer_graphs.py  one layer at given widths as an ONNX folder
table.py         tables of seconds by widths, measured layer by layer, and kept
search.py        the widths: tables, a knapsack, and engines that correct the tables
"""
