"""Clean samples for calibration and distillation, whatever they come from.

clean.py       CleanSet: samples x_0 and their conditions, on disk as safetensors
images.py      a folder of images or an .npz -> CleanSet, skipping and counting what is broken
synthetic.py   the dense model's own samples -> CleanSet, when the user has no data
"""
