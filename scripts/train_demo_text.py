#!/usr/bin/env python3
"""Train demo-text: coloured clothes from words, a StableDiffusionPipeline of 32x32 pixels.

    apt-get install dataset-fashion-mnist
    python scripts/train_demo_text.py --vae VAE --out demo-text --minutes 50

``VAE`` is the folder of an AutoencoderKL of coloured Fashion-MNIST, 32x32x3 to 8x8x4; with
``--vae-minutes`` one is trained into it first. The U-Net and the text encoder learn together, in
latents. Checkpoints lie in OUT-work, with a sheet of samples each; the same command goes on from
the last one. The folder that is written has the moving average in fp16.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.training_utils import EMAModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

DATA = Path("/usr/share/datasets/fashion-mnist")
COLOURS = {
    "red": (1, 0.1, 0.1), "green": (0.1, 0.85, 0.2), "blue": (0.15, 0.3, 1),
    "yellow": (1, 0.9, 0.1), "purple": (0.65, 0.2, 0.9), "orange": (1, 0.5, 0.05),
    "white": (1, 1, 1), "pink": (1, 0.45, 0.7),
}  # fmt: skip
THINGS = (
    ("t-shirt", "tee"), ("pair of trousers", "pair of pants"), ("pullover", "sweater"),
    ("dress", "gown"), ("coat", "jacket"), ("sandal", "open shoe"), ("shirt", "blouse"),
    ("sneaker", "trainer"), ("bag", "handbag"), ("ankle boot", "boot"),
)  # fmt: skip
"""Two words for each of Fashion-MNIST's ten things, in the order of its labels."""
WORDINGS = (
    "a {c} {t}", "{c} {t}", "a photo of a {c} {t}", "one {c} {t} on black", "a {t} in {c}",
)  # fmt: skip
TOKENS = 16
"""The length of a text, in tokens: the longest wording has 11."""
LATENTS_OF_AN_IMAGE = 2
"""In how many colours each training image is encoded."""


def main() -> None:
    """Train until the minutes are over, then save and draw."""
    args = arguments()
    torch.set_num_threads(args.threads)
    work = args.out.with_name(f"{args.out.name}-work")
    work.mkdir(parents=True, exist_ok=True)
    if args.vae_minutes and not (args.vae / "config.json").exists():
        train_vae(args.vae, args.vae_minutes)
    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    training = Training(args, vae, new_tokenizer(work / "tokenizer"), work)
    training.run()
    training.save(args.out)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--vae", required=True, type=Path)
    parser.add_argument("--vae-minutes", type=float, default=0, help="train the VAE this long")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--every", type=int, default=1000, help="steps from checkpoint to checkpoint"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# What it learns from.


