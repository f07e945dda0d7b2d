# %% [markdown]
# # BRIDGE, end to end
#
# BRIDGE ([arXiv:2602.17686](https://arxiv.org/abs/2602.17686)) teaches a small student a teacher's
# reasoning, and then to say it briefly, in three stages: put shuffled steps in **order**, write
# **masked** steps under a reward for brevity, **rewrite** what it keeps failing at. Here are all
# three on the built-in student, as small as they can be, with what they did and what a run of this
# size cannot tell.
# %%
import random
import tempfile
import textwrap

import numpy as np

from cotjax import Config, load_records, train
from cotjax.cot import (
    Rationale,
    completion_mask_count,
    mask_steps,
    rewrite_brevity,
    shuffle_steps,
)
from cotjax.report.words import what_happened

LONG = False  # True: as many steps as the default run, some ten minutes on two CPU cores
STEPS = {"reconstruct": 150, "grpo": 60, "rewrite": 4} if LONG else {
    "reconstruct": 8, "grpo": 8, "rewrite": 2
}  # fmt: skip
# %% [markdown]
# ## What the student is asked
#
# One rationale of the built-in data in the three forms in which the student meets it. In stage 1 the
# steps are shuffled and one is hidden, and it writes all of them in order: what follows from what.
# In stage 2 about half of them are hidden, in place. In stage 3 it sees a whole solution of a
# question that it failed, and earns more the shorter it says the same.
# %%
base = Config.for_stage("grpo", data={"concise_share": 0.3})
records, held_out = load_records(base)
record = next(one for one in records if one.difficulty == 4 and "Check" in one.steps[0])
rng, whole = random.Random(5), Rationale(steps=record.steps)
ordered = shuffle_steps(whole, rng=rng)[0]
shuffled, hidden_1 = mask_steps(ordered, rng=rng, count=1)
count = completion_mask_count(len(record.steps))
masked, hidden_2 = mask_steps(whole, rng=rng, count=count)
brief = [step.partition(". ")[2].partition(". Check")[0] for step in record.steps]
print(record.question, "->", record.answer)

columns = [
    ("the teacher's steps", record.steps, ()),
    ("1  reconstruct: in order, please", shuffled.steps, hidden_1),
    ("2  grpo: what is hidden?", masked.steps, hidden_2),
    ("3  rewrite: shorter, please", brief, ()),
]
figure, axes = plt.subplots(1, 4, figsize=(13, 3.0), sharey=True)
for axis, (title, steps, hidden), colour in zip(
    axes, columns, (GREY, BLUE, ORANGE, GREEN), strict=True
):
    for row, step in enumerate(steps):
        face = colour if row in hidden else "white"
        box = plt.Rectangle(
            (0, row + 0.06), 1, 0.88, facecolor=face, edgecolor=colour, linewidth=1.5
        )
        axis.add_patch(box)
        text = "?" if row in hidden else "\n".join(textwrap.wrap(step, 34))
        at = {"ha": "center", "va": "center", "fontsize": 14 if row in hidden else 8}
        axis.text(0.5, row + 0.5, text, color="white" if row in hidden else "black", **at)
    axis.set(title=title, xlim=(-0.02, 1.02), ylim=(len(steps), 0))
    axis.axis("off")
plt.show()
# %% [markdown]
# ## How much is hidden, and what brevity is worth
#
# The released stage 2 hides $m = \min(\max(3, \lfloor n/2 \rfloor), n - 1)$ of $n$ steps at once.
# This run hides a share that grows bucket by bucket, from three quarters to all of them (then the
# question stands alone). In stage 3 a right rewrite earns by $\rho$, its length over the teacher's.
# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2))
size = np.arange(1, 13)
left.step(size, size, where="mid", color=GREY, linewidth=0.8, label="all steps")
for share, colour in zip((0.5, 0.75, 1.0), ("#f6ad55", ORANGE, "#9c4221"), strict=True):
    label = f"share {share:g}"
    left.step(size, np.maximum(np.round(share * size), 1), where="mid", color=colour, label=label)
