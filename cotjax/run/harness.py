"""A model as an evaluation harness asks it: how likely texts are, and what it writes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from cotjax.errors import InputError
from cotjax.progress import Progress
from cotjax.run.opened import OpenedModel

if TYPE_CHECKING:
    from jax import Array

    from cotjax.interfaces import TokenBatch

Ids = list[int]
PACKED = 16  # examples that are packed together, for each row of a batch


class Scorer:
    """Scores and completes token ids with an opened model.

    Args:
      opened: the model; its weights are read with the first request.
      rows: of a batch; as many more as its devices need to share it equally.
    """

    def __init__(self, opened: OpenedModel, *, rows: int) -> None:
        import jax

        from cotjax.parallel.mesh import batch_devices

        parts = batch_devices(opened.mesh)
        self._opened, self._rows = opened, -(-rows // parts) * parts
        self._score: Any = cast(Any, jax).jit(self._scored)

    @property
    def tokenizer(self) -> Any:
        """Of the model."""
        return self._opened.student.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of the model's context."""
        return self._opened.student.architecture.max_positions

    def log_likelihoods(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """How likely each continuation is behind its context.

        Args:
          pairs: ids of context and continuation, neither empty; of those that are longer than the
            model's context together, the end.

        Returns:
          Σ log p of the continuation's tokens in nats, and whether each is the likeliest.
        """
        from cotjax.student.solution_loss import in_blocks, scored

        examples = [self._example(*pair) for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda place: -len(examples[place]["tokens"]))
        found = [(0.0, True)] * len(pairs)
        params = self._opened.student.all_params(self._opened.params)
        score = functools.partial(self._score, params)
        with _progress("scoring", len(pairs)) as progress:
            for places in batched(order, PACKED * self._rows):
                chunk = [examples[place] for place in places]
                how = self._opened.mesh, chunk, self._rows, in_blocks(chunk), score
                for own, weight, (logp, likeliest) in scored(*how, progress.advance):
                    counts = weight > 0
                    total = float(logp[counts].astype("float64").sum())
                    found[places[own]] = total, bool(likeliest[counts].all())
        return found

    def _example(self, context: Ids, continuation: Ids) -> dict[str, Any]:
        import numpy as np

        whole = np.array([*context, *continuation][-self.max_length - 1 :], np.int32)
        weight = np.zeros(len(whole) - 1, np.float32)
        weight[max(len(weight) - len(continuation), 0) :] = 1
        return {"tokens": whole[:-1], "targets": whole[1:], "weight": weight}

    def _scored(self, params: Any, batch: TokenBatch) -> tuple[Array, Array]:
        """Log-probabilities of the targets [B, S], and whether they are the likeliest tokens."""
        import jax
        import jax.numpy as jnp

        from cotjax.student.solution_loss import BLOCK

        policy = self._opened.student.policy
        head, hidden = policy.head(params), policy.rows(params, batch)

        def of_block(block: tuple[Array, Array]) -> tuple[Array, Array]:
            logits = head(block[0])
            own = jnp.take_along_axis(logits, block[1][..., None], axis=-1)[..., 0]
            return own - jax.nn.logsumexp(logits, axis=-1), logits.argmax(axis=-1) == block[1]

        def cut(values: Array) -> Array:  # a block of every row at a time
            rows, length, *more = values.shape
            return jnp.moveaxis(values.reshape(rows, length // BLOCK, BLOCK, *more), 1, 0)

        each: Any = jax.lax  # JAX does not type all of it
        logp, likeliest = each.map(of_block, (cut(hidden), cut(batch.targets)))
        shape = batch.targets.shape
        return jnp.moveaxis(logp, 0, 1).reshape(shape), jnp.moveaxis(likeliest, 0, 1).reshape(shape)

    def complete(
        self,
        prompts: Sequence[Ids],
        *,
        stops: Sequence[str] = (),
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """What the model writes behind each prompt, up to the first stop string and without it.

        Args:
          prompts: ids; of those that leave too little of the context, the end.
          stops: texts that end a completion.
          max_new_tokens: longest completion.
          temperature: 0 is greedy.
          top_k: 0 = all.
          top_p: 1 = all.
          seed: of the draws.

        Raises:
          InputError: the context has no place for so many tokens.
        """
        if max_new_tokens >= self.max_length:
            raise InputError(
                f"max_gen_toks = {max_new_tokens}: the model's context has {self.max_length} "
                "tokens, and the prompt needs some of them. Give fewer: --gen_kwargs "
                f"max_gen_toks={self.max_length // 2}."
            )
        stops = [stop for stop in dict.fromkeys(stops) if stop]
        kept = [list(ids[max_new_tokens - self.max_length :]) for ids in prompts]
        order = sorted(range(len(kept)), key=lambda place: -len(kept[place]))
        found = [""] * len(kept)
        sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        sampling |= {"top_k": top_k, "top_p": top_p}
        with _progress("generating", len(prompts)) as progress:
            for places in batched(order, self._rows):
                rows = [kept[place] for place in places]
                texts = self._written(rows, places, stops, sampling, seed)
                for place, text in zip(places, texts, strict=False):
                    found[place] = text
                progress.advance(len(places))
        return found

    def _written(
        self,
        rows: list[Ids],
        places: Sequence[int],
        stops: Sequence[str],
        sampling: dict[str, Any],
        seed: int,
    ) -> list[str]:
        import jax

        from cotjax.data.encode import pad_prompts
        from cotjax.interfaces import End
        from cotjax.parallel import processes
        from cotjax.parallel import sharding as parallel
        from cotjax.rollout.generate import generate
        from cotjax.rollout.plan import Sampling
        from cotjax.student.generate import rollout_params

        opened, student = self._opened, self._opened.student
        missing = self._rows - len(rows)  # one shape, one compilation
        full, ids = [*rows, *[rows[-1]] * missing], [*places, *[places[-1]] * missing]
        batch = pad_prompts(
            *(full, ids),
            width=_in_blocks(len(rows[0])),
            pad_id=student.pad_id,
            names=["prompt"] * len(full),
        )
        on_devices = cast(Any, generate)(
            student.policy,
            rollout_params(student, opened.config, opened.mesh, opened.params),
            parallel.shard(opened.mesh, batch),
            jax.random.key(seed),
            settings=Sampling(group_size=1, **student.ends, **sampling),
            stop_table=self._stop_table(tuple(stops)),
        )
        rollout: Any = processes.fetch(on_devices)
        sizes = rollout.mask[:, 0].sum(axis=-1) - (rollout.end[:, 0] == End.EOS)
        written = [row[:size] for row, size in zip(rollout.tokens[:, 0], sizes, strict=True)]
        texts = self.tokenizer.batch_decode(written[: len(rows)], skip_special_tokens=True)
        return [_before(text, stops) for text in texts]

    def _stop_table(self, stops: tuple[str, ...]) -> Any:
        """The automaton of those stop strings that this model's tokens can spell."""
        from cotjax.rollout.stops import stop_table, token_bytes

        words = token_bytes(self.tokenizer, self._opened.student.architecture.vocab_size)
        spelled: list[str] = []
        for stop in stops:
            try:
                stop_table(words, [stop])
            except InputError:
                continue
            spelled.append(stop)
        return stop_table(words, spelled) if spelled else None


def _progress(what: str, requests: int) -> Progress:
    from cotjax.parallel.processes import is_first

    return Progress(what, requests, "requests", quiet=not is_first())


def batched(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Parts of a list, in order."""
    for first in range(0, len(places), size):
        yield places[first : first + size]


def _in_blocks(size: int) -> int:
    from cotjax.student.solution_loss import BLOCK

    return -(-max(size, 1) // BLOCK) * BLOCK


def _before(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop string in it."""
    return min((text.partition(stop)[0] for stop in stops), key=len, default=text)
