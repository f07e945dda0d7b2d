# %% [markdown]
# # Your own reward, verifier and data
#
# Three functions of yours, tried on strings before anything trains, then two short runs from the
# same student that differ in the reward alone. One is paid for being brief, the other for checking
# its steps. You get what you pay for.
# %%
import itertools
import re
import tempfile

import numpy as np

from cotjax import Config, train
from cotjax.cot import NUMERIC
from cotjax.interfaces import Completion, End, Record

STEPS = 10  # more of them: clearer curves, about a second each
# %% [markdown]
# ## Data
#
# Anything with a length and records by index. This one makes questions up; a file needs no code at
# all (`data.source = "jsonl"`, and `data.columns` where its keys have other names). Each record has
# an id that stays, so that a run can be resumed, and no question comes twice: the last
# `eval.problems` of them are held out.
# %%
NAMES = {"Ana": "She", "Ben": "He", "Eva": "She", "Leo": "He"}
THINGS = ("pens", "cups", "coins", "rings")
ALL = list(itertools.product(NAMES, THINGS, range(2, 16), range(2, 10), (2, 3)))
ORDER = np.random.default_rng(0).permutation(len(ALL))


class Shopping:
    """Somebody has some, buys more, and gets a multiple of that."""

    def __len__(self):
        return len(ALL)

    def __getitem__(self, index):
        name, thing, a, b, c = ALL[ORDER[index]]
        question = (
            f"{name} has {a} {thing}. {NAMES[name]} buys {b} more. {NAMES[name]} gets {c} times as "
            f"many. How many {thing} does {name} have now?"
        )
        steps = (f"{a}+{b}={a + b}", f"{a + b}*{c}={(a + b) * c}")
        return Record(f"shopping/{index}", question, str((a + b) * c), steps, difficulty=2)


source = Shopping()
print(f"{len(source):,} questions, such as: {source[0].question} -> {source[0].answer}")
# %% [markdown]
# ## A verifier
#
# It reads the answer out of a text, and compares it with the gold one. The built-in `numeric` is
# lenient on purpose. This one wants a last line `Answer: N` and nothing behind it. Try it on the
# texts that worry you before a run relies on it: every cell below is a reward that would go wrong.
# %%


class LastLine:
    """`Answer: N` as the last line, N digits alone."""

    def extract(self, text):
        found = re.search(r"(?:^|\n)Answer: (\d+)\s*\Z", text)
        return found[1] if found else None

    def equal(self, answer, gold):
        return answer == gold


texts = [
    "Step 1: 3+4=7\nStep 2: 7*6=42\nAnswer: 42",
    "Step 1: 3+4=7\nAnswer: 42 pens",
    "The answer is 42.",
    "Answer: 42\nNo, wait. Answer: 41",
    "Answer: 42.0",
    "Step 1: 7*6=42",
]
verifiers = {"numeric": NUMERIC, "LastLine": LastLine()}
found = {name: [one.extract(text) for text in texts] for name, one in verifiers.items()}
figure, axis = plt.subplots(figsize=(9, 2.6))
axis.axis("off")
for row, text in enumerate(texts):
    axis.text(0, row, text.replace("\n", "  ⏎  "), va="center", family="monospace", fontsize=8)
    for column, (name, one) in enumerate(verifiers.items()):
        answer = found[name][row]
        good = answer is not None and one.equal(answer, "42")
        shown = "no answer" if answer is None else answer
        at = {"va": "center", "ha": "center", "color": GREEN if good else ORANGE}
        axis.text(0.72 + 0.16 * column, row, shown, weight="bold", **at)
for column, name in enumerate(verifiers):
    axis.text(0.72 + 0.16 * column, -1, name, ha="center", va="center")
axis.text(0, -1, "what a student may write; the gold answer is 42", va="center", color=GREY)
axis.set(ylim=(len(texts) - 0.5, -1.5), xlim=(0, 1))
plt.show()


# %% [markdown]
# ## A reward
#
# A function of a completion and its record. It gives a number, or named parts: their sum is the
# reward, and each part becomes a column of the run's metrics. `brief` pays for few tokens and
# `checked` for steps that are checked, both only where the answer is right. What happens without
# that condition is drawn on the right: there a short wrong answer earns more than a long right one,
# and a student finds such things sooner than their author does.
# %%
def brief(completion, record):
    right = float(completion.answer == record.answer)
    return {"right": right, "tokens": -0.005 * completion.tokens * right}


