"""What diffc knows of the models that it is given: the front end.

source.py       MODEL on the command line -> a checked folder, without importing torch
load.py         folder -> diffusers pipeline, dense or compressed, without unpickling
diffusion.py    the noising process: parametrisations, schedules, losses in epsilon space
noise_levels.py where a flow-matching pipeline places its noise levels, by the image's size
families/       one file per denoiser class: its inputs, its call, what can be cut
"""
