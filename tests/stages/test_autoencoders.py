"""Autoencoders of other classes than AutoencoderKL, exported and built: torch is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_autoencoders import AUTOENCODERS, inpainting, save_latent_pipeline
from support.tiny_prompts import TARGET
from support.tiny_text import save_sd

import diffc
from diffc.data.latents import latent_factors, pixel_shape, scale_factor
from diffc.errors import InputError
from diffc.layouts.write import LAYOUTS, PipelineWriter
from diffc.models.autoencoders import autoencoder, full_config
from diffc.models.source import find_source
from diffc.recipe import Recipe
from diffc.runner import StageRunner
from diffc.stages.decoder import decoder_build_stage, decoder_notes, decoder_stage
from diffc.stages.masked_decoder import masked_decoder_notes, masked_decoder_stage
from diffc.stages.vae_encoder import vae_encoder_build_stage, vae_encoder_stage
from diffc_export.events import drain
from diffc_runtime.bundles import decoder_of, vae_encoder_of
from diffc_runtime.engines import open_engine

ONE_SIZE = ("deep-compression", "asymmetric")
"""Two of Sana's are served in test_prompt_conditions.py."""


@pytest.fixture(scope="module", params=AUTOENCODERS)
def built(request, tmp_path_factory) -> tuple[Path, Path, tuple[str, ...]]:
    """(a pipeline's folder, the engines of its VAE's decoder and encoder, the latents' sizes)."""
    place = tmp_path_factory.mktemp("vae")
    model = save_latent_pipeline(place / "model", request.param)
    source, out = find_source(model), place / "out"
    sizes = ("8x8",) if request.param in ONE_SIZE else ("8x12", "12x8")
    recipe = Recipe.model_validate({"export": {"resolution": list(sizes)}}).for_target(TARGET)
    runner = StageRunner(out, place / "cache")
    for export, build in (
        (decoder_stage, decoder_build_stage),
        (vae_encoder_stage, vae_encoder_build_stage),
    ):
        drain(runner.do(export(source, recipe)))
        drain(runner.do(build(out, recipe, TARGET)))
    return model, out / "engines" / TARGET, sizes


