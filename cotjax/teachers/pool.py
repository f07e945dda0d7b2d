"""Frozen teachers: opened without their weights, loaded when they are needed, dropped afterwards.

Every shape and tokenizer is checked before anything is computed. Hidden states come from one
compiled program per architecture, and only for teachers that are in use.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax import config as configs
from cotjax.config import Config, LoraConfig
from cotjax.errors import InputError
from cotjax.interfaces import ScoredGroups, TokenBatch
from cotjax.models.formats.load import LoadedModel, load_model, resolve
from cotjax.models.head import Head
from cotjax.models.policy import Policy
from cotjax.parallel import sharding as parallel
from cotjax.parallel.memory import free_bytes
from cotjax.student.load import LoadedPolicy, load_policy
from cotjax.teachers.distill_loss import TeacherOutputs
from cotjax.teachers.vocabulary import common_size
from cotjax.training.checkpoint import find_run, restore_params

ENDS = 2**16  # bytes at each end of a file that tell one set of weights from another


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher on the mesh.

    Attributes:
      student: the same model in the form in which stages hold a student, for sampling.
      params: all parameters, an adapter's among them.
      head: its unembedding [V, D] is that of the common vocabulary, with zero columns up to the
        widest teacher's D, on every device.
    """

    student: LoadedPolicy
    params: Any
    head: Head


@dataclasses.dataclass(frozen=True)
class TeacherPlan:
    """What is known of a teacher before its weights are read.

    Attributes:
      name: as the config has it.
      run: the run folder that holds its parameters; None for a model.
      config: with which it is opened as a student would be.
      width: D of its hidden states.
      size: bytes of its parameters.
      tokenizer: its own.
      source: the folder or file of its weights.
    """

    name: str
    run: pathlib.Path | None
    config: Config
    width: int
    size: int
    tokenizer: Any
    source: pathlib.Path

    def fingerprint(self) -> str:
        """16 hexadecimal digits of its files: names, sizes, and the bytes at both ends of each."""
        digest = hashlib.sha256()
        files = [self.source] if self.source.is_file() else sorted(self.source.rglob("*"))
        for file in files:
            if file.is_file() and (self.run is None or "checkpoints" in file.parts):
                name = file.relative_to(self.source).as_posix()
                digest.update(f"{name} {file.stat().st_size}".encode())
                with file.open("rb") as content:
                    digest.update(content.read(ENDS))
                    content.seek(max(file.stat().st_size - ENDS, 0))
                    digest.update(content.read(ENDS))
        return digest.hexdigest()[:16]


def plan_teacher(name: str, config: Config) -> TeacherPlan:
    """Reads a teacher's shape and tokenizer.

    Args:
      name: a run folder, or a model as `model.path` takes it.
      config: of the run.

    Raises:
      InputError: neither is there.
    """
    run = find_run(pathlib.Path(name))
    path, init, lora = name, "pretrained", LoraConfig()
    if run:
        own = configs.load(["--config", str(run / "config.toml")])
        path, lora = own.model.path, own.lora
        init = own.model.init if lora.rank else "random"  # its checkpoint holds every parameter
    dtype = config.teachers.dtype
    model = dataclasses.replace(
        config.model, path=path, init=init, param_dtype=dtype, compute_dtype=dtype, remat="none"
    )
    opened = dataclasses.replace(config, model=model, lora=lora)
    try:
        shell = _shell(path, dtype)
    except InputError as error:
        raise InputError(f'teachers.paths: "{name}": {error}') from error
    leaves = jax.tree.leaves(Policy.split(shell.model)[1])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    width, source = shell.model.shape.hidden_size, run if run else resolve(path)
    return TeacherPlan(name, run, opened, width, size, shell.tokenizer, source)


# A teacher's policy, its parameters and a batch to hidden states [..., D].
Read = Callable[[Policy, Any, Any], Array]


def read_rows(policy: Policy, params: Any, batch: TokenBatch) -> Array:
    """Of packed rows, [B, S, D]."""
    return policy.rows(params, batch)


def read_groups(policy: Policy, params: Any, groups: ScoredGroups) -> Array:
    """Of completions, [B, G, T, D]; each prompt is computed once."""
    return policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)


def _shell(path: str, dtype: str) -> LoadedModel:
    return load_model(path, init="abstract", param_dtype=dtype, compute_dtype=dtype, seed=0)


