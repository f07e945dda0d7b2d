"""How a model's attention is computed, by its settings and its devices."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.student.attention import attention_of
from tests.tiny import SHAPE


def device(platform="gpu", capability="9.0", version="cuda 12090", kind="NVIDIA H100"):
    client = SimpleNamespace(platform_version=version)
    return SimpleNamespace(
        platform=platform, compute_capability=capability, client=client, device_kind=kind
    )


def found(attention, on, shape=SHAPE, dtype="bfloat16", **more):
    flags = [f"--model.attention={attention}", f"--model.compute-dtype={dtype}"]
    mesh = SimpleNamespace(devices=np.array([on], dtype=object))
    return attention_of(load(["--stage=sft", *flags]).model, shape, mesh, **more)


H100, A100 = device(), device(capability="8.0", kind="NVIDIA A100")
T4 = device(capability="7.5", kind="Tesla T4")
AMD = device(version="rocm 60300", kind="AMD Instinct MI300X")
CPU, TPU = device("cpu", "", "", "cpu"), device("tpu", "", "", "TPU v5e")
WIDE = dataclasses.replace(SHAPE, head_dim=256)
ODD = dataclasses.replace(SHAPE, head_dim=20)
SOFT = dataclasses.replace(SHAPE, attention_softcap=50.0)


def test_auto_is_the_kernel_that_fits():
    assert found("auto", H100) == found("auto", A100) == found("cudnn", A100) == "cudnn"
    assert found("auto", TPU) == "flash"
    assert found("auto", CPU) == found("auto", T4) == found("auto", AMD) == "dense"
    assert found("auto", H100, dtype="float32") == found("auto", H100, SOFT) == "dense"
    assert found("auto", H100, WIDE) == "cudnn" and found("auto", A100, WIDE) == "dense"
    assert found("dense", H100) == "dense" and found("flash", CPU) == "flash"


@pytest.mark.parametrize(
    ("on", "shape", "dtype", "said"),
    [
        (CPU, SHAPE, "bfloat16", r'a kernel of NVIDIA GPUs, and JAX computes on cpu\. .*"dense"'),
        (AMD, SHAPE, "bfloat16", "a kernel of NVIDIA GPUs, and JAX computes on AMD"),
        (T4, SHAPE, "bfloat16", "Tesla T4 has compute capability 7.5, and .* needs 8.0"),
        (H100, SHAPE, "float32", 'with model.compute_dtype = "float32"; .* = "bfloat16"'),
        (A100, WIDE, "bfloat16", "heads are 256 wide; on NVIDIA A100 .* up to 128"),
        (H100, ODD, "bfloat16", "heads are 20 wide; .* multiples of 8 up to 256"),
        (H100, SOFT, "bfloat16", "caps its attention scores softly"),
    ],
)
def test_cudnn_is_refused_where_it_does_not_fit(on, shape, dtype, said):
    with pytest.raises(InputError, match=rf'^model.attention = "cudnn": .*{said}'):
        found("cudnn", on, shape, dtype)
    assert found("cudnn", on, shape, dtype, strict=False) == "dense"  # a teacher of another kind
