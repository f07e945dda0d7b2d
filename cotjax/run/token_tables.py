"""A step for people: its groups and rows, token by token."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cotjax.errors import InputError, visible
from cotjax.interfaces import End, ScoredGroups, Step, TokenBatch
from cotjax.run.compare import Texts, quoted
from cotjax.training.digests import token_batches

AROUND = 8  # tokens before and behind a place
WIDTH = 32  # characters of a token's cell, with its numbers
LONGEST = 14  # characters of a token that are shown


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """Tokens in their order, with numbers of each.

    Attributes:
      title: what they are.
      names: of the numbers.
      texts: T tokens.
      numbers: [T, names] nats.
    """

    title: str
    names: tuple[str, ...]
    texts: list[str]
    numbers: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is shown of a step.

    Attributes:
      head: a line above.
      columns: of the summary; empty without one.
      summary: rows of cells.
      tables: of tokens.
    """

    head: str
    columns: tuple[str, ...]
    summary: list[tuple[str, ...]]
    tables: list[TokenTable]


def texts_of(stage: Any, work: Step) -> Texts:
    """What is written somewhere in a step, for a difference there."""
    student = getattr(stage, "student", None)
    batches = token_batches(work.batch if work.data is None else work.data)

    def tokens(kind: str, place: tuple[int, ...]) -> np.ndarray:
        if kind == "rows":
            return np.concatenate([np.asarray(one.tokens) for one in batches])[place[0]]
        assert work.groups is not None, "it has prompts and completions"
        batch, rollout = work.groups.prompts, work.groups.rollout
        ids, mask = (
            (batch.tokens, batch.mask) if kind == "prompts" else (rollout.tokens, rollout.mask)
        )
        return np.asarray(ids)[place][np.asarray(mask)[place]]

    def text(kind: str, place: tuple[int, ...], token: int) -> str:
        if student is None:
            return ""
        ids = tokens(kind, place).tolist()
        before, behind = ids[max(token - AROUND, 0) : token], ids[token : token + AROUND]
        told = [
            student.tokenizer.decode(part, skip_special_tokens=False) for part in (before, behind)
        ]
        return f"; now it goes on behind {quoted(told[0])} with {quoted(told[1])}"

    return text


def look_at(stage: Any, params: Any, work: Step, number: int) -> Shown:
    """One group of a step, or one of its rows where it has no groups.

    Args:
      stage: whose step it is.
      params: before the update.
      work: what the stage gave.
      number: of the group or row, from 1.

    Raises:
      InputError: there are fewer; or the stage gives neither groups nor rows.
    """
    if work.groups is not None:
        return _group(stage, params, work, _checked(number, len(work.groups.records), "groups"))
    batches = token_batches(work.batch)
    if not batches:
        raise InputError(
            "--show: this stage gives neither groups nor rows of tokens. Leave it out."
        )
    place = _checked(number, sum(len(batch.tokens) for batch in batches), "rows")
    for batch, scores in zip(batches, _losses(stage, params, work), strict=True):
        if place < len(batch.tokens):
            return _row(stage, batch, scores, place, number)
        place -= len(batch.tokens)
    raise AssertionError("a row is in one of the batches")


def _checked(number: int, count: int, what: str) -> int:
    if not 1 <= number <= count:
        raise InputError(f"--group {number}: the step has {count} {what}. Name one from 1 on.")
    return number - 1


def _decoded(stage: Any, ids: Sequence[int]) -> list[str]:
    tokenizer = stage.student.tokenizer
    return [visible(tokenizer.decode([one], skip_special_tokens=False)) for one in ids]


# A group of completions.


def _group(stage: Any, params: Any, work: Step, place: int) -> Shown:
    groups = work.groups
    assert groups is not None, "it is asked for before"
    record, rewards = groups.records[place], np.asarray(groups.reward)[place]
    rollout = groups.rollout
    tokens, mask, ends = (np.asarray(x)[place] for x in (rollout.tokens, rollout.mask, rollout.end))
    sampler = np.asarray(rollout.logp)[place]
    advantage, trainer = _scores(stage, params, work, (tokens, mask, ends))
    names = ("sampler",) if trainer is None else ("sampler", "trainer")
    summary, tables = list[tuple[str, ...]](), list[TokenTable]()
    for number, (row, seen, end) in enumerate(zip(tokens, mask, ends, strict=True)):
        ids = row[seen].tolist()
        size, texts = len(ids), _decoded(stage, ids)
        columns = [sampler[number][seen]]
        columns += [] if trainer is None else [trainer[number][:size]]
        total = float(columns[-1].sum())
        own = "-" if advantage is None else f"{advantage[number]:+.4f}"
        cells = (
            str(number + 1),
            f"{rewards[number]:+.4f}",
            own,
            str(size),
            End(int(end)).name.lower(),
        )
        summary.append((*cells, f"{total:.3f}", visible("".join(texts)).replace("\n", " ")))
        title = f"completion {number + 1}: log-probabilities, nats"
        tables.append(TokenTable(title, names, texts, np.stack(columns, axis=-1)))
    titles = "#", "reward", "advantage", "tokens", "end", "log p", "text"
    head = f"group {place + 1} of {len(groups.records)}, {record.id}: {visible(record.question)}"
    return Shown(head, titles, summary, tables)


