"""A step as a run wrote it beside the same step computed again: what is equal, and what is not."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

from cotjax.errors import visible
from cotjax.run.written import Row, StepRecord
from cotjax.training.digests import first_difference

# (rows, prompts or completions; which; from which token on) to what is written there now.
Texts = Callable[[str, tuple[int, ...], int], str]
ROUNDING = {"sampler_gap": 1e-6}  # metrics that are a rounding's size, of which no update depends
_APART = ("loss", "grad_norm")
# Of completions.jsonl: what earlier versions did not write, and what follows from what they did.
_LATER = frozenset({"difficulty", "prompt", "letters", "logp", "advantage"})


@dataclasses.dataclass(frozen=True)
class Compared:
    """What became of one thing.

    Attributes:
      name: of the thing.
      verdict: "not written" where the run does not say what it was.
      told: what it is, or the first difference.
      place: of that difference, the group or row, from 1; 0 if it is in none.
    """

    name: str
    verdict: Literal["equal", "different", "not written"]
    told: str = ""
    place: int = 0


def compare(then: StepRecord, now: StepRecord, texts: Texts | None = None) -> list[Compared]:
    """Compares a step with what the run wrote of it; what follows from another comes behind it.

    Args:
      then: what the run wrote.
      now: the step computed again.
      texts: what is written somewhere now; None says less.
    """
    return [*_digests(then.digests, now.digests or {}, texts or _no_text),
            *_metrics(then.metrics, now.metrics or {}),
            *_completion_rows(then, now)]  # fmt: skip


def first_of(findings: Sequence[Compared]) -> Compared | None:
    """The first difference; None if there is none."""
    return next((one for one in findings if one.verdict == "different"), None)


def _no_text(kind: str, place: tuple[int, ...], token: int) -> str:
    del kind, place, token
    return ""


# What the step took.


def _digests(then: Row | None, now: Row, texts: Texts) -> Iterator[Compared]:
    sampled = "completions" in now
    if then is None:
        names = ("prompts", "completions", "rewards", "batch") if sampled else ("batch",)
        for name in names:
            yield Compared(name, "not written", "digests.jsonl has no whole line of this step")
        return
    if sampled and "completions" not in then:
        for name in ("prompts", "completions", "rewards"):
            yield Compared(name, "not written", "digests.jsonl has none of this step")
    elif sampled:
        ids = [str(name) for name, _ in now["records"]]
        yield _prompts(then, now, texts)
        yield _completions(then["completions"], now["completions"], ids, texts)
        yield _rewards(then["rewards"], now["rewards"], ids)
    yield _batch(then, now, texts)


def _prompts(then: Row, now: Row, texts: Texts) -> Compared:
    old, new = len(then["records"]), len(now["records"])
    if old != new:
        return _differs("prompts", f"the run had {old}, now there are {new}")
    for place, ((was, before), (name, after)) in enumerate(
        zip(then["records"], now["records"], strict=True)
    ):
        which = f"prompt {place + 1}"
        if was != name:
            told = f"{which} was of the record {was} and is of {name}"
            return _differs("prompts", told, place + 1)
        if before != after:
            told = f"the record {name} ({which}) has another question, solution or answer now"
            return _differs("prompts", told, place + 1)
        if found := first_difference(then["prompts"][place], now["prompts"][place]):
            told = f"{which} ({name}), {_from(found)}{texts('prompts', (place,), found[0])}"
            return _differs("prompts", told, place + 1)
    return Compared("prompts", "equal", f"{new}")


def _completions(
    then: list[list[str]], now: list[list[str]], ids: list[str], texts: Texts
) -> Compared:
    for place, old, new in _members(then, now):
        if old is None or new is None:
            told = f"the run had {_count(then)}, now there are {_count(now)}"
            return _differs("completions", told, place[0] + 1)
        if found := first_difference(old, new):
            told = f"{_which(place, ids)}, {_from(found)}{texts('completions', place, found[0])}"
            return _differs("completions", told, place[0] + 1)
    return Compared("completions", "equal", f"{_count(now)}, every token")


def _rewards(then: list[list[float]], now: list[list[float]], ids: list[str]) -> Compared:
    differing = [one for one in _members(then, now) if one[1] != one[2]]
    for place, old, new in differing:
        more = f", and {len(differing) - 1} others" if len(differing) > 1 else ""
        told = f"{_which(place, ids)}: the run gave {_number(old)}, now {_number(new)}{more}"
        return _differs("rewards", told, place[0] + 1)
    flat = [one for group in now for one in group]
    return Compared("rewards", "equal", f"{len(flat)}, mean {sum(flat) / max(len(flat), 1):.6g}")


def _batch(then: Row, now: Row, texts: Texts) -> Compared:
    old, new = then["batch"], now["batch"]
    names = [name for name in new if name in old]
    if not names:
        told = "its arrays lay on the devices of several processes" if new else "it has no arrays"
        return Compared("batch", "not written" if new else "equal", told)
    before, after = then.get("rows", []), now.get("rows", [])
    if "rows" in then and len(before) != len(after):
        return _differs("batch", f"the run had {len(before)} rows, now there are {len(after)}")
    pairs = list(enumerate(zip(before, after, strict=False)))
    differing = [place for place, (one, other) in pairs if one != other]
    for place in differing[:1]:
        more = f"; {len(differing)} of {len(pairs)} rows differ" if len(differing) > 1 else ""
        told = _in_row(before[place], after[place], place, texts)
        return _differs("batch", f"row {place + 1}{told}{more}", place + 1)
    if others := [name for name in names if old[name] != new[name]]:
        return _differs("batch", f"its {', '.join(others)}")
    return Compared("batch", "equal", ", ".join(names))


def _in_row(one: str, other: str, place: int, texts: Texts) -> str:
    if one.partition(".")[2] == other.partition(".")[2]:
        return ", in its targets, weights or segments; its tokens are equal"
    found = first_difference(one, other)
    assert found is not None, "they differ"
    return f", {_from(found)}{texts('rows', (place,), found[0])}"


def _members(then: Sequence[Any], now: Sequence[Any]) -> Iterator[tuple[tuple[int, int], Any, Any]]:
    """((prompt, completion), the run's, the one now) of groups."""
    for prompt, (old, new) in enumerate(zip_longest(then, now, fillvalue=())):
        for number, pair in enumerate(zip_longest(old, new)):
            yield (prompt, number), *pair


def _which(place: tuple[int, int], ids: list[str]) -> str:
    prompt, number = place
    name = f" ({ids[prompt]})" if prompt < len(ids) else ""
    return f"completion {number + 1} of prompt {prompt + 1}{name}"


def _count(groups: Sequence[Sequence[Any]]) -> str:
    return f"{sum(map(len, groups))} of {len(groups)} prompts"


def _from(found: tuple[int, int]) -> str:
    first, last = found[0] + 1, found[1] + 1
    return f"from token {first} on" if first == last else f"from a token of {first} to {last} on"


def _differs(name: str, told: str, place: int = 0) -> Compared:
    return Compared(name, "different", told, place)


# What became of it.


def _metrics(then: Row | None, now: Row) -> Iterator[Compared]:
    if then is None:
        for name in ("loss", "gradients", "numbers"):
            yield Compared(name, "not written", "metrics.jsonl has no whole line of this step")
        return
    for name, key, told in (("loss", "loss", "{}"), ("gradients", "grad_norm", "norm {}")):
        old, new = then.get(key), now.get(key)
        if key in now or key in then:
            words = told.format(_number(new) if old == new else _both(old, new))
            yield Compared(name, "equal" if old == new else "different", words)
    names = [name for name in {**then, **now} if not (is_time(name) or name in _APART)]
    differing = [name for name in names if not _same(name, then, now)]
    if differing:
        first, more = differing[0], len(differing) - 1
        told = f"{first}: {_both(then.get(first), now.get(first))}"
        yield _differs("numbers", told + (f"; {more} others differ too" if more else ""))
    else:
        yield Compared("numbers", "equal", f"{len(names)} others of metrics.jsonl")


def is_time(name: str) -> bool:
    """Whether a metric is a time, a rate or a share of time, which no two runs have in common."""
    return name.endswith("_s") or name == "data_wait"


def _same(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    old, new = then.get(name), now.get(name)
    if old == new:
        return name in then and name in now
    if not (isinstance(old, int | float) and isinstance(new, int | float)):
        return False
    return abs(old - new) <= ROUNDING.get(name, 0.0)


def _both(old: Any, new: Any) -> str:
    told = f"the run wrote {_number(old)}, now {_number(new)}"
    if isinstance(old, int | float) and isinstance(new, int | float):
        told += f" ({new - old:+.3g})"
    return told


def _number(value: Any) -> str:
    return "none" if value is None else repr(value)


def _completion_rows(then: StepRecord, now: StepRecord) -> Iterator[Compared]:
    """Of completions.jsonl, which holds some of a step's completions as text."""
    name, old, new = "completions.jsonl", then.completions, now.completions
    if not old and not new:
        return
    for place, (one, other) in enumerate(zip_longest(old, new), 1):
        if one is None or other is None:
            yield _differs(name, f"has {len(old)} whole lines of this step, now there are "
                                 f"{len(new)}")  # fmt: skip
            return
        written = [key for key in {**one, **other} if key in one or key not in _LATER]
        if differing := [key for key in written if one.get(key) != other.get(key)]:
            key = differing[0]
            told = f"line {place} of this step ({other.get('id')}), {key}: "
            yield _differs(name, told + _values(one.get(key), other.get(key)))
            return
    yield Compared(name, "equal", f"{len(new)} lines, their texts, rewards and parts")


SHOWN = 24  # characters before and behind the first that differs


def _values(old: Any, new: Any) -> str:
    if not (isinstance(old, str) and isinstance(new, str)):
        return f"the run wrote {json.dumps(old)}, now {json.dumps(new)}"
    place = next((n for n, (a, b) in enumerate(zip_longest(old, new)) if a != b), 0)
    return (
        f"behind {quoted(old[max(place - SHOWN, 0) : place])} the run wrote "
        f"{quoted(old[place : place + SHOWN])}, now {quoted(new[place : place + SHOWN])}"
    )


def quoted(text: str) -> str:
    """A text on one line, in quotes."""
    return visible(json.dumps(text, ensure_ascii=False))
