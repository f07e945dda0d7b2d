"""What crosses a folder's border: records, batches with their shapes, and protocols.

Batches hold NumPy arrays on the host and JAX arrays on devices; the types name the latter.
Dimensions: B prompts, G completions per prompt, P prompt tokens, T completion tokens, S row tokens.
"""

import dataclasses
import enum
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Record:
    """One problem with its teacher rationale; text only.

    Attributes:
      id: unique and stable, e.g. `problems/train/17` or `train.jsonl:417`.
      question: the problem, without instructions.
      answer: the gold answer as the run's verifier reads it: a number, an expression, a letter.
      steps: the teacher's steps, without `Step k:` markers.
      difficulty: number of steps of the solution.
      thinking: what the teacher wrote before the steps; empty if nothing.
      teacher: name of the writer of the rationale; empty if it is the data's own.
      target: tokens that the question asks a solution to have; 0 if it asks for none.
    """

    id: str
    question: str
    answer: str
    steps: tuple[str, ...]
    difficulty: int
    thinking: str = ""
    teacher: str = ""
    target: int = 0


class Source(Protocol):
    """Random access to records; what Grain's `MapDataset.source` takes."""

    def __len__(self) -> int:
        """Number of records."""
        ...

    def __getitem__(self, index: int, /) -> Record:
        """The record at `index`; the same one each time."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Supervised rows, possibly several examples packed into one.

    Attributes:
      tokens: [B, S] ids.
      targets: [B, S] the id that should follow each token.
      weight: [B, S] float, 0 where the target does not count (prompt, padding).
      segment: [B, S] 0 for padding; equal positive numbers belong to one example.
      positions: [B, S] restart at 0 in each segment.
    """

    tokens: Int[Array, "B S"]
    targets: Int[Array, "B S"]
    weight: Float[Array, "B S"]
    segment: Int[Array, "B S"]
    positions: Int[Array, "B S"]


@dataclasses.dataclass(frozen=True)
class Placement:
    """How activations lie on a mesh.

    Attributes:
      mesh: the devices.
      batch: axes over which examples are split.
      heads: axis over which attention heads are split.
      attention: by matrix products, or a kernel that stores no scores [S, S] of all heads.
    """

    mesh: jax.sharding.Mesh
    batch: tuple[str, ...]
    heads: str
    attention: Literal["dense", "flash", "cudnn"] = "dense"

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        return self.mesh.devices.flat[0].platform

    def split(self, *axes: str | tuple[str, ...] | None) -> jax.sharding.NamedSharding:
        """A sharding of arrays whose first axis is the example's."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(self.batch, *axes))

    def whole(self) -> jax.sharding.NamedSharding:
        """A copy on every device."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """Left-padded prompts, so that every completion starts at the same index.

    Attributes:
      tokens: [B, P] ids.
      mask: [B, P] True where there is a token.
      ids: [B] int32; with seed, step and completion number it decides the random numbers.
    """

    tokens: Int[Array, "B P"]
    mask: Bool[Array, "B P"]
    ids: Int[Array, " B"]


class End(enum.IntEnum):
    """Why a completion ended."""

    LENGTH = 0  # the token limit
    EOS = 1  # the end token, or another that stops
    STOP = 2  # a stop string
    NONFINITE = 3  # a logit that is NaN or infinite; the token before it is the last


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a student wrote, as a reward function is given it.

    Attributes:
      text: without the prompt and the end token.
      tokens: its length, end token included.
      thinking: what stands before the steps, or where there are none before the answer, in
        `<think>` tags or not; empty if nothing.
      answer: the final answer as the run's verifier extracts it; None if there is none.
      end: why it ended.
    """

    text: str
    tokens: int
    thinking: str
    answer: str | None
    end: End

    @property
    def ended(self) -> bool:
        """Whether the student finished it: an end token or a stop string, not the token limit."""
        return self.end in (End.EOS, End.STOP)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """G sampled completions per prompt.

    Attributes:
      tokens: [B, G, T] ids; after the end, the pad id.
      mask: [B, G, T] True = counts; the EOS counts, padding does not, even when pad id = EOS id.
      logp: [B, G, T] the sampler's log-probability under the full distribution at the sampling
        temperature, nats; 0 outside the mask.
      entropy: [B, G, T] of that distribution, nats; 0 outside the mask.
      end: [B, G] why each ended, an `End`.
      passes: [B, G] how often the decoder ran for each; None: once for each token.
    """

    tokens: Int[Array, "B G T"]
    mask: Bool[Array, "B G T"]
    logp: Float[Array, "B G T"]
    entropy: Float[Array, "B G T"]
    end: Int[Array, "B G"]
    passes: Int[Array, "B G"] | None = None

    @property
    def ended(self) -> Bool[Array, "B G"]:
        """[B, G] True where the completion was finished, by an end token or a stop string."""
        return (self.end == End.EOS) | (self.end == End.STOP)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoredGroups:
    """Completions with everything the policy loss needs.

    Attributes:
      prompt: [B, P] ids, left-padded.
      prompt_mask: [B, P].
      completion: [B, G, T] ids.
      completion_mask: [B, G, T] True = counts.
      advantage: [B, G].
      logp_sampler: [B, G, T] as the sampler computed it, nats; only compared.
      logp_old: [B, G, T] of the policy that sampled, as the trainer computes it; None when the
        policy has not changed since.
      logp_ref: [B, G, T] of the frozen reference; None where the loss scores it itself, or where
        it is not needed.
      logp_teacher: [B, G, T] of the teachers in use; None if the advantage has no part of theirs.
      teacher_outputs: what teachers give for every token, for a divergence; None without one.
    """

    prompt: Int[Array, "B P"]
    prompt_mask: Bool[Array, "B P"]
    completion: Int[Array, "B G T"]
    completion_mask: Bool[Array, "B G T"]
    advantage: Float[Array, "B G"]
    logp_sampler: Float[Array, "B G T"]
    logp_old: Float[Array, "B G T"] | None = None
    logp_ref: Float[Array, "B G T"] | None = None
    logp_teacher: Float[Array, "B G T"] | None = None
    teacher_outputs: Any = None


