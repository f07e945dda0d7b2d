"""The built-in source: multi-step word problems, made up one by one from (seed, split, index).

A problem starts with a number of things and changes it once per step:

    question  Mia has 7 pens. She buys 5 more. She loses 3. How many pens does Mia have now?
    verbose   Step 1: Mia has 7 pens and buys 5 more. 7+5=12. Check: 12-5=7.
              Step 2: Mia has 12 pens and loses 3. 12-3=9. Check: 9+3=12.
    concise   Step 1: 7+5=12
              Step 2: 12-3=9

A third style thinks aloud, see `deliberate`. **New operations** are told in words that the built-in
student has never read (`Ana picks up 5`), so that only a teacher's text tells what they mean.

**Splits are disjoint by construction**, twice over. A chain of numbers (start, then operation and
operand of each step) belongs to the split that its checksum names, and a pair (person, thing)
belongs to the split that the sum of its two positions names. So no validation or test problem
shares its numbers, nor its person-and-thing pair, with any training problem, at any seed.
"""

import dataclasses
import random
import zlib
from collections.abc import Sequence
from typing import Literal

from cotjax.data.deliberate import Rates, Told, below, deliberate_steps
from cotjax.data.sources import OneSource
from cotjax.interfaces import Record

Split = Literal["train", "validation", "test"]
Style = Literal["verbose", "concise"]

PEOPLE = (
    ("Mia", "She"), ("Tom", "He"), ("Ana", "She"), ("Ben", "He"), ("Eva", "She"), ("Sam", "He"),
    ("Lea", "She"), ("Max", "He"), ("Zoe", "She"), ("Leo", "He"),
)  # fmt: skip
THINGS = ("pens", "books", "coins", "cards", "shells", "stamps", "cups", "stones", "toys", "rings")

# Ten classes of checksums (and of person-thing pairs) are dealt out to the splits.
CLASSES: dict[Split, range] = {
    "train": range(0, 8),
    "validation": range(8, 9),
    "test": range(9, 10),
}
MAX_VALUE, MAX_OPERAND = 99, 9


@dataclasses.dataclass(frozen=True)
class Operation:
    """One kind of step.

    Attributes:
      sign: of the operation.
      inverse: the sign that undoes it.
      tellings: how it is told.
      new: how it is told to a student that has never read it so.
    """

    sign: str
    inverse: str
    tellings: tuple[str, ...]
    new: str

    def told(self, words: int, operand: int) -> str:
        """A telling by its number; the one behind the last is the new one."""
        return (*self.tellings, self.new)[words].format(k=operand)


OPERATIONS = (
    Operation("+", "-", ("buys {k} more", "finds {k} more", "wins {k} more"), "picks up {k}"),
    Operation("-", "+", ("loses {k}", "sells {k}", "gives away {k}"), "drops {k}"),
    Operation("*", "/", ("gets {k} times as many", "swaps each for {k}"), "grows them {k} fold"),
    Operation(
        "/", "*", ("keeps one of {k} equal parts", "keeps one in every {k}"), "splits by {k}"
    ),
)


