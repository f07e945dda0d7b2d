"""What is known of a teacher before its weights are read: shape, tokenizer, size, files."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from cotjax import config as configs
from cotjax.config import Config, LoraConfig
from cotjax.config.teacher_names import SELF
from cotjax.errors import InputError
from cotjax.models.formats.locate import find_run, resolve
from cotjax.parallel.memory import free_bytes
from cotjax.student.base_model import check_base
from cotjax.student.load import LoadedPolicy, load_policy
from cotjax.training.checkpoint import restore_params

ENDS = 2**16  # bytes at each end of a file that tell one set of weights from another


@dataclasses.dataclass(frozen=True)
class TeacherPlan:
    """What is known of a teacher before its weights are read.

    Attributes:
      name: of the model, as the config has it without a share.
      run: the run folder that holds its parameters; None for a model.
      student: the same model in the form in which stages hold a student, for sampling; all its
        parameters are in one tree.
      source: the folder or file of its weights.
    """

    name: str
    run: pathlib.Path | None
    student: LoadedPolicy
    source: pathlib.Path

    @property
    def width(self) -> int:
        """D of its hidden states."""
        return self.student.architecture.hidden_size

    @property
    def size(self) -> int:
        """Bytes of its parameters."""
        leaves = jax.tree.leaves(self.student.shapes)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

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


def plan_teacher(name: str, config: Config, mesh: Mesh) -> TeacherPlan:
    """Looks at a teacher's shape and tokenizer.

    Args:
      name: a run folder, or a model as `model.path` takes it.
      config: of the run that it teaches.
      mesh: of the run.

    Raises:
      InputError: neither is there.
    """
    run = find_run(name, "teachers.paths")
    path, init, adapter, lora = name, "pretrained", "", LoraConfig()
    if run:
        own = configs.load(["--config", str(run / "config.toml")])
        path, adapter, lora = own.model.path, own.model.adapter, own.lora
        init = own.model.init if lora.rank else "random"  # its checkpoint holds every parameter
    dtype = config.teachers.dtype
    model = dataclasses.replace(
        config.model,
        path=path,
        init=init,
        adapter=adapter,
        param_dtype=dtype,
        compute_dtype=dtype,
        remat="none",
    )
    try:
        student = load_policy(
            dataclasses.replace(config, model=model, lora=lora), mesh, teaches=True
        )
    except InputError as error:
        raise InputError(f'teachers.paths: "{name}": {error}') from error
    if run:
        student = _restored(student, run)
    return TeacherPlan(name, run, student.joined(), run if run else resolve(path))


def plan_start(student: LoadedPolicy, config: Config) -> TeacherPlan:
    """The student as it was when the run began, without a second copy of its weights.

    Args:
      student: the model that is trained; without the adapter that it trains.
      config: of the run.
    """
    frozen = dataclasses.replace(
        student,
        policy=student.policy.without_adapter,
        shapes=student.reference_shapes,
        base_shapes={},
        read=lambda: (student.reference, {}),
    )
    run = find_run(config.model.path, "model.path") if config.model.path else None
    return TeacherPlan(SELF, run, frozen, run if run else resolve(config.model.path))


def _restored(student: LoadedPolicy, run: pathlib.Path) -> LoadedPolicy:
    """The student with the newest parameters of a run."""

    def read() -> tuple[Any, Any]:
        _, params = restore_params(run, student.shapes)
        base = student.read()[1] if student.base_shapes else {}
        if base:
            check_base(run, base)
        return params, base

    return dataclasses.replace(student, read=read)


def check_memory(plans: Sequence[TeacherPlan], slots: int, mesh: Mesh) -> None:
    """Refuses teachers that are larger than a device, beside the one that is being loaded.

    One that stands in several entries counts once, and the student's own start is there anyway.
    """
    plans = [plan for plan in {id(one): one for one in plans}.values() if plan.name != SELF]
    if not plans:
        return
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    sizes = sorted((plan.size for plan in plans), reverse=True)[: slots + 1]
    free = free_bytes(mesh)
    if sum(sizes) / parts > free:
        largest = max(plans, key=lambda plan: plan.size)
        raise InputError(
            f"teachers.paths: {len(sizes)} at once need {sum(sizes) / parts / 2**30:.1f} GiB per "
            f'device, which has {free / 2**30:.1f} free; the largest is "{largest.name}", '
            f"{largest.size / 2**30:.1f} GiB. Raise mesh.fsdp, set teachers.dtype = "
            '"bfloat16", or write a logit cache with python -m cotjax.cache_logits.'
        )
