"""Images from an output folder, in Python and on the command line.

    opening.py      pipeline(): the engine that runs here, or torch
    loading.py      load(): the same, and a model as a pipeline of diffusers
    engine.py       which engine of OUT runs here, and why the others do not
    torch_model.py  OUT/model, or the dense model, as torch runs it

The loop itself is diffc_runtime's: the one that a bundle and a server run.
"""
