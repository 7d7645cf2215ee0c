"""Tiny pipelines that take prompts, a family each, and their engines without the whole chain."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from diffc.models.source import find_source
from diffc.recipe import Recipe
from diffc.runner import StageRunner
from diffc.stages.build import build_stage
from diffc.stages.decoder import decoder_build_stage, decoder_stage
from diffc.stages.masked_decoder import masked_decoder_build_stage, masked_decoder_stage
from diffc.stages.text import text_build_stages, text_exports
from diffc.stages.vae_encoder import vae_encoder_build_stage, vae_encoder_stage
from diffc_export.events import drain
from support import tiny_text
from support.family_cases import CASES
from support.tiny_autoencoders import sanas

TARGET = "ort-cpu"
WIDTH = 20
PROJECTION = 6


def t5_tokenizer() -> T5Tokenizer:
    """Of single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    return T5Tokenizer(
        vocab=[*pieces, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0
    )


def t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=30, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False,
        )
    )  # fmt: skip


def save_sd3(folder: Path, *, with_t5: bool = True) -> Path:
    """Two CLIPs of 8 and 8 channels and a T5 of 20."""
    torch.manual_seed(0)
    words = tiny_text.tokenizer(folder.with_name("words"))
    small = tiny_text.text_config(PROJECTION)
    small.hidden_size = 8
    vae = tiny_text.vae()
    vae.register_to_config(shift_factor=0.1)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**CASES["sd3"][1]),
        vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=CLIPTextModelWithProjection(small), tokenizer=words,
        text_encoder_2=CLIPTextModelWithProjection(small), tokenizer_2=words,
        text_encoder_3=t5() if with_t5 else None, tokenizer_3=t5_tokenizer() if with_t5 else None,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_flux(folder: Path, **more: int) -> Path:
    """CLIP's pooled output and T5; guidance is an input.

    Args:
        folder: The pipeline's folder.
        more: Other entries of the denoiser's config.
    """
    torch.manual_seed(0)
    small = tiny_text.text_config()
    small.hidden_size = 12
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=2, block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4, scaling_factor=0.5, shift_factor=0.1,
    )  # fmt: skip
    FluxPipeline(
        transformer=FluxTransformer2DModel(**CASES["flux"][1] | more), vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=CLIPTextModel(small),
        tokenizer=tiny_text.tokenizer(folder.with_name("words")),
        text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_pixart(folder: Path) -> Path:
    """T5 with its mask; the output has a learned variance."""
    torch.manual_seed(0)
    PixArtAlphaPipeline(
        transformer=PixArtTransformer2DModel(**CASES["pixart"][1]), vae=tiny_text.vae(),
        scheduler=DPMSolverMultistepScheduler(), text_encoder=t5(), tokenizer=t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sana(folder: Path) -> Path:
    """Gemma, after an instruction; images have 8 times the latent's sides."""
    torch.manual_seed(0)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *string.ascii_letters, "\u2581"]
    words = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    gemma = Gemma2Model(
        Gemma2Config(
            vocab_size=len(pieces), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=4096,
            pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )
    )  # fmt: skip
    SanaPipeline(
        transformer=SanaTransformer2DModel(**{**CASES["sana"][1], "num_layers": 1}), vae=sanas(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder=gemma, tokenizer=words,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_wan(folder: Path) -> Path:
    """UMT5; videos stay latents."""
    torch.manual_seed(0)
    umt5 = UMT5EncoderModel(
        UMT5Config(
            vocab_size=30, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip
    WanPipeline(
        transformer=WanTransformer3DModel(**CASES["wan"][1]), vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=umt5, tokenizer=t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


SAVERS: dict[str, Callable[[Path], object]] = {
    "sd": tiny_text.save_sd,
    "sdxl": tiny_text.save_sdxl,
    "sd3": save_sd3,
    "sd3-without-t5": lambda folder: save_sd3(folder, with_t5=False),
    "flux": save_flux,
    "pixart": save_pixart,
    "sana": save_sana,
}


def build_engines(model: Path, out: Path, cache: Path, size: Any = None) -> Path:
    """The dense denoiser, the decoder and the text encoders of a pipeline as engines in ``out``."""
    from diffc.models.diffusion import served_settings
    from diffc.models.onnx_export import export_denoiser
    from diffc.models.resolutions import multiple_of
    from diffc.stage_inputs import RunShape

    source = find_source(model)
    options: dict[str, Any] = {"export": {"resolution": size}} if size else {}
    recipe = Recipe.model_validate(options).for_target(TARGET)
    denoiser = RunShape.of(recipe).open(source)
    facts = {"scheduler": served_settings(source.scheduler), "unconditional": None}
    export_denoiser(
        denoiser.model, denoiser.family, denoiser.specs, out / "onnx" / "dense", facts=facts,
        sizes=recipe.export.sizes, multiple=multiple_of(source.class_name, source.config) or 1,
    )  # fmt: skip
    runner = StageRunner(out, cache)
    drain(runner.do(build_stage(out, recipe, TARGET, "dense")))
    decoder = decoder_stage(source, recipe)
    if decoder is not None:
        drain(runner.do(decoder))
        built = decoder_build_stage(out, recipe, TARGET)
        assert built is not None
        drain(runner.do(built))
        encoder = vae_encoder_stage(source, recipe)
        assert encoder is not None
        drain(runner.do(encoder))
        encoder_engine = vae_encoder_build_stage(out, recipe, TARGET)
        assert encoder_engine is not None
        drain(runner.do(encoder_engine))
        drain(runner.do_if_any(masked_decoder_stage(source, recipe)))
        drain(runner.do_if_any(masked_decoder_build_stage(out, recipe, TARGET)))
    return build_texts(model, out, cache, recipe)


def build_texts(model: Path, out: Path, cache: Path, recipe: Recipe | None = None) -> Path:
    """The text encoders of a pipeline alone."""
    recipe = recipe or Recipe().for_target(TARGET)
    source, runner = find_source(model), StageRunner(out, cache)
    drain(text_exports(runner, source, recipe))
    for stage in text_build_stages(out, recipe, TARGET):
        drain(runner.do(stage))
    return out