released = [completion_mask_count(int(n)) for n in size]
left.step(size, released, where="mid", color=BLUE, linewidth=2, label="as released")
left.set(title="stage 2: hidden steps", xlabel="steps of the rationale", ylabel="hidden")
left.legend()
rho = np.linspace(0, 2, 201)
right.plot(rho, [1 + rewrite_brevity(float(r)) for r in rho], color=GREEN)
right.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
right.set(title="stage 3: reward of a right rewrite", xlabel=r"$\rho$, length / teacher's length")
plt.show()
# %% [markdown]
# ## The run
#
# A list of stages, each from the weights of the one before. On the command line it is
# `python -m cotjax.train --stage=bridge`, or a file with `[[stages]]`.
# %%
sizes = {"prompts": 8, "group_size": 6, "max_new_tokens": 160, "max_prompt_tokens": 256}
stages = [
    {
        "stage": "reconstruct",
        "steps": STEPS["reconstruct"],
        "reconstruct": {"solve_share": 0.5},
        "batch": {"size": 6, "sequence_length": 416},
        "optimizer": {"learning_rate": 3e-4, "schedule": "linear", "warmup_steps": 2},
    },
    {
        "stage": "grpo",
        "steps": STEPS["grpo"],
        "rollout": sizes,
        "mask": {"rule": "share", "share_start": 0.75},
        "policy": {"micro_batch": 0},
        "curriculum": {"buckets": 2, "advance_after": STEPS["grpo"] // 2},
        "optimizer": {"learning_rate": 2e-4},
    },
    {
        "stage": "rewrite",
        "steps": STEPS["rewrite"],
        "rollout": sizes,
        "policy": {"micro_batch": 0},
        "rewrite": {"internalize": False},
        "mining": {"questions": 64, "attempts": 1, "max_new_tokens": 160, "batch_size": 64},
        "optimizer": {"learning_rate": 3e-5},
    },
]
config = Config.for_stages(
    stages,
    name="bridge",
    output=tempfile.mkdtemp(),
    data={"concise_share": 0.3, "max_steps": 4},
    checkpoint={"every": 0},
    eval={"problems": 64, "samples": 0, "max_prompt_tokens": 80, "max_new_tokens": 160},
)
with quiet():
    run = train(config)
for sentence in what_happened(run.files):
    print(sentence)
# %% [markdown]
# ## What each stage did
#
# Accuracy against length on held-out questions, from the base through the stages. The bars are 95 %
# intervals: with 64 questions a stage has to move the accuracy by some twelve points before it is more
# than chance. The length moves by far more.
# %%
rows = run.result["stages"]
x = [row["tokens"] for row in rows]
y = [row["accuracy"] for row in rows]
spread = [[row["accuracy"] - row["accuracy_low"] for row in rows],
          [row["accuracy_high"] - row["accuracy"] for row in rows]]  # fmt: skip
figure, axis = plt.subplots(figsize=(7.5, 4))
axis.plot(x, y, color=GREY, linewidth=1, zorder=1)
for place, (row, colour) in enumerate(zip(rows, (GREY, BLUE, ORANGE, GREEN), strict=False)):
    error = [[one[place]] for one in spread]
    axis.errorbar(x[place], y[place], error, fmt="o", color=colour, markersize=8, capsize=3)
    label = row["name"].partition("-")[2] or "base"
    above = (8, 8) if place % 2 == 0 else (8, -16)
    axis.annotate(label, (x[place], y[place]), above, textcoords="offset points", color=colour)
axis.set(title="held-out questions", xlabel="tokens of an answer, mean", ylabel="right")
axis.yaxis.set_major_formatter("{x:.0%}")
plt.show()
for row in rows:
    interval = f"{row['accuracy_low']:.0%} to {row['accuracy_high']:.0%}"
    print(f"{row['name']:14} {row['accuracy']:6.1%} ({interval})  {row['tokens']:6.1f} tokens")
# %% [markdown]
# ## Inside the stages
#
# Left: stage 1 is supervised, its loss falls. Middle: stage 2 earns a reward while more and more is
# hidden (the shaded part); a prompt with gaps is a form that the student has hardly met, so the
# bare question at the end is the easier one. Right: how long its completions are, and how many of
# them are right.
# %%
first, second, *_ = run.stages
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.2))
left.plot(first.metrics.steps, first.metrics["loss"], "o-", color=BLUE, markersize=3)
left.set(title="reconstruct: loss", xlabel="step", ylabel="nats a token", ylim=(0, None))
steps = second.metrics.steps
middle.plot(steps, second.metrics["reward"], "o-", color=ORANGE, markersize=3)
middle.set(title="grpo: reward", xlabel="step")
share = middle.twinx()
share.fill_between(steps, second.metrics["masked_share"], step="mid", color=GREY, alpha=0.2)
share.set(ylim=(0, 1.02), ylabel="share of hidden steps")
share.grid(False)
right.plot(steps, second.metrics["completion_tokens"], "o-", color=PURPLE, markersize=3)
right.set(title="grpo: tokens, and right (dashed)", xlabel="step", ylabel="tokens", ylim=(0, None))
accuracy = right.twinx()
accuracy.plot(steps, second.metrics["accuracy"], "--", color=GREEN)
accuracy.set(ylim=(0, 1.02))
accuracy.yaxis.set_major_formatter("{x:.0%}")
accuracy.grid(False)
plt.show()
# %% [markdown]
# ## One question, before and after
# %%
first, *_, last = run.stages
answers = {
    when: {row["id"]: row for row in stage.completions if row["kind"] == when}
    for when, stage in (("before", first), ("after", last))
}
right = [one for one, row in answers["after"].items() if row["parts"]["correct"]]
shorter = {one: answers["before"][one]["tokens"] - answers["after"][one]["tokens"] for one in right}
chosen = max(shorter, key=shorter.get)
print(answers["before"][chosen]["question"], "->", answers["before"][chosen]["gold"])
for when in ("before", "after"):
    row = answers[when][chosen]
    print(f"\n{when}: {row['tokens']} tokens, {'right' if row['parts']['correct'] else 'wrong'}")
    print(row["completion"].strip())
# %% [markdown]
# ## What this does not show
#
# - Whether the **stages** were needed. A fair answer needs the other arms (fine-tuning alone, GRPO
#   alone) at the same budget, several seeds and a few hundred questions.
#   [RESULTS.md](../RESULTS.md) has them: where the teacher thinks aloud, BRIDGE's stages reach 83 %
#   and GRPO alone 87 % where fine-tuning falls to 19 %; on these plain problems nothing is gained
#   over GRPO alone.
# - Anything about a real student. `configs/bridge_qwen2.5-3b_gsm8k.toml` is the paper's setting.
#
# With `LONG = True` above, the same notebook takes as many steps as the default run.
