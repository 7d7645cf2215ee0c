"""The sections of a recipe, one file each; ``check:`` in a recipe file is ``check.py`` here.

base.py         RecipeSection: what all sections have in common
prune.py        what to remove, and how channels are ranked
data.py         clean samples
repair.py       least-squares weights right after the cut
distill.py      losses and training
training.py     what every training has
export.py       ONNX and resolutions
text.py         the text encoders of a pipeline
build.py        targets, precisions, batch sizes, and what single targets override
measure.py      how long to measure
quality.py      dense against compressed samples
check.py        what ``diffc check`` allows
"""
