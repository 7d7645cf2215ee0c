"""Clean samples for calibration and distillation, from any source.

clean.py       CleanSet: samples x_0 and their conditions, on disk as safetensors
images.py      a folder of images or an .npz -> CleanSet, skipping and counting what is broken
image_folders.py  which files of a folder are images, which folders classes
prompt_file.py  a text file -> its prompts
hub_datasets.py  a Hugging Face data set on disk, for images.py
latents.py     images <-> latents through the pipeline's VAE
prompts.py     a text file -> conditions, by the pipeline's text encoders
synthetic.py   the dense model's own samples -> CleanSet, when the user has no data
"""
