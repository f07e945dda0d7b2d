"""Detectors: what goes wrong over many steps and raises no error, read off the metrics of a run.

Each looks at the lines that a run has written so far, metrics and digests, and gives a sentence or
nothing. They are functions of these lines alone, so that a resumed run says what an unbroken one
would have said.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

WINDOW = 5  # steps whose mean is looked at, as one step says little
QUIET = 20  # steps for which a detector that spoke says nothing more

TRUNCATED = 0.3  # share of completions that the limit cuts off
NO_SIGNAL = 0.8  # share of groups whose rewards are equal
REPEATED = 0.9  # share of completions that say what another of their group does; with `EQUAL`
ENTROPY = 0.1  # of the first steps' entropy; with many groups without a signal it is a collapse
EQUAL = 0.5  # share of such groups
SHORTER = 0.8  # of the length at which the run was most accurate
LESS_RIGHT = 0.15  # accuracy lost since then
KL = 1.0  # nats a token
KL_GROWTH = 10.0  # times the run's median, from a tenth of `KL` on
REPEATS = 2  # steps in a row with the data of the step before
LONGER = 1.5  # times the length of the answers before training
DRIFT = 1.0  # nats a token that the student's first answers are less likely to it than at first

WATCHED = (
    *("truncated", "no_signal", "repeated", "accuracy", "reward", "entropy", "completion_tokens"),
    "kl",
)

Line = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Alarm:
    """What a detector says of a run.

    Attributes:
      step: steps taken.
      name: of the detector.
      says: what it saw, and what to do about it.
    """

    step: int
    name: str
    says: str

    def __str__(self) -> str:
        """In one sentence."""
        return f"{self.name}: {self.says}"


class History:
    """The metrics of a run so far.

    Attributes:
      step: the newest line of a step; empty before the first.
      evaluations: a line for each, the first before training.
      repeats: steps in a row, up to the newest, whose data were those of the step before.
    """

    def __init__(self) -> None:
        self.step: Line = {}
        self.repeats = 0
        self._data: Any = None
        self.evaluations: list[Line] = []
        self._values: dict[str, list[float]] = {}
        self._rewards: dict[int, float] = {}

    def add(self, line: Line) -> None:
        """Takes a line of a step, of its digests, or of an evaluation."""
        if line["kind"] == "eval":
            self.evaluations.append(line)
        if line["kind"] == "digest":
            data = line.get("records") or line.get("rows")
            self.repeats = self.repeats + 1 if data and data == self._data else 0
            self._data = data
        if line["kind"] != "train":
            return
        self.step = line
        for name in WATCHED:
            value = line.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                self._values.setdefault(name, []).append(float(value))
                if name == "reward":
                    self._rewards[int(line["step"])] = float(value)

    def values(self, name: str) -> np.ndarray:
        """A metric of all steps that have it as a finite number."""
        return np.array(self._values.get(name, ()), float)

    def latest(self, name: str) -> float:
        """Its mean over the last `WINDOW` steps; NaN if there are fewer."""
        values = self._values.get(name, [])[-WINDOW:]
        return float(np.mean(values)) if len(values) == WINDOW else math.nan

    def first(self, name: str) -> float:
        """Its mean over the first `WINDOW` steps, once there are as many behind them; else NaN."""
        values = self._values.get(name, [])
        return float(np.mean(values[:WINDOW])) if len(values) >= 2 * WINDOW else math.nan

    def reward(self, first: int) -> float:
        """The mean reward of `WINDOW` steps from one on; NaN if one is not there."""
        found = [self._rewards.get(step, math.nan) for step in range(first, first + WINDOW)]
        return float(np.mean(found))


class Watch:
    """Looks at every line of a run; a detector that spoke is quiet for `QUIET` steps.

    Args:
      lines: of metrics.jsonl and digests.jsonl so far, which were told already.
    """

    def __init__(self, lines: Sequence[Line] = ()) -> None:
        self._history = History()
        self._spoke: dict[str, int] = {}
        for line in lines:
            self(line)

    def __call__(self, line: Line) -> list[Alarm]:
        """What the detectors say now that this line is there."""
        self._history.add(line)
        step, alarms = int(line["step"]), list[Alarm]()
        for name, detector in DETECTORS.get(line["kind"], {}).items():
            if step - self._spoke.get(name, -QUIET) < QUIET:
                continue
            if says := detector(self._history):
                self._spoke[name] = step
                alarms.append(Alarm(step, name, says))
        return alarms


def truncation(run: History) -> str:
    """Many completions are cut off by the token limit, and count as wrong."""
    share = run.latest("truncated")
    if not share >= TRUNCATED:
        return ""
    return (
        f"{share:.0%} of the last {WINDOW} steps' completions were cut off by the token limit. "
        "Raise rollout.max_new_tokens, or lower reward.length_per_step."
    )


def no_signal(run: History) -> str:
    """Most groups have equal rewards, so that most of the rollout is for nothing."""
    share = run.latest("no_signal")
    if not share >= NO_SIGNAL:
        return ""
    right = run.latest("accuracy")
    way_on = "harder" if right > 0.5 else "easier"
    return (
        f"{share:.0%} of the last {WINDOW} steps' groups have equal rewards, at an accuracy of "
        f"{right:.0%}. Take {way_on} problems, or raise rollout.group_size or policy.refill."
    )


def repeated_completions(run: History) -> str:
    """The completions of a group are mostly the same text."""
    share, equal = run.latest("repeated"), run.latest("no_signal")
    if not (share >= REPEATED and equal >= EQUAL):  # groups may repeat and still differ enough
        return ""
    return (
        f"{share:.0%} of the last {WINDOW} steps' completions say what another of their group "
        f"says, and {equal:.0%} of groups have equal rewards. Raise rollout.temperature, or add "
        "policy.entropy_bonus."
    )


def entropy_collapse(run: History) -> str:
    """The sampler is sure of every token, and groups no longer differ."""
    now, first, equal = run.latest("entropy"), run.first("entropy"), run.latest("no_signal")
    if not (now < ENTROPY * first and equal >= EQUAL):
        return ""
    return (
        f"the entropy fell from {first:.3f} to {now:.3f} nats a token, and {equal:.0%} of groups "
        "have equal rewards. Lower optimizer.learning_rate, or add policy.entropy_bonus or a KL."
    )


def length_collapse(run: History) -> str:
    """The completions become shorter than the student can reason in."""
    right, length = run.values("accuracy"), run.values("completion_tokens")
    if len(right) != len(length) or len(right) < 3 * WINDOW:
        return ""
    means = [np.convolve(one, np.ones(WINDOW) / WINDOW, "valid") for one in (right, length)]
    best = int(means[0].argmax())
    lost, shorter = means[0][best] - means[0][-1], means[1][-1] / max(means[1][best], 1e-9)
    if not (lost >= LESS_RIGHT and shorter <= SHORTER):
        return ""
    return (
        f"the completions have {means[1][-1]:.0f} tokens where they had {means[1][best]:.0f}, and "
        f"{means[0][-1]:.0%} are right where {means[0][best]:.0%} were (means of {WINDOW} steps; "
        f"the best ended with step {best + WINDOW}). Raise reward.length_per_step, set "
        'reward.length = "none", or end the run there.'
    )


def kl_blow_up(run: History) -> str:
    """The policy leaves its reference."""
    values, now = run.values("kl"), run.latest("kl")
    if "reward" not in run.step or not now > KL / 10:  # other stages are to leave their start
        return ""
    usual = float(np.median(values[:-WINDOW])) if len(values) >= 3 * WINDOW else float("inf")
    if not (now > KL or now > KL_GROWTH * usual):
        return ""
    return (
        f"the KL from the reference is {now:.2f} nats a token over the last {WINDOW} steps. Lower "
        "optimizer.learning_rate, or raise policy.kl_coefficient."
    )


def stale_data(run: History) -> str:
    """Steps are taken on the same questions or rows again and again."""
    if run.repeats < REPEATS:
        return ""
    return (
        f"the last {run.repeats + 1} steps had the same data. Look at the source: does it move on? "
        "A set of one batch is trained on again and again."
    )


def reward_hacking(run: History) -> str:
    """The reward rises while fewer of the held-out answers are right."""
    *earlier, now = run.evaluations
    ends = {"accuracy", "accuracy_low", "accuracy_high"}
    last = int(now["step"])
    for line in earlier:
        step = int(line["step"])
        then, since = run.reward(max(step - WINDOW, 0) + 1), run.reward(last - WINDOW + 1)
        if last < step + WINDOW or not since > then or not ends <= {*now, *line}:
            continue
        if now["accuracy_high"] < line["accuracy_low"]:
            return (
                f"the mean reward rose from {then:.2f} to {since:.2f} while held-out accuracy fell "
                f"from {line['accuracy']:.1%} (step {step}) to {now['accuracy']:.1%}. Read "
                "completions.jsonl: the reward pays for something else than right answers."
            )
    return ""


def style_drift(run: History) -> str:
    """Answers become much longer, or the student no longer expects its own first answers."""
    first, now = run.evaluations[0], run.evaluations[-1]
    longer = now["tokens"] / max(first["tokens"], 1.0) if {"tokens"} <= {*now, *first} else 1.0
    drift = now.get("drift") or 0.0
    told = []
    if longer >= LONGER:
        told.append(
            f"answers have {now['tokens']:.0f} tokens where they had {first['tokens']:.0f} before "
            "training"
        )
    if drift >= DRIFT:
        told.append(f"the student's own first answers cost it {drift:.2f} nats a token more")
    if not told:
        return ""
    return (
        f"{', and '.join(told)}. It takes over the teachers' style: weigh supervised.kl_coefficient"
        " or a weaker teacher, and compare accuracy before and after."
    )


Detector = Callable[[History], str]

DETECTORS: dict[str, dict[str, Detector]] = {
    "train": {
        "truncation": truncation,
        "no signal": no_signal,
        "repeated completions": repeated_completions,
        "entropy collapse": entropy_collapse,
        "length collapse": length_collapse,
        "KL blow-up": kl_blow_up,
    },
    "digest": {"stale data": stale_data},
    "eval": {"reward hacking": reward_hacking, "style drift": style_drift},
}
