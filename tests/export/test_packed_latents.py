"""Tokens of packed latents come to the decoder as the latents that it takes."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from diffc_runtime.bundles import batched_decoder
from diffc_runtime.errors import UnfitEngine
from diffc_runtime.packing import unpack_latents


@pytest.mark.parametrize(("channels", "height", "width"), [(2, 16, 16), (16, 8, 12)])
def test_tokens_are_unpacked_as_fluxs_pipeline_unpacks_them(channels, height, width):
    latents = torch.randn(3, channels, height, width)
    tokens = FluxPipeline._pack_latents(latents, 3, channels, height, width)
    back = unpack_latents(tokens.numpy(), (channels, height, width))
    assert np.array_equal(back, latents.numpy())


def test_the_decoder_gets_latents_of_its_own_shape():
    shapes = []

    def run(arrays):
        shapes.append(arrays["latent"].shape)
        return arrays["latent"]

    decode = batched_decoder(run, "latent", "float32", [(1, 2)], (2, 4, 4))
    assert decode(np.zeros((3, 4, 8), np.float32)).shape == (3, 2, 4, 4)
    assert decode(np.zeros((1, 2, 4, 4), np.float32)).shape == (1, 2, 4, 4)
    assert shapes == [(2, 2, 4, 4), (1, 2, 4, 4), (1, 2, 4, 4)]


def test_tokens_of_other_latents_are_refused():
    with pytest.raises(UnfitEngine, match="do not unpack"):
        unpack_latents(np.zeros((1, 5, 8)), (2, 4, 4))