def _scores(
    stage: Any, params: Any, work: Step, group: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The advantage [G] and the trainer's log-probabilities [G, T] of a group that is used."""
    tokens, mask, ends = group
    other = (ends == End.NONFINITE)[:, None]  # which are padding in a micro-batch
    leaves = jax.tree.leaves(work.batch, is_leaf=lambda one: isinstance(one, ScoredGroups))
    for micro in (leaf for leaf in leaves if isinstance(leaf, ScoredGroups)):
        completion = np.asarray(micro.completion)
        size = completion.shape[-1]
        if mask[:, size:].any() or size > tokens.shape[-1]:
            continue
        same = ((completion == tokens[:, :size]) | other).all(axis=(1, 2))
        for place in np.flatnonzero(same).tolist():
            student = stage.student
            logp = stage.score(student.policy, student.all_params(params), micro)
            return np.asarray(micro.advantage)[place], np.asarray(logp)[place]
    return None, None


# A row of tokens.


def _losses(stage: Any, params: Any, work: Step) -> Iterator[dict[str, np.ndarray]]:
    """By name, the loss [B, S] of every target, nats, batch by batch; without dropout."""
    policy, whole = stage.student.policy, stage.student.all_params(params)

    def nll(params: Any, batch: TokenBatch) -> jax.Array:
        mask = batch.weight > 0
        hidden = policy.rows(params, batch)
        return -policy.head_logprobs(params, hidden, batch.targets, mask)[0]

    def divergence(params: Any, batch: TokenBatch, outputs: Any) -> jax.Array:
        head = policy.head(params, whole=True)
        return stage.distill_loss.divergence(
            outputs, policy.rows(params, batch), head, batch.weight > 0
        )

    jit: Any = cast(Any, jax).jit  # jax does not type all of it
    score, measure = jit(nll), jit(divergence)
    for batch in token_batches(work.batch):
        found: dict[str, np.ndarray] = {"loss": np.asarray(score(whole, batch))}
        outputs = [one.outputs for one in work.batch if hasattr(one, "outputs")]
        if outputs and hasattr(stage, "distill_loss"):
            found["distance"] = np.asarray(measure(whole, batch, outputs[0]))
        yield found


def _row(
    stage: Any, batch: TokenBatch, scores: dict[str, np.ndarray], place: int, number: int
) -> Shown:
    segment, weight, targets, tokens = (
        np.asarray(one)[place] for one in (batch.segment, batch.weight, batch.targets, batch.tokens)
    )
    tables = list[TokenTable]()
    for own in range(1, int(segment.max(initial=0)) + 1):
        counts = (segment == own) & (weight > 0)
        prompt = tokens[(segment == own) & ~counts].tolist()
        text = visible(stage.student.tokenizer.decode(prompt, skip_special_tokens=False))
        columns = [one[place][counts] for one in scores.values()]
        if (weight[counts] != 1).any():
            columns.append(weight[counts])
        names = (*scores, "weight")[: len(columns)]
        title = f"example {own}, behind {quoted(text)}: nats"
        tables.append(TokenTable(
            title, names, _decoded(stage, targets[counts].tolist()), np.stack(columns, axis=-1)
        ))  # fmt: skip
    means = ", ".join(
        f"mean {name} {one[place][weight > 0].mean() if (weight > 0).any() else 0.0:.4f}"
        for name, one in scores.items()
    )
    head = f"row {number} of {len(batch.tokens)}, {int((weight > 0).sum())} targets, {means}"
    return Shown(head, (), [], tables)


# To a terminal.


def print_shown(console: Console, shown: Shown) -> None:
    """Prints a group or a row: a summary, then every token with its numbers."""
    console.print(Text(shown.head, style="bold"))
    if shown.columns:
        table = Table(box=None, pad_edge=False)
        for title in shown.columns:
            left = title in ("text", "end")
            table.add_column(title, justify="left" if left else "right", no_wrap=left,
                             overflow="ellipsis")  # fmt: skip
        for row in shown.summary:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for tokens in shown.tables:
        console.print()
        _print_tokens(console, tokens)


def _print_tokens(console: Console, tokens: TokenTable) -> None:
    """Tokens from left to right, each with its numbers, as many to a line as there is space for."""
    console.print(Text(tokens.title, style="bold"), soft_wrap=True)
    across = max(console.width // (WIDTH - 8 + 9 * (len(tokens.names) - 1)), 1)
    table = Table(box=None, pad_edge=False)
    for _ in range(across):
        table.add_column("", justify="right", style="dim")
        table.add_column("token", no_wrap=True)
        for name in tokens.names:
            table.add_column(name, justify="right")
    cells = [
        (str(place), Text(_shortened(text)), *(f"{number:.4f}" for number in numbers))
        for place, (text, numbers) in enumerate(zip(tokens.texts, tokens.numbers, strict=True), 1)
    ]
    for start in range(0, len(cells), across):
        line = [cell for one in cells[start : start + across] for cell in one]
        table.add_row(*line)
    console.print(table)


def _shortened(text: str) -> str:
    text = text.replace("\n", "\\n").replace("\t", "\\t")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
