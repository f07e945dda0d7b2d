"""Frozen teachers: opened without their weights, loaded when they are needed, dropped afterwards.

Every shape and tokenizer is checked before anything is computed. Hidden states come from one
compiled program per architecture, and only for teachers that are in use.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config, TeacherName, parse_teacher
from cotjax.config.teacher_names import NO_TEACHER
from cotjax.errors import InputError
from cotjax.interfaces import Program, ScoredGroups, TokenBatch
from cotjax.models.head import Head
from cotjax.models.policy import Policy
from cotjax.parallel import shapes
from cotjax.parallel import sharding as parallel
from cotjax.student.health import check_template
from cotjax.student.load import LoadedPolicy
from cotjax.teachers.context import ShownRows, read_shown
from cotjax.teachers.distill_loss import TeacherOutputs
from cotjax.teachers.teacher_plan import TeacherPlan, check_memory, plan_start, plan_teacher
from cotjax.teachers.vocabulary import check_same_texts, common_size
from cotjax.training.finite import check_finite, finite_programs


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher on the mesh.

    Attributes:
      student: see `TeacherPlan`.
      params: of the model, an adapter's among them.
      head: its unembedding [V, D] is that of the common vocabulary, with zero columns up to the
        widest teacher's D, on every device.
    """

    student: LoadedPolicy
    params: Any
    head: Head


def compared(plan: TeacherPlan, tokenizer: Any, student: str, end: int | None = None) -> int:
    """How many ids a teacher and the student of a path have in common.

    Args:
      plan: of the teacher.
      tokenizer: the student's.
      student: its path.
      end: the token that ends its texts; None is the tokenizer's.

    Raises:
      InputError: see `common_size` and `check_same_texts`.
    """
    own, names = plan.student.tokenizer, (f"teacher {plan.name}", f"the student {student}")
    if any(getattr(one, "stands_in", False) for one in (own, tokenizer)):
        return plan.student.architecture.vocab_size  # planned by shapes: all that it has
    size = common_size(own, tokenizer, names=names)
    ends = {plan.student.eos_id, *plan.student.stop_ids}
    last: int = tokenizer.eos_token_id if end is None else end
    check_same_texts(own, tokenizer, ends=ends, end=last, names=names)
    return size


# A teacher's policy, its parameters and a batch to hidden states [..., D].
Read = Callable[[Policy, Any, Any], Array]


def read_rows(policy: Policy, params: Any, batch: TokenBatch) -> Array:
    """Of packed rows, [B, S, D]."""
    return policy.rows(params, batch)


def read_groups(policy: Policy, params: Any, groups: ScoredGroups) -> Array:
    """Of completions, [B, G, T, D]; each prompt is computed once."""
    return policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)


NOTHING_SHOWN: Mapping[int, ShownRows] = MappingProxyType({})


