"""How a model's attention is computed: what `model.attention` asks for, where it can be had."""

from typing import Any, Literal

from jax.sharding import Mesh

from cotjax.config import ModelConfig
from cotjax.errors import InputError
from cotjax.models.architecture import Architecture

AMPERE, HOPPER = (8, 0), (9, 0)  # compute capabilities of GPUs
WIDEST, WIDEST_OF_HOPPER = 128, 256  # heads that cuDNN's kernel takes


def attention_of(
    model: ModelConfig, shape: Architecture, mesh: Mesh, *, strict: bool = True
) -> Literal["dense", "flash", "cudnn"]:
    """How the attention of a model is computed on some devices.

    Args:
      model: its settings.
      shape: of its decoder.
      mesh: the devices.
      strict: refuse "cudnn" where cuDNN's kernel does not fit; if not, the model has matrix
        products there, as a teacher beside a student whose attention the setting is.

    Returns:
      "auto" becomes "flash" on TPUs, "cudnn" on NVIDIA GPUs if its kernel fits, else "dense".

    Raises:
      InputError: "cudnn" where it does not fit.
    """
    device = mesh.devices.flat[0]
    if model.attention in ("dense", "flash"):
        return model.attention
    if model.attention == "auto" and device.platform == "tpu":
        return "flash"
    unfit = unfit_for_cudnn(model.compute_dtype, shape, device)
    if not unfit:
        return "cudnn"
    if model.attention == "cudnn" and strict:
        raise InputError(f'model.attention = "cudnn": {unfit}')
    return "dense"


def unfit_for_cudnn(compute_dtype: str, shape: Architecture, device: Any) -> str:
    """Why cuDNN's kernel does not fit, and what to set; empty if it does.

    Source: `check_is_flash_attention` in jax/_src/cudnn/fused_attention_stablehlo.py, JAX 0.10.
    """
    dense = 'Set model.attention = "auto" or "dense".'
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return f"it is a kernel of NVIDIA GPUs, and JAX computes on {device.device_kind}. {dense}"
    capability = tuple(int(part) for part in device.compute_capability.split("."))
    if capability < AMPERE:
        return (
            f"{device.device_kind} has compute capability {device.compute_capability}, and its "
            f"kernel needs 8.0 (Ampere). {dense}"
        )
    if compute_dtype != "bfloat16":
        return (
            f'with model.compute_dtype = "{compute_dtype}"; its kernel takes bfloat16. Set '
            'model.compute_dtype = "bfloat16", or model.attention = "auto" or "dense".'
        )
    widest = WIDEST_OF_HOPPER if capability >= HOPPER else WIDEST
    if shape.head_dim > widest or shape.head_dim % 8:
        return (
            f"the model's heads are {shape.head_dim} wide; on {device.device_kind} its kernel "
            f"takes multiples of 8 up to {widest}. {dense}"
        )
    if shape.attention_softcap:
        return f"the model caps its attention scores softly, and its kernel does not. {dense}"
    return ""
