"""ONNX: the line between the half of diffc that needs torch and the half that does not.

export.py      denoiser -> model.onnx, checked, with model.json
reference.py   what torch gave at real noisy inputs: reference.safetensors, for parity anywhere
"""
