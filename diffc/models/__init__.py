"""What diffc knows of the models that it is given: the front end.

source.py       MODEL on the command line -> a checked folder, without importing torch
load.py         folder -> diffusers pipeline, dense or compressed, without unpickling
diffusion.py    the noising process: parametrisations, schedules, losses in epsilon space
mapped.py       the denoiser with its weights mapped from their files
noise_levels.py where a flow-matching pipeline places its noise levels, by the image's size
families/       one file per denoiser class: its inputs, its call, what can be cut
loras/          LoRA files: their names, what they change, and how they are fused
texts/          one file per kind of text encoder: what it gives, and how it becomes an engine
autoencoders.py  the classes of VAEs whose decoder and encoder are exported
channels.py     channels in and out of a denoiser
checking.py     checks from a config and file headers whether a component can be opened; reads no
                weights
class_names.py  translates older and misspelt class names of configs into the names of today
classes.py      the classes that a model's files name, in the installed libraries
components.py   the components of a model
config_values.py  turns config values that cannot be used into one line, wherever a config is read
cut.py          compressed models: pruning.json, and loading them again without pickle
denoiser.py     a denoiser with everything that training, sampling and measuring it ask for
dry_run.py      calls the denoiser once on the meta device, from its configs alone
dtypes.py       the dtypes in which a compressed denoiser is saved
files.py        reads and checks the files of a model folder without torch
foreign.py      turns the errors of libraries that read a user's files into one line, and silences
                their logs
groups.py       groups: channels that must be cut together
hub.py          downloads the files of a hub id that a run uses, and no others, into a folder
inputs.py       the inputs of a model's denoiser
key_names.py    compares the tensors of a checkpoint with those of the model, by name and shape,
                before loading
layer_rows.py   a layer's inputs and outputs at sampled positions, as rows
layout.py       finds the files of one component's weights in a folder
onnx_export.py  exports a denoiser of a known family as an ONNX folder, by diffc_export
other_parts.py  the parts of a pipeline beside the denoiser
reasons.py      errors for folders that hold no model that diffc can take
resolutions.py  the resolutions that a model takes and one export serves, from the config alone,
                without torch
save.py         a pipeline folder around a cut denoiser
schedulers.py   the scheduler classes of diffusers that diffc supports, and how each reads its
                config
shallower.py    a network that lost whole blocks alone, as its own class has it: fewer layers
shipped.py      the models that ship with diffc, by name
sizes.py        keeps the size attributes of modules equal to the shapes of their tensors
states.py       the tensors of a component's weights
vae_encoder.py  the encoder of a pipeline's VAE as an ONNX folder
branches.py     parts of a network that can be left out whole: branches and blocks
without_memory.py  what calls of networks take of memory, counted on tensors that have none
"""