def apply(sign: str, value: int, operand: int) -> int | None:
    """The value after a step, or None where the step would leave whole numbers in 1..99."""
    if sign == "/":
        result = value // operand if value % operand == 0 else 0
    else:
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
    return result if 1 <= result <= MAX_VALUE else None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A chain of numbers and the words to tell it in.

    Attributes:
      person: index into PEOPLE.
      thing: index into THINGS.
      start: the first number.
      chain: per step, index into OPERATIONS, operand, index of the telling.
    """

    person: int
    thing: int
    start: int
    chain: tuple[tuple[int, int, int], ...]

    def question(self) -> str:
        """The problem in words."""
        (name, pronoun), things = PEOPLE[self.person], THINGS[self.thing]
        told = [f"{pronoun} {OPERATIONS[op].told(words, k)}." for op, k, words in self.chain]
        ask = f"How many {things} does {name} have now?"
        return " ".join([f"{name} has {self.start} {things}.", *told, ask])

    def values(self) -> list[int]:
        """The start and the value after each step."""
        values = [self.start]
        for op, k, _ in self.chain:
            value = apply(OPERATIONS[op].sign, values[-1], k)
            assert value is not None, "a problem is only made of steps that apply"
            values.append(value)
        return values

    def with_new(self, share: float, rng: random.Random) -> "Problem":
        """The same problem with a share of its steps told in new words."""
        chain = tuple(
            (op, k, len(OPERATIONS[op].tellings) if rng.random() < share else words)
            for op, k, words in self.chain
        )
        return dataclasses.replace(self, chain=chain)

    def deliberate(self, rates: Rates, rng: random.Random) -> tuple[str, ...]:
        """The solution by a teacher that thinks aloud, one string per step."""
        values = self.values()
        name, things = PEOPLE[self.person][0], THINGS[self.thing]
        told = tuple(
            Told(
                *(name, things, before, after, OPERATIONS[op].sign, OPERATIONS[op].inverse, k),
                words=OPERATIONS[op].told(words, k),
            )
            for (op, k, words), before, after in zip(
                self.chain, values[:-1], values[1:], strict=True
            )
        )
        return deliberate_steps(told, rates, rng, apply)

    def steps(self, style: Style) -> tuple[str, ...]:
        """The solution, one string per step, verbose or concise."""
        values = self.values()
        return tuple(
            self._step(style, op, k, words, before, after)
            for (op, k, words), before, after in zip(
                self.chain, values[:-1], values[1:], strict=True
            )
        )

    def _step(self, style: Style, op: int, k: int, words: int, before: int, after: int) -> str:
        name, things, operation = PEOPLE[self.person][0], THINGS[self.thing], OPERATIONS[op]
        equation = f"{before}{operation.sign}{k}={after}"
        if style == "concise":
            return equation
        return (
            f"{name} has {before} {things} and {operation.told(words, k)}. "
            f"{equation}. Check: {after}{operation.inverse}{k}={before}."
        )


def _draw_chain(rng: random.Random, num_steps: int) -> tuple[int, tuple[tuple[int, int, int], ...]]:
    start = value = 2 + below(rng, 48)
    chain: list[tuple[int, int, int]] = []
    while len(chain) < num_steps:
        op, k = below(rng, len(OPERATIONS)), 2 + below(rng, MAX_OPERAND - 1)
        after = apply(OPERATIONS[op].sign, value, k)
        if after is not None and after != value:
            chain.append((op, k, below(rng, len(OPERATIONS[op].tellings))))
            value = after
    return start, tuple(chain)


def chain_class(start: int, chain: Sequence[tuple[int, int, int]]) -> int:
    """0..9, from the numbers and operations alone, so that no wording moves a chain."""
    text = f"{start}" + "".join(f"{OPERATIONS[op].sign}{k}" for op, k, _ in chain)
    return zlib.crc32(text.encode()) % 10


def make_problem(seed: int, split: Split, index: int, min_steps: int, max_steps: int) -> Problem:
    """Problem number `index` of a split; the same one on every machine and Python version."""
    rng = random.Random(f"{seed}/{split}/{index}")
    num_steps = min_steps + below(rng, max_steps - min_steps + 1)
    start, chain = _draw_chain(rng, num_steps)
    while chain_class(start, chain) not in CLASSES[split]:
        start, chain = _draw_chain(rng, num_steps)
    person = below(rng, len(PEOPLE))
    pair_class = CLASSES[split][below(rng, len(CLASSES[split]))]
    return Problem(person, (pair_class - person) % len(THINGS), start, chain)


@dataclasses.dataclass(frozen=True)
class ProblemSource(OneSource):
    """Random access to an endless supply of problems; `len` is a nominal epoch.

    Attributes:
      split: which disjoint part.
      seed: another seed, other problems of the same split.
      min_steps: fewest steps of a solution.
      max_steps: most steps.
      concise_share: share of records whose steps are in the concise style, 0 to 1.
      size: records in an epoch.
      new_share: share of steps that are told in new words, 0 to 1.
      rates: of a teacher that thinks aloud, and writes the steps of all records; None: nobody does.
    """

    split: Split
    seed: int
    min_steps: int
    max_steps: int
    concise_share: float = 0.0
    size: int = 1_000_000
    new_share: float = 0.0
    rates: Rates | None = None

    def __len__(self) -> int:
        """Records in an epoch."""
        return self.size

    def __getitem__(self, index: int) -> Record:
        """Record `index`; the same one each time."""
        problem = make_problem(self.seed, self.split, index, self.min_steps, self.max_steps)
        # What is drawn apart from the problem changes no other part of it.
        if self.new_share:
            drawn = random.Random(f"new/{self.split}/{self.seed}/{index}")
            problem = problem.with_new(self.new_share, drawn)
        concise = random.Random(f"style/{self.seed}/{index}").random() < self.concise_share
        if self.rates is None:
            steps = problem.steps("concise" if concise else "verbose")
        else:
            drawn = random.Random(f"deliberate/{self.split}/{self.seed}/{index}")
            steps = problem.deliberate(self.rates, drawn)
        return Record(
            id=f"problems/{self.split}/{self.seed}/{index}",
            question=problem.question(),
            answer=str(problem.values()[-1]),
            steps=steps,
            difficulty=len(problem.chain),
        )