class TeacherPool:
    """All teachers of a run, weak to strong; only those in use are in memory.

    Args:
      config: of the run.
      mesh: of the run; teachers are split over it as students are.
      tokenizer: the student's.
      slots: how many are in use at once.
      compare: their logits are compared with the student's, so that tokenizers must agree.
      end: the token that ends the student's texts; None is its tokenizer's.
      student: the model that is trained, which `self@C` needs.
      rows: of the student's unembedding, where tokenizers cannot say what is common; 0 = any.

    Raises:
      InputError: a teacher that is not there, has another tokenizer, is asked without the question,
        or does not fit.

    Attributes:
      names: the entries of `teachers.paths`.
      entries: the same, read.
      plans: of each; entries of one model share one, and its weights in memory.
      slots: how many are in use at once; the next one may be in memory beside them.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        tokenizer: Any,
        *,
        slots: int,
        compare: bool = True,
        end: int | None = None,
        student: LoadedPolicy | None = None,
        rows: int = 0,
    ) -> None:
        self.names = config.teachers.paths
        self.entries = [parse_teacher(name) for name in self.names]
        if not self.names:
            raise InputError(NO_TEACHER)
        models = {
            path: _plan(entry, config, mesh, student)
            for path, entry in {entry.path: entry for entry in self.entries}.items()
        }
        self.plans = [models[entry.path] for entry in self.entries]
        self._mesh, self.slots = mesh, slots
        self.width = max(plan.width for plan in self.plans)
        self.vocab_size = 0
        if compare:
            sizes = [compared(one, tokenizer, config.model.path, end) for one in models.values()]
            self.vocab_size = min(min(sizes), rows or max(sizes))
        else:  # they are asked, in their own words
            for plan in models.values():
                own = plan.student
                check_template(own.tokenizer, own.prompts, f"teacher {plan.name}")
        check_memory(self.plans, slots, mesh)
        self._loading: dict[str, Future[Teacher]] = {}  # by the model's path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher")
        self.calls = [0] * len(self.plans)  # forward passes of each teacher so far

    def __getitem__(self, index: int) -> Teacher:
        """A teacher, which is loaded first if it has to be."""
        self.prefetch([index])
        return self._loading[self.entries[index].path].result()

    def prefetch(self, wanted: Iterable[int]) -> None:
        """Begins to load teachers in the background."""
        for index in wanted:
            path = self.entries[index].path
            if path not in self._loading:
                self._loading[path] = self._thread.submit(self._load, self.plans[index])

    def keep_only(self, wanted: Iterable[int]) -> None:
        """Drops the others' parameters."""
        for path in set(self._loading) - {self.entries[index].path for index in wanted}:
            del self._loading[path]

    @property
    def resident(self) -> set[int]:
        """The teachers that are in memory or on their way."""
        return {k for k, entry in enumerate(self.entries) if entry.path in self._loading}

    def in_slots(self, weights: Any) -> list[tuple[int, float]]:
        """(teacher, weight) for every slot; a slot without use has a used teacher and weight 0."""
        used = [(k, float(w)) for k, w in enumerate(weights) if w > 0]
        return (used + [(used[0][0], 0.0)] * self.slots)[: self.slots]

    def about(self, weights: Any) -> dict[str, str]:
        """Whose the parts of `TeacherOutputs` are, by the ends of their names; see `Step.about`."""
        return {
            f"{part}.{slot}": f"teacher {self.names[k]}"
            for slot, (k, _) in enumerate(self.in_slots(weights))
            for part in ("hidden", "head", "topk_logp")
        }

    def hidden(self, index: int, batch: Any, read: Read = read_rows) -> Array:
        """Last hidden states [..., D] of a teacher, with zero columns up to the widest's D.

        Args:
          index: of the teacher.
          batch: its input.
          read: how the teacher runs on it.
        """
        teacher = self[index]
        self.calls[index] += 1
        return self._reader(index, read)(teacher.params, batch)

    def _reader(self, index: int, read: Read) -> Callable[[Any, Any], Array]:
        policy, place = self.plans[index].student.policy, parallel.batched(self._mesh)
        return reader(read, policy, self.width, place)

    def outputs(
        self,
        batch: Any,
        weights: Any,
        temperature: float,
        read: Read = read_rows,
        shown: Mapping[int, ShownRows] = NOTHING_SHOWN,
    ) -> TeacherOutputs:
        """The outputs of the teachers in use for a batch; those of weight 0 are not run.

        Args:
          batch: on the mesh.
          weights: [N] of the teachers.
          temperature: of teachers and student.
          read: how a teacher runs on the batch.
          shown: own rows for the same batch, of those teachers that have some.
        """
        slots = self.in_slots(weights)
        used = [k for k, weight in slots if weight > 0]
        hidden = {k: self.hidden(k, *given_to(k, batch, read, shown)) for k in used}
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
        params, _ = plan.student.read()
        fix = "Copy its weights from their origin again, or set teachers.paths to others."
        check_finite(params, f"teacher {plan.name}", fix)
        head = plan.student.policy.head(params)
        if head.matrix.shape == self._head_size(head):  # its own, without a copy
            matrix = parallel.replicate(self._mesh, head.matrix)
        else:
            matrix = self._fitter(plan, head)(params)
        return Teacher(plan.student, params, head.with_matrix(matrix))

    def _fitter(self, plan: TeacherPlan, head: Head) -> Callable[[Any], Array]:
        return fitter(plan.student.policy, *self._head_size(head), parallel.replicated(self._mesh))

    def _head_size(self, head: Head) -> tuple[int, int]:
        """Tokens and columns of a head as the loss takes it."""
        return self.vocab_size or head.size, self.width

    # What it compiles.

    def output_shapes(
        self,
        batch: Any,
        combinations: Iterable[Sequence[int]],
        read: Read = read_rows,
        shown: Mapping[int, ShownRows] = NOTHING_SHOWN,
    ) -> list[TeacherOutputs]:
        """The shapes that `outputs` may have; the same ones once.

        Args:
          batch: shapes.
          combinations: the teachers in all slots, as they may stand there together.
          read: how a teacher reads the batch.
          shown: shapes of own rows; see `outputs`.
        """
        found: list[TeacherOutputs] = []
        for slots in combinations:
            outputs = TeacherOutputs(
                *self.number_shapes(),
                hidden=tuple(
                    self._hidden_shape(k, *given_to(k, batch, read, shown)) for k in slots
                ),
                head=tuple(self._head_shape(k) for k in slots),
            )
            if all(jax.tree.flatten(outputs) != jax.tree.flatten(one) for one in found):
                found.append(outputs)
        return found

    def cached_shapes(self, *size: int) -> TeacherOutputs:
        """The shapes of outputs [B, S, K] that a logit cache holds."""
        logp, ids = (
            shapes.per_example(self._mesh, *size, dtype=kind) for kind in (np.float32, np.int32)
        )
        slots = self.slots
        return TeacherOutputs(
            *self.number_shapes(), topk_logp=(logp,) * slots, topk_ids=(ids,) * slots
        )

    def number_shapes(self) -> tuple[Any, Any]:
        """The shapes of `numbers`."""
        return shapes.whole(self._mesh, self.slots), shapes.whole(self._mesh)

    def programs(
        self,
        batch: Any,
        used: Iterable[int],
        read: Read = read_rows,
        shown: Mapping[int, ShownRows] = NOTHING_SHOWN,
    ) -> Iterator[Program]:
        """What `hidden` compiles for a batch of these shapes, and what loading does before.

        Args:
          batch: shapes.
          used: teachers that every run uses.
          read: how a teacher reads the batch.
          shown: shapes of own rows; see `outputs`.
        """
        sure = set(used)
        for index, plan in enumerate(self.plans):
            name, params = f"teacher {self.names[index]}", plan.student.shapes
            yield from self.loading_programs(index, always=index in sure)
            own, how = given_to(index, batch, read, shown)
            yield Program(*(name, self._reader(index, how), (params, own)), always=index in sure)

    def loading_programs(self, index: int, *, always: bool) -> Iterator[Program]:
        """What a teacher compiles when it is loaded."""
        plan = self.plans[index]
        for program in finite_programs(plan.student.shapes):
            yield dataclasses.replace(program, always=always)
        head = jax.eval_shape(plan.student.policy.head, plan.student.shapes)
        if head.matrix.shape != self._head_size(head):
            function, args = self._fitter(plan, head), (plan.student.shapes,)
            yield Program(f"the head of teacher {plan.name}", function, args, always=always)

    def _hidden_shape(self, index: int, batch: Any, read: Read) -> Any:
        params = self.plans[index].student.shapes
        like = jax.eval_shape(self._reader(index, read), params, batch)
        return shapes.per_example(self._mesh, *like.shape, dtype=like.dtype)

    def head_copy(self, index: int) -> Head | None:
        """The shape of the head that a teacher has on every device; None if it is its own."""
        own = jax.eval_shape(
            self.plans[index].student.policy.head, self.plans[index].student.shapes
        )
        split = self._mesh.shape["fsdp"] * self._mesh.shape["tensor"] > 1
        fits = own.matrix.shape == self._head_size(own)
        return self._head_shape(index) if split or not fits else None

    def _head_shape(self, index: int) -> Head:
        student = self.plans[index].student
        head = jax.eval_shape(student.policy.head, student.shapes)
        size = self._head_size(head)
        return head.with_matrix(shapes.whole(self._mesh, *size, dtype=head.matrix.dtype))