def read_images(split: str) -> tuple[Tensor, Tensor]:
    """Grey images (N, 1, 32, 32) in [0, 1], padded with black, and labels (N,)."""
    pixels = np.frombuffer(_unpacked(f"{split}-images-idx3-ubyte.gz"), np.uint8, offset=16)
    padded = np.pad(pixels.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))
    labels = np.frombuffer(_unpacked(f"{split}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    return torch.from_numpy(padded.astype(np.float32) / 255), torch.from_numpy(labels.astype(int))


def _unpacked(name: str) -> bytes:
    return gzip.decompress((DATA / name).read_bytes())


def coloured(grey: Tensor, colours: Tensor) -> Tensor:
    """Grey images in [0, 1] and colours (N,) become images (N, 3, 32, 32) in [-1, 1]."""
    table = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    return grey * table[colours][:, :, None, None] * 2 - 1


def wording(colour: int, thing: int, random: np.random.Generator) -> str:
    """A text for an image: mostly colour and thing, sometimes one of them, a tenth nothing."""
    name, noun = list(COLOURS)[colour], THINGS[thing][random.integers(2)]
    kind = random.random()
    if kind < 0.1:
        return ""
    if kind < 0.13:
        return with_article(f"a {noun}")
    if kind < 0.16:
        return f"something {name}"
    return with_article(WORDINGS[random.integers(len(WORDINGS))].format(c=name, t=noun))


def with_article(text: str) -> str:
    """``a orange bag`` becomes ``an orange bag``."""
    words = text.split()
    for i, (word, following) in enumerate(pairwise(words)):
        if word == "a" and following[0] in "aeiou":
            words[i] = "an"
    return " ".join(words)


def new_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges are those of the wordings; every byte has a token."""
    if not (folder / "vocab.json").exists():
        texts = [
            with_article(wording.format(c=colour, t=noun))
            for wording in (*WORDINGS, "something {c}")
            for colour in COLOURS
            for nouns in THINGS
            for noun in nouns
        ]
        trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        trained.pre_tokenizer = pre_tokenizers.Whitespace()
        trained.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=300, end_of_word_suffix="</w>")
        )
        merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
        letters = list(bytes_to_unicode().values())
        words = [*letters, *(f"{x}</w>" for x in letters), *("".join(pair) for pair in merges)]
        vocabulary = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {word: number for number, word in enumerate(vocabulary)}
        (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"),
        model_max_length=TOKENS, pad_token="<|endoftext|>",
    )  # fmt: skip


@torch.no_grad()
def latents(vae: AutoencoderKL, path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled latents (N, 4, 8, 8), colours (N,) and labels (N,) of the training images."""
    if not path.exists():
        grey, labels = read_images("train")
        random = torch.Generator().manual_seed(1)
        parts, colours = [], []
        for _ in range(LATENTS_OF_AN_IMAGE):
            for images in grey.split(500):
                chosen = torch.randint(len(COLOURS), (len(images),), generator=random)
                mean = vae.encode(coloured(images, chosen)).latent_dist.mean
                parts.append((mean * vae.config.scaling_factor).half())
                colours.append(chosen)
        labels = labels.repeat(LATENTS_OF_AN_IMAGE)
        torch.save((torch.cat(parts), torch.cat(colours), labels), path)
    return torch.load(path)


# The networks.


def new_unet() -> UNet2DConditionModel:
    """2.5 M parameters; the words are read at 4x4, where a call is cheap."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=16,
        block_out_channels=(64, 96), cross_attention_dim=64, attention_head_dim=(4, 6),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 64."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=TOKENS, projection_dim=64,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def new_scheduler() -> DDIMScheduler:
    """v prediction; the last step has a signal of .015, so that sampling may start from noise."""
    return DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.02,
        prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False,
        set_alpha_to_one=True, steps_offset=1,
    )  # fmt: skip


class Training:
    """The U-Net and the text encoder, learning together."""

    def __init__(self, args, vae: AutoencoderKL, tokenizer: CLIPTokenizer, work: Path) -> None:
        torch.manual_seed(args.seed)
        self.args, self.vae, self.tokenizer, self.work = args, vae, tokenizer, work
        self.unet, self.encoder = new_unet(), new_text_encoder(tokenizer)
        self.scheduler = new_scheduler()
        self.parameters = [*self.unet.parameters(), *self.encoder.parameters()]
        self.ema = EMAModel(self.parameters, decay=0.9995, use_ema_warmup=True, power=0.75)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=args.lr, betas=(0.9, 0.99))
        self.step, self.seconds, self.losses = 0, 0.0, []
        if (work / "checkpoint.pt").exists():
            self.resume()

    def run(self) -> None:
        """Steps until the minutes are over; a checkpoint and a sheet of samples now and then."""
        data = latents(self.vae, self.work / "latents.pt")
        # fused attention has no fast backward pass in bf16 on a processor
        self.unet.set_attn_processor(AttnProcessor())
        start = time.monotonic() - self.seconds
        while (share := (time.monotonic() - start) / (self.args.minutes * 60)) < 1:
            for group in self.optimizer.param_groups:
                ramp = min(1, (self.step + 1) / 200)
                group["lr"] = self.args.lr * ramp * 0.5 * (1 + math.cos(math.pi * share))
            loss = self.loss(*data, np.random.default_rng(self.step))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.ema.step(self.parameters)
            self.step += 1
            self.losses.append(loss.item())
            if self.step % self.args.every == 0:
                self.seconds = time.monotonic() - start
                self.checkpoint()
        self.seconds = time.monotonic() - start
        self.unet.set_attn_processor(AttnProcessor2_0())

    def loss(self, clean: Tensor, colours: Tensor, labels: Tensor, random) -> Tensor:
        """Mean squared error of v (Salimans and Ho 2022, section 4) for a batch of ``random``."""
        rows = torch.from_numpy(random.integers(len(clean), size=self.args.batch))
        texts = [
            wording(c, t, random)
            for c, t in zip(colours[rows].tolist(), labels[rows].tolist(), strict=True)
        ]
        x = clean[rows].float()
        noise = torch.from_numpy(random.standard_normal(x.shape, np.float32))
        half = random.integers(1000, size=self.args.batch // 2)
        # pairs (t, 999 - t) have half the variance of independent timesteps
        t = torch.from_numpy(np.concatenate([half, 999 - half]))
        with torch.autocast("cpu", torch.bfloat16):
            noisy = self.scheduler.add_noise(x, noise, t)
            predicted = self.unet(noisy, t, self.read(texts)).sample
        return functional.mse_loss(predicted.float(), self.scheduler.get_velocity(x, noise, t))

    def read(self, texts: list[str]) -> Tensor:
        """The encoder's last states (N, TOKENS, 64), each text encoded once."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        different, places = torch.unique(tokens.input_ids, dim=0, return_inverse=True)
        return self.encoder(different)[0][places]

    def checkpoint(self) -> None:
        """Everything that ``resume`` needs, and what the moving average paints."""
        loss = float(np.mean(self.losses[-self.args.every :]))
        print(f"step {self.step}: loss {loss:.4f}, {self.seconds / 60:.1f} minutes", flush=True)
        state = {name: getattr(self, name).state_dict() for name in _STATES}
        part = self.work / "checkpoint.part"
        torch.save({**state, "step": self.step, "seconds": self.seconds}, part)
        part.replace(self.work / "checkpoint.pt")
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        draw(self.pipeline(), self.work / f"sheet-{self.step}.png")
        self.ema.restore(self.parameters)

    def resume(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.work / "checkpoint.pt", weights_only=True)
        for name in _STATES:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]

    def pipeline(self) -> StableDiffusionPipeline:
        """The pipeline around the networks as they are now."""
        return StableDiffusionPipeline(
            vae=self.vae, text_encoder=self.encoder, tokenizer=self.tokenizer, unet=self.unet,
            scheduler=self.scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip

    def save(self, out: Path) -> None:
        """The pipeline's folder in fp16, and a sheet of its samples beside it."""
        print(f"{self.step} steps in {self.seconds / 60:.1f} minutes", flush=True)
        self.ema.copy_to(self.parameters)
        pipeline = self.pipeline()
        draw(pipeline, out.with_name(f"{out.name}-sheet.png"), steps=50)
        pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)


_STATES = ("unet", "encoder", "optimizer", "ema")


def draw(pipeline: StableDiffusionPipeline, path: Path, steps: int = 20) -> None:
    """A sheet: a row for each colour, a column for each thing."""
    texts = [with_article(f"a {c} {nouns[0]}") for c in COLOURS for nouns in THINGS]
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        texts, num_inference_steps=steps, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).images  # fmt: skip
    rows = images.reshape(len(COLOURS), len(THINGS), 32, 32, 3).swapaxes(1, 2)
    pixels = (rows.reshape(len(COLOURS) * 32, len(THINGS) * 32, 3) * 255).round().astype(np.uint8)
    sheet = Image.fromarray(pixels)
    sheet.resize((sheet.width * 4, sheet.height * 4), Image.Resampling.NEAREST).save(path)


