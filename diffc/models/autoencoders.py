"""The classes of autoencoders whose decoder and encoder diffc exports beside the denoiser.

    autoencoder    the facts of a class; None where diffc exports none of it
    full_config    a VAE's config with its class's defaults

They are exported whole. The decoder of AutoencoderKL, which is a family too, can be cut where it is
the model that is compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from diffc.models.components import Component
from diffc.models.config_values import constructor_defaults
from diffc.models.families import family, family_names
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn


class Autoencoder:
    """What diffc knows of a class; the defaults are AutoencoderKL's."""

    levels: ClassVar[str] = "block_out_channels"
    """The config's entry that has a value for each of the encoder's levels, halved but for one."""
    has_posterior: ClassVar[bool] = True
    """True if the encoder gives mean and variance; False if it gives the latents."""
    takes_masked_image: ClassVar[bool] = False
    """True if diffusers' inpainting gives the decoder the image and the mask beside the latents."""

    def factor(self, config: JsonObject) -> int:
        """Return the pixels for each latent position along an edge.

        Args:
            config: The whole config; one without levels is of a VAE that keeps the size.
        """
        return int(2 ** (len(config.get(self.levels) or [0]) - 1))

    def decode(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the images (B, C, H, W) of latents ``sample`` (B, c, h, w)."""
        images: Tensor = model.decode(inputs["sample"], return_dict=False)[0]  # type: ignore[operator]
        return images

    def decode_masked(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the images (B, C, H, W) of latents ``sample``, where ``mask`` is 1.

        Where it is 0 they are, nearly, ``image``. For classes with ``takes_masked_image`` alone.

        Args:
            model: The VAE.
            inputs: ``sample`` (B, c, h, w), ``image`` (B, C, H, W), ``mask`` (B, 1, H, W).
        """
        call: Callable[..., tuple[Tensor]] = model.decode  # type: ignore[assignment]
        beside = {"image": inputs["image"], "mask": inputs["mask"]}
        return call(inputs["sample"], **beside, return_dict=False)[0]

    def fits_mask(self, config: JsonObject) -> bool:
        """Return True if the decoder's levels are such that it can take image and mask.

        Args:
            config: The whole config.
        """
        return self.takes_masked_image

    def encode(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return what the encoder knows of the latents of images ``sample`` (B, C, H, W).

        Returns:
            Mean and logarithm of the variance (B, 2 c, h, w); of a class without a posterior, the
            latents (B, c, h, w).
        """
        encoded = model.encode(inputs["sample"], return_dict=False)[0]  # type: ignore[operator]
        values: Tensor = encoded.parameters if self.has_posterior else encoded
        return values


class _DeepCompression(Autoencoder):
    """Sana's: levels of residual blocks, then of linear attention."""

    levels = "encoder_block_out_channels"
    has_posterior = False

    def decode(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return images."""
        from diffc.models.families.exporting import exporter_workarounds

        with exporter_workarounds():  # linear attention divides by a sum + 1e-15
            return super().decode(model, inputs)

    def encode(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return latents."""
        from diffc.models.families.exporting import exporter_workarounds

        with exporter_workarounds():
            return super().encode(model, inputs)


class _Tiny(Autoencoder):
    """TAESD and its kin: a small stand-in for the VAEs of Stable Diffusion and FLUX."""

    levels = "encoder_block_out_channels"
    has_posterior = False


class _VectorQuantized(Autoencoder):
    """Latent diffusion's: the decoder takes the nearest vectors of a code book."""

    has_posterior = False


class _Asymmetric(Autoencoder):
    """AutoencoderKL's encoder and a larger decoder, which takes what a mask keeps of an image."""

    levels = "down_block_out_channels"
    takes_masked_image = True

    def fits_mask(self, config: JsonObject) -> bool:
        """Return True if the image's own encoder has what each of the decoder's levels looks up.

        diffusers' MaskConditionEncoder halves the image's sides three times at most. Of a level
        that it does not have, or has with other channels, the decoder ends in a KeyError.
        """
        levels = [int(channels) for channels in config["up_block_out_channels"]]
        widths, channels = list[int](), levels[0]
        for _ in range(4):
            widths.append(min(channels, levels[-1]))
            channels = 2 * widths[-1]
        there = {*zip((0, 0, 1, 2, 3), [*widths, levels[-1]], strict=True)}
        count = len(levels)
        needed = {(count - 1, levels[-1]), (0, levels[0])}
        needed |= {(halvings, levels[halvings + 1]) for halvings in range(count - 1)}
        return len(config[self.levels]) == count and needed <= there


_OWN: Mapping[str, Autoencoder] = {
    "AutoencoderDC": _DeepCompression(),
    "AutoencoderTiny": _Tiny(),
    "VQModel": _VectorQuantized(),
    "AsymmetricAutoencoderKL": _Asymmetric(),
}


def autoencoder(class_name: str) -> Autoencoder | None:
    """Return the facts of a class; None where diffc exports no VAE of it.

    Args:
        class_name: As config.json's ``_class_name`` has it.
    """
    if class_name in _OWN:
        return _OWN[class_name]
    is_decoder = class_name in family_names() and not family(class_name).is_denoiser
    return Autoencoder() if is_decoder else None


def full_config(part: Component) -> JsonDict:
    """Return a VAE's config, with its class's defaults for the keys that it leaves out.

    Stable Diffusion 1.4's has no ``scaling_factor``.
    """
    import diffusers

    return constructor_defaults(getattr(diffusers, part.class_name, None)) | dict(part.config)