def _plan(
    entry: TeacherName, config: Config, mesh: Mesh, student: LoadedPolicy | None
) -> TeacherPlan:
    if not entry.is_self:
        return plan_teacher(entry.path, config, mesh)
    assert student is not None, "whoever may be asked for the student's start gives it"
    return plan_start(student, config)


def given_to(
    index: int, batch: Any, read: Read, shown: Mapping[int, ShownRows]
) -> tuple[Any, Read]:
    """What a teacher reads, and how."""
    return (shown[index], read_shown) if index in shown else (batch, read)


@functools.lru_cache
def reader(
    read: Read, policy: Policy, width: int, place: jax.sharding.Sharding
) -> Callable[[Any, Any], Array]:
    """The program of `TeacherPool.hidden`; teachers of one architecture share it."""

    def teacher_hidden(params: Any, batch: Any) -> Array:
        hidden = read(policy, params, batch)
        return jnp.pad(hidden, [(0, 0)] * (hidden.ndim - 1) + [(0, width - hidden.shape[-1])])

    return jax.jit(teacher_hidden, out_shardings=place)


@functools.lru_cache
def fitter(
    policy: Policy, rows: int, width: int, place: jax.sharding.Sharding
) -> Callable[[Any], Array]:
    """The program that gives some rows of an unembedding, with zero columns up to a width."""

    def teacher_head(params: Any) -> Array:
        matrix = policy.head(params).matrix[:rows]
        return jnp.pad(matrix, ((0, 0), (0, width - matrix.shape[1])))

    return jax.jit(teacher_head, out_shardings=place)