class SampledGroups(Protocol):
    """Completions of a step on the host, with their records and rewards."""

    @property
    def prompts(self) -> PromptBatch:
        """[B, P]."""
        ...

    @property
    def rollout(self) -> Rollout:
        """[B, G, T]."""
        ...

    @property
    def records(self) -> Sequence[Record]:
        """B."""
        ...

    @property
    def reward(self) -> Any:
        """[B, G] float32."""
        ...


@dataclasses.dataclass(frozen=True)
class Limit:
    """A number above which a metric stops the run; NaN is above every number.

    Attributes:
      most: the largest value with which the run goes on.
      says: what is wrong and what to do, with {value} for the metric's.
    """

    most: float
    says: str


@dataclasses.dataclass(frozen=True)
class Step:
    """What a stage gives the loop for one step.

    Attributes:
      batch: micro-batches for the update; [B, …] leaves, whose other sizes may differ.
      metrics: numbers about it by name.
      completions: rows for completions.jsonl.
      alarm: what is going wrong and what to do about it, a line for each, such as "no signal: …";
        empty if nothing is.
      limits: of metrics by name, those of the update included.
      data: what of the batch came from the data and from samples, for its digest; None: all of it.
      groups: what was sampled for it; None if nothing was.
      bad: what was NaN or infinite before the update, as the subject and verb of a sentence; empty
        if nothing was. `training.max_bad_steps` such steps in a row end the run.
      about: what arrays of the batch are, by the end of their name (`hidden.0`), for whoever looks
        for the one that is NaN.
    """

    batch: list[Any]
    metrics: dict[str, float]
    completions: list[dict[str, Any]]
    alarm: str = ""
    limits: Mapping[str, Limit] = dataclasses.field(default_factory=dict[str, Limit])
    data: Any = None
    groups: "SampledGroups | None" = None
    bad: str = ""
    about: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What an optimizer step changes.

    Attributes:
      step: optimizer steps taken, without those that were skipped.
      params: the student's parameters.
      opt_state: optax's.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the step table: its two-line title, a metric's name and how to print it."""

    title: str
    unit: str
    metric: str
    form: str
    width: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that a run compiles, known before any weight is read.

    Attributes:
      name: as shown to the user.
      function: of `jax.jit`.
      args: its arguments, `jax.ShapeDtypeStruct`s with shardings in place of arrays.
      kwargs: the same by name; static ones as they are.
      always: whether every run needs it, or nearly every one; others only if a batch has their
        shape.
    """

    name: str
    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    always: bool = True


class DataStream(Protocol):
    """Where a stage's data stands, for a checkpoint."""

    def get_state(self) -> dict[str, Any]:
        """The place behind what was given out, as JSON holds it once `deferred` parts are made."""
        ...

    def set_state(self, state: dict[str, Any], /) -> None:
        """Goes on from a place."""
        ...


# Metrics of an update: a sum and a count each, which are divided once.
SumCounts = dict[str, tuple[Array, Array]]
Row = dict[str, Any]  # a line of a .jsonl file


class Stage(Protocol):
    """A stream of batches, a loss, and the programs that it runs; the loop does the rest.

    The config names a class whose `from_config(config, mesh)` makes one. That class may also have
    `defaults` (settings, nested as in a file), `reads` (sections and keys that it reads beside
    those of every stage), `check(config)` (sentences about what is wrong), `aim(config)` (what is
    learned from what, for the summary of a run) and `facts` (label and form, for the report). A
    stage with threads or processes may have `close()`, called when its run ends or raises.

    Attributes:
      notes: sentences for the run's log.
      columns: of the table of steps.
      resolved: settings that the config left to "auto", by section and key.
      state: the training state to begin with.
      inner_updates: optimizer updates per batch.
      data: where its data stands; there after `prepare`.
    """

    notes: tuple[str, ...]
    columns: tuple[Column, ...]
    resolved: Mapping[str, Mapping[str, Any]]
    inner_updates: int

    @property
    def state(self) -> TrainState:
        """See above; whoever asks first waits for the weights."""
        ...

    @property
    def data(self) -> DataStream:
        """See above."""
        ...

    def update(self, state: TrainState, batch: list[Any], /) -> tuple[TrainState, SumCounts]:
        """One optimizer update on the micro-batches of a step."""
        ...

    def programs(self) -> Sequence[Program]:
        """What a run compiles; called before `state` is read."""
        ...

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Prepares the first step; gives sentences for the run's log.

        Args:
          folder: the run folder, where costly results may be kept for a resumed run.
        """
        ...

    def next_step(self, params: Any, step: int) -> Step:
        """The batch of step `step` (0 is the first)."""
        ...

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[Row]]:
        """Held-out numbers, and the completions behind them."""
        ...