def checked(completion, record):
    right = float(completion.answer == record.answer)
    checks = min(completion.text.count("Check"), len(record.steps))
    return {"right": right, "checks": 0.25 * checks * right}


def careless(completion, record):
    return {"right": float(completion.answer == record.answer), "tokens": -0.01 * completion.tokens}


length = np.arange(2, 151)
figure, axes = plt.subplots(1, 3, figsize=(12, 2.8), sharey=True)
for axis, reward in zip(axes, (brief, checked, careless), strict=True):
    for answer, colour, label in (("7", GREEN, "right"), ("8", ORANGE, "wrong")):
        for checks, style in ((0, "-"), (2, "--")):
            text = "Check" * checks
            made = [Completion(text, int(n), "", answer, End.EOS) for n in length]
            record = Record("", "", "7", ("", ""), 2)
            earned = [sum(reward(one, record).values()) for one in made]
            shown = f"{label}{', 2 checks' if checks else ''}"
            axis.plot(length, earned, color=colour, linestyle=style, label=shown)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set(title=reward.__name__, xlabel="tokens")
axes[0].set_ylabel("reward")
axes[2].legend(loc="upper right")
plt.show()


# %% [markdown]
# ## Two runs
#
# Objects of a notebook are given to `train` as they are. In a file they are named,
# `reward.function = "./rewards.py:brief"`, and the run can be resumed without Python.
# %%
def run_with(reward):
    config = Config.for_stage(
        "grpo",
        name=reward.__name__,
        output=tempfile.mkdtemp(),
        steps=STEPS,
        rollout={"prompts": 8, "group_size": 8, "max_new_tokens": 96},
        policy={"micro_batch": 0, "kl_coefficient": 0.0},
        optimizer={"learning_rate": 2.5e-4},
        eval={"problems": 64, "samples": 0, "max_new_tokens": 96, "verifier": "numeric"},
        checkpoint={"every": 0},
    )
    with quiet():
        return train(config, reward=reward, verifier=LastLine(), source=source)


runs = {reward.__name__: run_with(reward) for reward in (brief, checked)}
# %% [markdown]
# Two students from one: the length, which only one of them is paid for, falls for that one alone.
# The dots on the right are held-out questions, greedy, with their 95 % intervals: 64 questions tell
# accuracies apart that differ by some 15 points, and no less.
# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4))
for (name, run), colour in zip(runs.items(), (PURPLE, BLUE), strict=True):
    steps = run.metrics.steps
    left.plot(steps, run.metrics["reward"] - run.metrics["reward"][0], color=colour, label=name)
    middle.plot(steps, run.metrics["completion_tokens"], color=colour)
    right.plot(steps, run.metrics["accuracy"], color=colour, alpha=0.4)
    for when, step in (("before", 0), ("after", STEPS)):
        row, at = run.result[when], step + 0.15 * (colour == BLUE)
        ends = [[row["accuracy"] - row["accuracy_low"]], [row["accuracy_high"] - row["accuracy"]]]
        right.errorbar(at, row["accuracy"], ends, fmt="o", color=colour, capsize=3)
left.set(title="reward, from where it began", xlabel="step")
left.legend()
middle.set(title="tokens of a completion", xlabel="step", ylim=(0, None))
right.set(title="right", xlabel="step", ylim=(-0.02, 1.02))
right.yaxis.set_major_formatter("{x:.0%}")
plt.show()
for name, run in runs.items():
    before, after = run.result["before"], run.result["after"]
    print(
        f"{name:8} {before['accuracy']:.0%} -> {after['accuracy']:.0%} right, "
        f"{before['tokens']:.0f} -> {after['tokens']:.0f} tokens"
    )
# %% [markdown]
# ## The parts of the reward, and what the students write
# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 2.8), sharey=True)
for axis, (name, run) in zip(axes, runs.items(), strict=True):
    for part, colour in (("right", GREEN), ("tokens", PURPLE), ("checks", BLUE)):
        if f"reward_{part}" in run.metrics:
            axis.plot(run.metrics.steps, run.metrics[f"reward_{part}"], color=colour, label=part)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set(title=name, xlabel="step")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
axes[0].set_ylabel("mean of the part")
plt.show()
for name, run in runs.items():
    row = [row for row in run.completions if row["kind"] == "after"][0]
    print(f"{name}: {row['question']} -> {row['gold']}\n{row['completion'].strip()}\n")
# %% [markdown]
# Losses, difficulties, schedules of teachers and whole stages plug in the same way:
# [docs/extending.md](../docs/extending.md). [Alarms](../docs/alarms.md) look for rewards that rise
# while answers get worse.
