"""Host memory while a 3B model is loaded: what the process needs beyond the parameters it holds.

    python benchmarks/load_memory.py [--devices 1] [--folder /tmp] [--keep]

Writes a random checkpoint of the shape of Qwen2.5-3B in bfloat16 shards (6.2 GB, removed at the
end), loads it in a process of its own on the CPU, whose device memory is host memory, and prints
the peak of the resident set less what was there before: divided by the bytes of the parameters,
and what is above them by the largest tensor of the checkpoint. With several devices the
parameters are split over them. Every tensor is compared with the file afterwards.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from cotjax.models.architecture import Architecture
from cotjax.models.formats import huggingface
from cotjax.models.formats.config_json import config_of
from cotjax.models.formats.weights import named_tensors, tensor_shapes

QWEN = Architecture("qwen2", 151_936, 2048, 36, 16, 2, 128, 11_008, norm_eps=1e-6, qkv_bias=True)
SHARD_BYTES = 3 * 10**9


def write(folder):
    """A checkpoint whose every tensor is random, tensor by tensor."""
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(QWEN)
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes.items()}
    starts = np.cumsum([0, *sizes.values()]) // SHARD_BYTES
    weight_map = {}
    for number in range(starts[-1] + 1):
        names = [name for name, start in zip(shapes, starts, strict=False) if start == number]
        tensors = {
            name: rng.integers(0, 2**14, shapes[name], np.uint16).view(jnp.bfloat16)
            for name in names
        }
        file = f"model-{number + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config_of(QWEN, "bfloat16")))
    return sizes


def split(params):
    """Every parameter over all devices, along its last axis if it divides."""
    mesh = Mesh(np.asarray(jax.devices()), ("fsdp",))

    def one(leaf):
        last = "fsdp" if leaf.shape[-1] % mesh.size == 0 else None
        return NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), last))

    return jax.tree.map(one, params)


def load(folder):
    """Loads and prints, as JSON, the seconds and the peak above the start in bytes."""
    jnp.zeros(1).block_until_ready()
    # Ends the peak of starting up: pages of libraries come and go with it.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    start = time.perf_counter()
    place = split if jax.device_count() > 1 else None
    model = huggingface.load(folder, param_dtype="bfloat16", dtype="bfloat16", place=place)
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
    tensors = huggingface.SafetensorsFolder(folder)
    for name, values in named_tensors(model, jnp.bfloat16):
        if not np.array_equal(values.view(np.uint16), tensors.read(name).view(np.uint16)):
            raise SystemExit(f"{name} is not what was written")
    print(json.dumps({"seconds": seconds, "peak": peak}))


def memory(field):
    """Bytes, from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        return load(args.load)
    folder = args.folder / "cotjax-load-memory"
    try:
        folder.mkdir(exist_ok=True)
        sizes = write(folder)
        flags = f"--xla_force_host_platform_device_count={args.devices}"
        result = subprocess.run(
            [sys.executable, __file__, "--load", str(folder)],
            env=os.environ | {"XLA_FLAGS": flags},
            check=True,
            stdout=subprocess.PIPE,
        )
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    found = json.loads(result.stdout)
    total, largest = sum(sizes.values()), max(sizes.values())
    print(f"parameters {total / 1e9:.2f} GB, largest tensor {largest / 1e6:.0f} MB")
    print(f"{args.devices} devices, {found['seconds']:.0f} s, peak {found['peak'] / 1e9:.2f} GB")
    print(f"peak / parameters          {found['peak'] / total:.3f}")
    print(f"above them / largest tensor {(found['peak'] - total) / largest:.2f}")


if __name__ == "__main__":
    main()
