"""Measuring: latency, memory, parity, quality, the machine. Nothing is estimated.

compare.py       dense against compressed on one target: the report's figures
side_by_side.py  any engines, ONNX files and output folders in turn
frontier/        loops of both sides in time and quality: who is ahead at equal time
anchors.py       what older reports have in the place of a frontier
explain.py       the ladder from torch eager to the compressed engine, one change a rung
engines.py       engine folders, opened together and timed in turn
latency.py       calls timed in turn; warm-up, rounds, noise
pinning.py       the cores that engines on a processor stay on
loop.py          the whole sampling loop as one call
memory.py        an engine's memory, in a fresh process
probe.py         that process
parity.py        an engine against torch fp32
text_parity.py   a text encoder's engine against torch
vae_parity.py    the engine of a VAE's encoder against torch
reference.py     torch's outputs at real inputs, which parity compares with
inputs.py        the inputs of engines that are measured
samples.py       images of both models from the same noise
pictures.py      the figures that such images can have
picture_files.py the images as PNGs
sheets.py        how the images lie on samples/dense.png and samples/compressed.png
quality/         one file for each metric of the samples
statistics.py    percentiles, paired ratios, means with intervals
environment.py   the machine that figures come from
results.py       results as report.json holds them
"""