class TeacherPool:
    """All teachers of a run, weak to strong; only those in use are in memory.

    Args:
      config: of the run.
      mesh: of the run; teachers are split over it as students are.
      tokenizer: the student's.
      slots: how many are in use at once.
      compare: their logits are compared with the student's, so that tokenizers must agree.

    Raises:
      InputError: a teacher that is not there, has another tokenizer, or does not fit.
    """

    def __init__(
        self, config: Config, mesh: Mesh, tokenizer: Any, *, slots: int, compare: bool = True
    ) -> None:
        self.names = config.teachers.paths
        if not self.names:
            raise InputError(
                "teachers.paths = []: there is no teacher. Set teachers.paths to run folders, "
                "model folders or .gguf files, weak to strong."
            )
        self.plans = [plan_teacher(name, config) for name in self.names]
        self._mesh, self._slots = mesh, slots
        self.width = max(plan.width for plan in self.plans)
        self.vocab_size = 0
        if compare:
            student = f"the student {config.model.path}"
            self.vocab_size = min(
                common_size(plan.tokenizer, tokenizer, names=(f"teacher {plan.name}", student))
                for plan in self.plans
            )
        _check_memory(self.plans, slots, mesh)
        self._loading: dict[int, Future[Teacher]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher")
        self.calls = [0] * len(self.plans)  # forward passes of each teacher so far

    def __getitem__(self, index: int) -> Teacher:
        """A teacher, which is loaded first if it has to be."""
        self.prefetch([index])
        return self._loading[index].result()

    def prefetch(self, wanted: Iterable[int]) -> None:
        """Begins to load teachers in the background."""
        for index in wanted:
            if index not in self._loading:
                self._loading[index] = self._thread.submit(self._load, self.plans[index])

    def keep_only(self, wanted: Iterable[int]) -> None:
        """Drops the others' parameters."""
        for index in set(self._loading) - set(wanted):
            del self._loading[index]

    @property
    def resident(self) -> set[int]:
        """The teachers that are in memory or on their way."""
        return set(self._loading)

    def in_slots(self, weights: Any) -> list[tuple[int, float]]:
        """(teacher, weight) for every slot; a slot without use has a used teacher and weight 0."""
        used = [(k, float(w)) for k, w in enumerate(weights) if w > 0]
        return (used + [(used[0][0], 0.0)] * self._slots)[: self._slots]

    def hidden(self, index: int, batch: Any, read: Read = read_rows) -> Array:
        """Last hidden states [..., D] of a teacher, with zero columns up to the widest's D.

        Args:
          index: of the teacher.
          batch: its input.
          read: how the teacher runs on it.
        """
        teacher = self[index]
        self.calls[index] += 1
        place = parallel.batched(self._mesh)
        policy, params = teacher.student.policy, teacher.params
        return _padded(params, batch, read=read, policy=policy, width=self.width, place=place)

    def outputs(
        self, batch: Any, weights: Any, temperature: float, read: Read = read_rows
    ) -> TeacherOutputs:
        """The outputs of the teachers in use for a batch; those of weight 0 are not run.

        Args:
          batch: on the mesh.
          weights: [N] of the teachers.
          temperature: of teachers and student.
          read: how a teacher runs on the batch.
        """
        slots = self.in_slots(weights)
        hidden = {k: self.hidden(k, batch, read) for k, weight in slots if weight > 0}
        return TeacherOutputs(
            *self.numbers(slots, temperature),
            hidden=tuple(hidden[k] for k, _ in slots),
            head=tuple(self[k].head for k, _ in slots),
        )

    def numbers(self, slots: list[tuple[int, float]], temperature: float) -> tuple[Array, Array]:
        """The weights of slots and a temperature, on every device."""
        weight = np.array([weight for _, weight in slots], np.float32)
        return parallel.replicate(self._mesh, (weight, np.float32(temperature)))

    def _load(self, plan: TeacherPlan) -> Teacher:
        student = load_policy(plan.config, self._mesh)
        params = student.params
        if plan.run:
            _, params = restore_params(plan.run, params)
        params = student.all_params(params)
        head = student.policy.head(params)
        rows = self.vocab_size or head.size
        matrix = head.matrix
        if matrix.shape != (rows, self.width):  # else it is the teacher's own, without a copy
            matrix = jnp.pad(matrix[:rows], ((0, 0), (0, self.width - matrix.shape[1])))
        return Teacher(student, params, head.with_matrix(parallel.replicate(self._mesh, matrix)))


@functools.partial(jax.jit, static_argnames=("read", "policy", "width", "place"))
def _padded(
    params: Any, batch: Any, *, read: Read, policy: Policy, width: int, place: jax.sharding.Sharding
) -> Array:
    hidden = read(policy, params, batch)
    hidden = jnp.pad(hidden, [(0, 0)] * (hidden.ndim - 1) + [(0, width - hidden.shape[-1])])
    return jax.lax.with_sharding_constraint(hidden, place)


def _check_memory(plans: Sequence[TeacherPlan], slots: int, mesh: Mesh) -> None:
    """Refuses teachers that are larger than a device, beside the one that is being loaded."""
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    sizes = sorted((plan.size for plan in plans), reverse=True)[: slots + 1]
    free = free_bytes(mesh)
    if sum(sizes) / parts > free:
        largest = max(plans, key=lambda plan: plan.size)
        raise InputError(
            f"teachers.paths: {len(sizes)} at once need {sum(sizes) / parts / 2**30:.1f} GiB per "
            f'device, which has {free / 2**30:.1f} free; the largest is "{largest.name}", '
            f"{largest.size / 2**30:.1f} GiB. Raise mesh.fsdp, set teachers.dtype = "
            '"bfloat16", or write a cache with python -m cotjax.cache_logits.'
        )
