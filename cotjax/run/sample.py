"""Completions of one prompt: all at once for Python, as they are written for the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cotjax.errors import InputError
from cotjax.run.opened import OpenedModel

if TYPE_CHECKING:
    from cotjax.interfaces import Rollout
    from cotjax.student.load import LoadedPolicy

BLOCK = 64  # tokens; programs are made for multiples, so that few lengths are compiled
CHUNK = 4  # tokens between two texts of a stream
LAYOUTS = ("question", "chat", "plain")


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How completions of a prompt are sampled.

    Attributes:
      n: completions.
      max_new_tokens: longest completion.
      temperature: divides the logits; 0 is greedy.
      top_k: sample among the k likeliest tokens; 0 = all.
      top_p: sample among the likeliest tokens of this total probability.
      min_p: drop tokens below this multiple of the likeliest one's probability.
      seed: of the draws.
      stop: texts that end a completion; they stay in it.
      layout: "question" as in training, "chat" for a user's message, "plain" for the text alone.
    """

    n: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    layout: str = "question"

    def check(self, spelled: Callable[[str], str] = str) -> None:
        """Refuses numbers out of range, and what is no number or text.

        Args:
          spelled: how the reader wrote a setting's name.

        Raises:
          InputError: names the setting, its value and the range.
        """
        for name, (kind, holds, needs) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                what = "a whole number" if kind is Integral else "a number"
                raise InputError(f"{spelled(name)} = {value!r}: not {what}. Give a value {needs}.")
            if not holds(value):
                raise InputError(f"{spelled(name)} = {value}: out of range. Give a value {needs}.")
        if self.layout not in LAYOUTS:
            raise InputError(
                f"{spelled('layout')} = {self.layout}: out of range. Give a value of "
                f"{', '.join(LAYOUTS)}."
            )
        stops: tuple[Any, ...] = self.stop
        for one in stops:
            if not isinstance(one, str):
                raise InputError(
                    f"{spelled('stop')} = {one!r}: not a text. Give a text, or several."
                )


# Of each setting: what it is, the values that it may have, and how to say that.
_RANGES: Mapping[str, tuple[type, Callable[[Any], bool], str]] = MappingProxyType(
    {
        "n": (Integral, lambda value: value >= 1, ">= 1"),
        "max_new_tokens": (Integral, lambda value: value >= 1, ">= 1"),
        "temperature": (Real, lambda value: 0 <= value < float("inf"), ">= 0"),
        "top_k": (Integral, lambda value: value >= 0, ">= 0"),
        "top_p": (Real, lambda value: 0 < value <= 1, "above 0 and at most 1"),
        "min_p": (Real, lambda value: 0 <= value < 1, "at least 0 and below 1"),
        "seed": (Integral, lambda value: 0 <= value < 2**32, "at least 0 and below 2^32"),
    }
)


def stream_texts(
    opened: OpenedModel,
    prompt: str,
    settings: SampleSettings,
    spelled: Callable[[str], str] = str,
) -> Iterator[list[str]]:
    """The completions so far, again and again until they have ended; a single one in small pieces.

    Args:
      opened: who writes.
      prompt: a question or text, see `SampleSettings.layout`.
      settings: how.
      spelled: how the reader wrote a setting's name, for errors.

    Raises:
      InputError: a value out of range, an empty prompt, one longer than the context, no chat
        template, or a stop string that can never match.
    """
    for rollout in _stream(opened, prompt, settings, spelled):
        yield _decoded(opened.student, rollout)


def sample_rows(
    opened: OpenedModel,
    prompt: str,
    settings: SampleSettings,
    spelled: Callable[[str], str] = str,
) -> list[dict[str, Any]]:
    """Completions with what completions.jsonl says of them; arguments and errors as above.

    Returns:
      of each `completion`, its text without the end token; `tokens`, its length with it; and
      `end`, why it ended: `eos`, `stop`, or `length`.
    """
    from cotjax.interfaces import End

    *_, rollout = _stream(opened, prompt, settings, spelled)
    texts, sizes, ends = _decoded(opened.student, rollout), rollout.mask[0].sum(-1), rollout.end[0]
    return [
        {"completion": text, "tokens": int(size), "end": End(int(end)).name.lower()}
        for text, size, end in zip(texts, sizes, ends, strict=True)
    ]


def _stream(
    opened: OpenedModel, prompt: str, settings: SampleSettings, spelled: Callable[[str], str]
) -> Iterator[Rollout]:
    """The completions so far, on the host; see `stream_texts`."""
    import jax
    import numpy as np

    from cotjax.data.encode import encode_prompts
    from cotjax.rollout.plan import Sampling
    from cotjax.rollout.stream import stream
    from cotjax.student.load import make_stop_table
    from cotjax.student.preflight import Use, check_fits

    settings.check(spelled)
    student = opened.student
    text = _laid_out(prompt, settings.layout, opened)
    shape = student.architecture
    size = len(student.tokenizer.encode(text, add_special_tokens=False))
    longest = settings.max_new_tokens
    length = min(_in_blocks(longest), shape.max_positions - size)
    sampling = Sampling(
        group_size=settings.n,
        max_new_tokens=max(length, longest),
        **student.ends,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
    )
    key = spelled("max_new_tokens")
    sizes = {spelled("n"): settings.n, key: longest}
    check_fits(student, Use("generate", sampling, 1, size, "the prompt's tokens", key, sizes, ""))
    batch = encode_prompts(
        student.tokenizer, [text], [0], max_length=_in_blocks(size), names=["prompt"]
    )
    stops = list(settings.stop)
    pieces = stream(
        student.policy,
        student.all_params(opened.params),
        batch,
        jax.random.key(settings.seed),
        settings=sampling,
        stop_table=make_stop_table(student.tokenizer, shape.vocab_size, stops, key=spelled("stop")),
        chunk=CHUNK if settings.n == 1 else longest,
        limit=longest,
    )
    for rollout in pieces:
        yield jax.tree.map(np.asarray, rollout)


def _laid_out(text: str, layout: str, opened: OpenedModel) -> str:
    """The text that the model is given."""
    from cotjax.data.chat import open_chat, open_plain

    student = opened.student
    given: Any = text
    if not isinstance(given, str):
        raise InputError(f"the prompt is {given!r}, and no text. Give a text.")
    if not text.strip():
        raise InputError("the prompt is empty. Give a text.")
    if layout == "question":
        return student.prompts.solve(text)
    if layout == "plain":
        return open_plain(student.tokenizer)[0](text)
    if student.tokenizer.chat_template is None:
        raise InputError(
            'layout = "chat": the tokenizer has no chat template. Ask a question or plain text.'
        )
    return open_chat(student.tokenizer, opened.config.data.chat_kwargs)[0](text)


def _in_blocks(size: int) -> int:
    """The next multiple of BLOCK."""
    return -(-size // BLOCK) * BLOCK


def _decoded(student: LoadedPolicy, rollout: Rollout) -> list[str]:
    """The texts of one prompt's completions, without end tokens."""
    from cotjax.interfaces import End

    sizes = rollout.mask[0].sum(axis=-1) - (rollout.end[0] == End.EOS)
    rows = [row[:size] for row, size in zip(rollout.tokens[0], sizes, strict=True)]
    return student.tokenizer.batch_decode(rows, skip_special_tokens=False)
