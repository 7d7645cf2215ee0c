#!/usr/bin/env python3
"""Train the demo model (diffc/shipped/demo) from Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python scripts/train_demo.py --out demo-model --minutes 120

Uses a GPU where there is one. Writes a diffusers pipeline folder with fp16 weights (the moving
average), prints the held-out loss as it goes, and draws a grid of samples at the end.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor

DATA = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT = 512


def main() -> None:
    """Train until the steps or the minutes are over, then save and sample."""
    args = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    model = new_model().to(device)
    if device.type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    ema = EMAModel(model.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    images, held_out = read_images("train"), read_images("t10k")[:HELD_OUT]
    for step, loss in enumerate(train(model, ema, scheduler, images, args, device), start=1):
        if step % args.report_every == 0:
            held = held_out_loss(model, ema, scheduler, held_out, device)
            print(f"step {step}: loss {loss:.4f}, held-out (EMA) {held:.4f}", flush=True)
    save(model, ema, scheduler, held_out, Path(args.out), device)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop earlier than this")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--report-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def new_model() -> UNet2DModel:
    """The architecture of the demo model, 4.4 M parameters."""
    return UNet2DModel(
        sample_size=32, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=16,
        block_out_channels=(64, 128, 128), attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def read_images(split: str) -> Tensor:
    """(N, 1, 32, 32) float32 in [-1, 1], padded with black."""
    raw = gzip.decompress((DATA / f"{split}-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    return torch.from_numpy(padded / 127.5 - 1)[:, None]


def train(model, ema, scheduler, images, args, device) -> Iterator[float]:
    """One optimiser step per item; yields the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    start = time.monotonic()
    for step in range(args.steps):
        share = max(step / args.steps, (time.monotonic() - start) / (args.minutes * 60))
        if share >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * share))
        clean = images[torch.randint(len(images), (args.batch,))].to(device)
        loss = noise_loss(model, scheduler, clean, antithetic(len(clean), device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.step(model.parameters())
        yield loss.item()


def antithetic(n: int, device: torch.device) -> Tensor:
    """n timesteps in pairs (t, 999 - t): half the variance of independent ones."""
    half = torch.randint(0, 1000, ((n + 1) // 2,), device=device)
    return torch.cat([half, 999 - half])[:n]


def noise_loss(model, scheduler, clean: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
    """Mean squared error of the predicted noise."""
    noise = torch.randn_like(clean) if noise is None else noise
    with torch.autocast(clean.device.type, torch.bfloat16):
        predicted = model(scheduler.add_noise(clean, noise, t), t).sample
    return torch.nn.functional.mse_loss(predicted.float(), noise)


@torch.no_grad()
def held_out_loss(model, ema, scheduler, held_out: Tensor, device: torch.device) -> float:
    """The moving average's loss on held-out images at evenly spread timesteps."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(held_out.shape, generator=generator)
    t = torch.linspace(0, 999, len(held_out)).long()
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    losses = [
        noise_loss(model, scheduler, x.to(device), s.to(device), e.to(device)).item()
        for x, s, e in zip(held_out.split(64), t.split(64), noise.split(64), strict=True)
    ]
    ema.restore(model.parameters())
    return sum(losses) / len(losses)


def save(model, ema, scheduler, held_out, out: Path, device: torch.device) -> None:
    """The pipeline folder in fp16, and samples.png beside it."""
    print(f"held-out loss: {held_out_loss(model, ema, scheduler, held_out, device):.4f}")
    ema.copy_to(model.parameters())
    half = copy.deepcopy(model).to(dtype=torch.float16)
    DDPMPipeline(unet=half, scheduler=scheduler).save_pretrained(out)
    draw_samples(model, out.with_name(f"{out.name}-samples.png"), device)


@torch.no_grad()
def draw_samples(model, path: Path, device: torch.device, n: int = 32, steps: int = 50) -> None:
    """A grid of DDIM samples, seed 0."""
    from PIL import Image

    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t).sample, t, x).prev_sample
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).byte().cpu().numpy()[:, 0]
    grid = pixels.reshape(-1, 8, 32, 32).swapaxes(1, 2).reshape(-1, 8 * 32)
    Image.fromarray(grid).resize((1024, grid.shape[0] * 4), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
