"""ONNX files: from a torch module to a graph, and from fp32 to lower precisions.

export.py      module -> model.onnx, checked, with model.json
precision.py   fp32 -> fp16 or bf16, by casts in the file
quantize.py    fp32 -> int8 or fp8, by calibrated Q/DQ pairs
qdq.py         the ranges and the pairs: the library's, weight by weight
trials.py      the error of a mixture of fp32 and int8 layers
mixture.py     which layers stay in fp32
layer_macs.py  the work of a graph's layers
weights.py     graphs above 2 GiB: a graph and its weights apart
fp8.py         turns the int8 Q/DQ pairs of a graph into fp8 (E4M3)
"""
