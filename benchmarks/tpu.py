"""What the two tables of TPU programs share: a slice's compiler, arrays by shape, and one row.

Import this before JAX: it sets what libtpu would read from a TPU machine.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}

import hlo  # noqa: E402
import jax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from cotjax.config import ModelConfig  # noqa: E402
from cotjax.models.formats.config_json import architecture_of  # noqa: E402
from cotjax.models.policy import Policy  # noqa: E402
from cotjax.models.transformer import Transformer  # noqa: E402
from cotjax.parallel.mesh import make_mesh  # noqa: E402
from cotjax.parallel.sharding import placement  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TOPOLOGIES = ("v5e:4x4", "v5p:2x2x2", "v6e:4x4")
HBM_GIB = {"v5e": 16, "v5p": 95, "v6e": 32}  # per chip, as Google Cloud documents them


def slice_mesh(topology: str, data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
    """The devices of a slice that is not there, e.g. v5e:4x4."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    return make_mesh(data, fsdp, tensor, devices=list(devices))


def abstract_policy(
    model: ModelConfig, shape_file: Path, mesh: jax.sharding.Mesh
) -> tuple[Policy, Any]:
    """(policy, parameters by shape only) of a config.json."""
    shape = architecture_of(json.loads(shape_file.read_text()), str(shape_file))
    abstract = nnx.eval_shape(
        lambda: Transformer(
            shape,
            rngs=nnx.Rngs(0),
            param_dtype=model.param_dtype,
            dtype=model.compute_dtype,
            accumulate_dtype=model.accumulate_dtype,
            remat=model.remat,
        )
    )
    policy, params = Policy.split(abstract)
    return dataclasses.replace(policy, placement=placement(mesh)), params


def placed(tree: Any, shardings: Any) -> Any:
    """Shapes with their places."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def compile_for_tpu(lowered: Any) -> tuple[Any, hlo.Program, float]:
    """(compiled, its program, seconds).

    The program is read from the compiler's own dump: jaxlib cannot print every instruction of a
    newer libtpu (v5p's asynchronous ones).
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        compiled = lowered.compile(compiler_options={"xla_dump_to": folder})
        seconds = time.perf_counter() - began
        (text,) = Path(folder).glob("*after_optimizations.txt")
        return compiled, hlo.Program.parse(text.read_text()), seconds


def memory_row(topology: str, mesh: jax.sharding.Mesh, compiled: Any) -> dict[str, Any]:
    """What every row of a table begins with: slice, mesh, and memory per device in GiB."""
    memory = compiled.memory_analysis()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return {
        "topology": topology,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "hbm_gib": round(used / 2**30, 2),
        "hbm_limit_gib": HBM_GIB[topology.split(":")[0]],
        "state_gib": round(memory.argument_size_in_bytes / 2**30, 2),
        "temporary_gib": round(memory.temp_size_in_bytes / 2**30, 2),
    }


def in_mib(moved: dict[str, tuple[int, int]]) -> dict[str, dict[str, float]]:
    """Collectives of one loop, for people."""
    return {
        kind: {"count": count, "mib": round(size / 2**20, 4)}
        for kind, (count, size) in sorted(moved.items())
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that both tables have."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--topology", action="append", help="e.g. v5e:4x4; may be repeated")
    flags.add_argument(
        "--config", default=str(ROOT / "configs" / "qwen2.5-3b_gsm8k_grpo.toml"), help="TOML file"
    )
    flags.add_argument(
        "--shape", type=Path, default=ROOT / "configs" / "shapes" / "qwen2.5-3b.json"
    )
    flags.add_argument("--json", action="store_true", help="one JSON line per row")
    return flags


def show(rows: Sequence[dict[str, Any]] | Any, *, as_json: bool) -> None:
    """Prints rows as they come."""
    for row in rows:
        if as_json:
            print(json.dumps(row), flush=True)
        else:
            print("\n".join(f"{key.ljust(20)} {value}" for key, value in row.items()) + "\n")
