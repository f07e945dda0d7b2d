"""Which one change frees most memory of a device, from what lies there at the peak."""

import dataclasses
import tomllib
from collections.abc import Callable, Iterator, Mapping

from cotjax.config import Config, change, stage_class
from cotjax.config.rollout_axes import parse_axes
from cotjax.planning.memory import Memory


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that makes a run smaller.

    Attributes:
      key: of the config.
      value: that it should have.
      saves: bytes of a device, an estimate.
    """

    key: str
    value: str
    saves: int

    def __str__(self) -> str:
        return f"Set {self.key} = {self.value}"

    def of(self, config: Config) -> Config:
        """The config with it.

        Raises:
          InputError: the config cannot have it.
        """
        lines = str(self).removeprefix("Set ").replace(", ", "\n")
        return change(config, tomllib.loads(lines), "cotjax plan")


def best_change(
    config: Config,
    memory: Memory,
    mesh: Mapping[str, int],
    works: Callable[[Change], bool] = lambda _: True,
) -> Change | None:
    """The change that frees most; None if none is known.

    Args:
      config: of the stage that needs most.
      memory: of its program that does.
      mesh: sizes of the axes.
      works: whether a run can have it; asked of the one that frees most, then of the next.
    """
    reads = stage_class(config.stage).reads_key
    found = [one for one in changes(config, memory, mesh) if reads(one.key)]
    ranked = sorted(found, key=lambda one: one.saves, reverse=True)
    return next(filter(works, ranked), None)


def changes(config: Config, memory: Memory, mesh: Mapping[str, int]) -> Iterator[Change]:
    """Every change that helps at this peak, with the bytes that it frees of a device."""
    if memory.program.startswith("update"):
        yield from _of_update(config, memory, mesh)
    elif memory.of("KV cache", "sampling weights"):
        yield from _of_sampler(config, memory, mesh)
    yield from _of_everything(config, memory, mesh)


def _of_update(config: Config, memory: Memory, mesh: Mapping[str, int]) -> Iterator[Change]:
    passing = memory.of("activations", "temporaries", "batch")
    if config.model.remat != "full":
        kept = 0.2 if config.model.remat == "none" else 0.4
        yield Change("model.remat", '"full"', int((1 - kept) * memory.of("activations")))
    most = config.rollout.prompts // (_copies(mesh) * mesh["fsdp"])  # of a device, in a step
    size = min(config.policy.micro_batch or most, most)
    if size > 1:
        yield Change("policy.micro_batch", str(size // 2), int(passing * (1 - (size // 2) / size)))


def _of_sampler(config: Config, memory: Memory, mesh: Mapping[str, int]) -> Iterator[Change]:
    caches, rollout = memory.of("KV cache"), config.rollout
    smaller = {"float32": '"bfloat16"', "bfloat16": '"int8"'}
    kind = config.model.compute_dtype if rollout.cache_dtype == "auto" else rollout.cache_dtype
    if kind in smaller:
        yield Change("rollout.cache_dtype", smaller[kind], caches // 2)
    if memory.program.startswith(("evaluation", "mining")):
        key = "eval.batch_size" if memory.program.startswith("eval") else "mining.batch_size"
        size = config.eval.batch_size if key.startswith("eval") else config.mining.batch_size
        if size > _copies(mesh) * mesh["fsdp"]:
            yield Change(key, str(size // 2), (caches + memory.of("temporaries")) // 2)
        return
    rows = rollout.max_concurrent or rollout.prompts * rollout.group_size
    if rows > _copies(mesh) * mesh["fsdp"] * rollout.group_size:
        saves = (caches + memory.of("temporaries")) // 2
        yield Change("rollout.max_concurrent", str(rows // 2), saves)


def _copies(mesh: Mapping[str, int]) -> int:
    return mesh["replica"] * mesh["data"]


def _of_everything(config: Config, memory: Memory, mesh: Mapping[str, int]) -> Iterator[Change]:
    held = memory.of("parameters", "optimizer", "reference", "gradients")
    if mesh["data"] > 1:  # devices that hold the same parameters can share them
        whole = mesh["fsdp"] * mesh["data"]
        rest = held + memory.of("teachers")
        yield Change("mesh.fsdp", f"{whole}, mesh.data = 1", int(rest * (1 - 1 / mesh["data"])))
    if memory.of("sampling weights"):
        sampling = config.mesh.rollout_devices or _copies(mesh) * mesh["fsdp"] * mesh["tensor"]
        tensor = 2 * parse_axes(config.mesh.rollout or f"tensor={mesh['tensor']}")["tensor"]
        if sampling % tensor == 0:  # whether it divides the heads too, a plan says
            saves = memory.of("sampling weights") // 2
            yield Change("mesh.rollout", f'"tensor={tensor}"', saves)
    if config.model.param_dtype == "float32":
        yield Change("model.param_dtype", '"bfloat16"', held // 2)
    if not config.lora.rank:
        saves = memory.of("optimizer", "reference", "gradients")
        yield Change("lora.rank", "16", saves)
    if config.teachers.dtype == "float32" and memory.of("teachers"):
        yield Change("teachers.dtype", '"bfloat16"', memory.of("teachers") // 2)