@pytest.mark.slow
def test_engines_decode_and_encode_as_torch_does(built):
    model, engines, sizes = built
    vae = diffc.load(model).vqvae
    decoder = open_engine(engines / "decoder")
    scale, shift = latent_factors(dict(vae.config))
    assert decoder.info["source"]["scaling_factor"] == scale
    assert decoder.info["source"]["shift_factor"] == shift == 0
    decode, encode = decoder_of(decoder), vae_encoder_of(engines / "encoder")
    assert encode is not None
    for size in sizes:
        sides = map(int, size.split("x"))
        latents = torch.randn(3, 4, *sides, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            images = vae.decode(latents, return_dict=False)[0]
            posterior = vae.encode(images.clamp(-1, 1), return_dict=False)[0]
        got = decode(latents.numpy())
        assert images.std() > 0.01
        np.testing.assert_allclose(got, images.numpy(), atol=1e-4, rtol=1e-4)
        mean, deviation = encode(images.clamp(-1, 1).numpy())
        exact = posterior if isinstance(posterior, torch.Tensor) else posterior.mean
        assert exact.shape == latents.shape and exact.std() > 0.01
        np.testing.assert_allclose(mean, exact.numpy(), atol=1e-4, rtol=1e-4)
        if isinstance(posterior, torch.Tensor):
            assert not deviation.any()
        else:
            np.testing.assert_allclose(deviation, posterior.std.numpy(), rtol=1e-3)


def test_pictures_have_the_classes_own_size(tmp_path):
    """An entry that the config leaves out is the class's default, as diffusers reads it."""
    for name, factor in {"tiny": 2, "vector-quantized": 2, "asymmetric": 2}.items():
        source = find_source(save_latent_pipeline(tmp_path / name, name))
        assert scale_factor(source) == factor
        assert pixel_shape(source, (4, 8, 6)) == (3, 8 * factor, 6 * factor)
        config = tmp_path / name / "vqvae" / "config.json"
        left_out = {k: v for k, v in json.loads(config.read_text()).items() if "factor" not in k}
        config.write_text(json.dumps(left_out))
        assert source.vae is not None
        exact = diffc.load(tmp_path / name).vqvae.config
        part = find_source(tmp_path / name).vae
        assert part is not None and "scaling_factor" not in part.config
        assert latent_factors(full_config(part)) == (exact.scaling_factor, 0.0)


def test_a_vae_of_an_unknown_class_is_named_before_the_work(tmp_path):
    """The engines of such a pipeline give latents."""
    folder = save_latent_pipeline(tmp_path / "model", "tiny")
    assert decoder_notes(find_source(folder)) == []
    index = json.loads((folder / "model_index.json").read_text())
    index["vqvae"][1] = "AutoencoderKLTemporalDecoder"
    (folder / "model_index.json").write_text(json.dumps(index))
    source = find_source(folder)
    assert decoder_stage(source, Recipe()) is None and vae_encoder_stage(source, Recipe()) is None
    (note,) = decoder_notes(source)
    assert note.startswith("engines give latents and no images") and index["vqvae"][1] in note
    with pytest.raises(InputError, match="images cannot be encoded by a AutoencoderKLTemporal"):
        pixel_shape(source, (4, 8, 6))


@pytest.mark.parametrize(
    ("levels", "fits"),
    [
        ((8, 16, 32, 32), True),
        ((8, 16, 32, 64), True),
        ((8, 16, 16, 16), True),
        ((8, 8, 16, 16), True),
        ((8, 16, 24, 24), True),
        ((8, 16, 32), True),
        ((8, 8), True),
        ((8, 24, 32, 32), False),
        ((8, 16, 24, 32), False),
        ((8, 16, 32, 16), False),
        ((8, 16, 32, 32, 32), False),
    ],
)
def test_which_decoders_take_image_and_mask(levels, fits):
    """diffusers' own decoder ends in a KeyError where a level is missing."""
    vae = inpainting(levels)
    factor = 2 ** (len(levels) - 1)
    with torch.no_grad():
        given = [torch.zeros(1, c, 4 * factor, 4 * factor) for c in (3, 1)]
        if fits:
            vae.decode(torch.zeros(1, 4, 4, 4), image=given[0], mask=given[1])
        else:
            with pytest.raises(KeyError):
                vae.decode(torch.zeros(1, 4, 4, 4), image=given[0], mask=given[1])
    known = autoencoder("AsymmetricAutoencoderKL")
    assert known is not None and known.fits_mask(dict(vae.config)) == fits


def test_a_decoder_with_image_and_mask_is_exported_where_diffusers_gives_them(tmp_path):
    folder = save_sd(tmp_path / "model", inpainting)
    one, several = Recipe(), Recipe.model_validate({"export": {"resolution": [8, 12]}})
    assert masked_decoder_stage(find_source(folder), one) is not None
    assert masked_decoder_notes(find_source(folder), one) == []
    assert masked_decoder_stage(find_source(folder), several) is None
    (note,) = masked_decoder_notes(find_source(folder), several)
    assert "filled in by a mask differ" in note
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionXLPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert masked_decoder_stage(find_source(folder), one) is None
    other = find_source(save_sd(tmp_path / "other", lambda: inpainting((8, 24, 32, 32))))
    assert masked_decoder_stage(other, one) is None and decoder_stage(other, one) is not None


def test_readers_of_layouts_get_no_vae_that_they_do_not_know(tmp_path):
    """Its class would be taken for an AutoencoderKL."""
    folder = save_latent_pipeline(tmp_path / "model", "tiny")
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    writer = PipelineWriter(LAYOUTS["optimum"], find_source(folder), tmp_path / "out", "dense")
    with pytest.raises(InputError, match="the pipeline's VAE is a AutoencoderTiny"):
        writer.check()