# The VAE.


def new_vae() -> AutoencoderKL:
    """0.4 M parameters; 32x32x3 become 8x8x4."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32, 48),
        layers_per_block=1, norm_num_groups=8, sample_size=32, mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip


def train_vae(folder: Path, minutes: float) -> None:
    """Reconstruction (squares and half the absolute values) and a little of the KL distance."""
    grey, _ = read_images("train")
    torch.manual_seed(0)
    vae = new_vae()
    ema = EMAModel(vae.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99))
    start = time.monotonic()
    while (share := (time.monotonic() - start) / (minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * share))
        rows = torch.randint(len(grey), (32,))
        images = coloured(grey[rows], torch.randint(len(COLOURS), (32,)))
        posterior = vae.encode(images).latent_dist
        again = vae.decode(posterior.sample()).sample
        loss = functional.mse_loss(again, images) + 0.5 * functional.l1_loss(again, images)
        loss = loss + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        ema.step(vae.parameters())
    ema.copy_to(vae.parameters())
    with torch.no_grad():
        mean = vae.encode(coloured(grey[:2000], torch.arange(2000) % len(COLOURS))).latent_dist.mean
    vae.register_to_config(scaling_factor=round(float(1 / mean.std()), 5))
    vae.save_pretrained(folder)


if __name__ == "__main__":
    main()
