"""LoRAs: low-rank changes of a model's weights, which a file beside the model holds.

A pair of tensors A (r, in) and B (out, r) changes the weight of one layer:

    W' = W + weight * alpha / r * B A        (Hu et al., LoRA, 2021; of convolutions likewise)

files.py    a LoRA file on disk: refused or identified, without importing torch
keys.py     the names of tensors in LoRA files: peft's, diffusers' and kohya's
pairs.py    LoRA file + names and shapes of a component's tensors -> the pairs of its layers
fusing.py   pairs added to weights; the check that a LoRA fits, from headers alone
"""
