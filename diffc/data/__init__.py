"""Clean samples for calibration and distillation, from any source.

clean.py       CleanSet: samples x_0 and their conditions, on disk as safetensors
images.py      a folder of images or an .npz -> CleanSet, skipping and counting what is broken
image_folders.py  which files of a folder are images, which folders classes
prompt_file.py  a text file -> its prompts
recipe_of_model.py  the recipe of a run of a model, with the prompts that it ships with
hub_datasets.py  a Hugging Face data set on disk, for images.py
latents.py     images <-> latents through the pipeline's VAE
prompts.py     a text file -> conditions, by the pipeline's text encoders
synthetic.py   the dense model's own samples -> CleanSet, when the user has no data
states.py      what drawn samples went through, for trajectories along the same way
activations.py  what a call keeps in memory beside the weights
batches.py     works in batches for which memory has room
conditions.py  conditions other than text
image_conditions.py  masks, masked images and images to edit, of the clean samples' pictures
guidance.py    the scale of classifier-free guidance, and why a model is sampled without it
loops.py       the loops of a run: what its recipe names, settled on the model
inputs.py      the denoiser's inputs in one run: its own, at the text length of the data
precision.py   the fast floating-point type of a device, and forward passes in it
processes.py   the processes that torchrun or ``accelerate launch`` started, and the data that they
               share
sharding.py    networks that are sharded over these processes
labels.py      class labels that are drawn, without torch
randomness.py  random numbers that depend on a key alone, never on earlier draws
student_loops.py  the loops that a student can be distilled for
sampling.py    from noise to images with the torch model, by any of the runtime's loops
tensors.py     reads a safetensors file of the denoiser's own inputs
"""
