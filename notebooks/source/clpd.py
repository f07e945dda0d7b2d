# %% [markdown]
# # CLPD: which data, which teacher, when
#
# CLPD ([arXiv:2605.11260](https://arxiv.org/abs/2605.11260)) orders the questions from easy to hard
# and the teachers from weak to strong. The paper gives the idea; how weights move, how two teachers
# become one and how data is dealt out are choices, drawn here by the code that a run uses. At the end
# two teachers are made and a student learns from both.
# %%
import dataclasses
import tempfile

import jax.numpy as jnp
import numpy as np

from cotjax import Config, core, load_records, train
from cotjax.core.curriculum import HandOver, handover_weights, observe
from cotjax.cot import Rationale, cot_difficulty
from cotjax.curriculum.curriculum import Curriculum

TEACHER_STEPS, STEPS = 10, 24  # more of them: better teachers, a student nearer to them
SHADES = ("#bee3f8", "#63b3ed", "#2b6cb0", "#1a365d")  # easy to hard, weak to strong
# %% [markdown]
# ## Schedules: the weights of the teachers
#
# Three teachers, from weak (light) to strong (dark), over a run. `step` has one teacher at a time.
# `linear` and `cosine` hand over smoothly and never mix more than two. `fixed` is the control: the
# same mixture all the time.
# %%
progress = np.linspace(0, 1, 241)
schedules = {
    kind: np.stack(
        [core.teacher_weights(float(x), num_teachers=3, kind=kind) for x in progress], axis=1
    )
    for kind in ("step", "linear", "cosine")
}
schedules["fixed"] = np.full((3, len(progress)), 1 / 3)
figure, axes = plt.subplots(1, 4, figsize=(12, 2.4), sharey=True)
for axis, (kind, weights) in zip(axes, schedules.items(), strict=True):
    axis.stackplot(progress, weights, colors=SHADES[:3], step="mid" if kind == "step" else None)
    axis.set(title=kind, xlabel="progress", xlim=(0, 1), ylim=(0, 1))
    axis.grid(False)
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
axes[0].set_ylabel("weight")
plt.show()
# %% [markdown]
# `adaptive` hands over when the student has stopped learning from the current teacher: the held-out
# divergence no longer falls. The curve below is made up (each teacher's divergence falls towards a
# floor of its own); when to hand over is decided by the function that a run calls.
# %%
settings = {"num_teachers": 3, "length": 10, "patience": 2, "min_progress": 0.02, "threshold": 1.0}
state, weights, divergence, handed = HandOver(), [], [], []
since = 0
for step in range(140):
    since += 1
    divergence.append((0.25, 0.15, 0.1)[state.teacher] + 0.5 * np.exp(-since / 8))
    if step and step % 5 == 0:
        state, cause = observe(state, divergence[-1], 0.0, step=step, **settings)
        if cause:
            handed.append((step, cause))
            since = 0
    weights.append(handover_weights(state, step, num_teachers=3, length=settings["length"]))
figure, (above, below) = plt.subplots(2, 1, figsize=(8, 3.6), sharex=True)
above.plot(divergence, color=ORANGE)
above.set(title="adaptive: divergence from the current teacher", ylabel="nats", ylim=(0, None))
for step, cause in handed:
    above.axvline(step, color=GREY, linestyle=":")
    above.annotate(cause, (step, 0.7), (4, 0), textcoords="offset points", color=GREY)
below.stackplot(range(140), np.transpose(weights), colors=SHADES[:3], step="mid")
below.set(xlabel="step", ylabel="weight", xlim=(0, 139), ylim=(0, 1))
below.grid(False)
plt.show()
# %% [markdown]
# ## Mixing: two teachers as one
#
# Two teachers that would write something different. Averaged as **probabilities** they vote: the
# mixture keeps both of their favourites. Averaged as **logits** they agree: what either holds for
# unlikely is gone, and what both can live with rises, even where it was no one's first choice.
# %%
ids = np.arange(13)
weak = -((ids - 3.5) ** 2) / 3.5
strong = -((ids - 8.5) ** 2) / 3.5
teachers = jnp.asarray(np.stack([weak, strong]))
figure, axes = plt.subplots(1, 3, figsize=(12, 2.9))
for teacher, colour, name in zip(teachers, SHADES[1:3], ("weak", "strong"), strict=True):
    axes[0].bar(ids, np.exp(teacher - jnp.log(jnp.exp(teacher).sum())), color=colour, label=name,
                alpha=0.8)  # fmt: skip
axes[0].set(title="two teachers", ylabel="probability", ylim=(0, 0.36))
axes[0].legend(loc="upper center", ncols=2)
for space, colour, offset in (("probability", ORANGE, -0.2), ("logit", PURPLE, 0.2)):
    mixed = jnp.exp(core.mix_teachers(teachers, jnp.array([0.5, 0.5]), space=space))
    axes[1].bar(ids + offset, mixed, width=0.4, color=colour, label=space)
    shares = np.linspace(0, 1, 101)
    weight = jnp.asarray(np.stack([1 - shares, shares]), jnp.float32)
    rows = jnp.broadcast_to(teachers[:, None], (2, 101, 13))
    moved = jnp.exp(core.mix_teachers(rows, weight, space=space))
    entropy = -(moved * jnp.log(jnp.maximum(moved, 1e-30))).sum(-1)
    axes[2].plot(shares, entropy, color=colour, label=space)
axes[1].set(title="half and half", ylim=(0, 0.36))
axes[1].legend(loc="upper center", ncols=2)
axes[2].set(title="entropy on the way from weak to strong", xlabel="weight of the strong one")
axes[2].set_ylabel("nats")
axes[2].legend()
plt.show()
# %% [markdown]
# ## Buckets: easy questions first
#
# How hard a question is can be read off its rationale (`cot_steps`, `cot_tokens`,
# `cot_operations`), or measured with the student. Sorted by it, the questions fall into buckets of
# equal size; of equally hard ones a seed decides which bucket they are in.
# %%
made = Config.for_stage(
    "distill",
    steps=60,
    teachers={"paths": ["weak", "medium", "strong"]},
    curriculum={"buckets": 4, "schedule": "linear"},
)
source, _ = load_records(made)
records = [source[place] for place in range(600)]


def measure(_, records, signal="cot_steps"):
    return np.array([cot_difficulty(Rationale(steps=one.steps), signal=signal) for one in records])


bucket = core.assign_buckets(measure(None, records), num_buckets=4, seed=0)
figure, axes = plt.subplots(1, 2, figsize=(10, 2.8))
for axis, signal in zip(axes, ("cot_steps", "cot_tokens"), strict=True):
    hard = measure(None, records, signal)
    bins = np.arange(1.5, 7) if signal == "cot_steps" else 24
    parts = [hard[bucket == one] for one in range(4)]
    axis.hist(parts, bins, stacked=True, color=SHADES, label=[f"bucket {n}" for n in range(1, 5)])
    axis.set(title=signal, ylabel="questions")
axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1), title="by cot_steps")
plt.show()
# %% [markdown]
# `pacing` says what a bucket's turn draws from: itself alone, or all buckets so far. `replay` mixes
# earlier ones in. The curriculum below is a run's own; nothing is trained.
# %%
choices = {
    "contiguous": {"pacing": "contiguous"},
    "contiguous, replay 0.2": {"pacing": "contiguous", "replay": 0.2},
    "cumulative": {"pacing": "cumulative"},
}
figure, axes = plt.subplots(1, 3, figsize=(12, 2.4), sharey=True)
for axis, (title, choice) in zip(axes, choices.items(), strict=True):
    config = dataclasses.replace(made, curriculum=dataclasses.replace(made.curriculum, **choice))
    curriculum = Curriculum(config, records, encode=None, measure=measure)
    curriculum.prepare(None, 0)
    shares = np.zeros((4, config.steps))
    for step in range(config.steps):
        drawn = curriculum.bucket[curriculum.take(step, 100)]
        shares[:, step] = np.bincount(drawn, minlength=4) / 100
    axis.stackplot(range(config.steps), shares, colors=SHADES, step="mid")
    axis.set(title=title, xlabel="step", xlim=(0, config.steps - 1), ylim=(0, 1))
    axis.grid(False)
axes[0].set_ylabel("drawn from each bucket")
plt.show()
# %% [markdown]
# ## A run
#
# Two teachers are made first: the built-in student, which is wordy, trained for a moment on concise
# rationales, the weak one on short questions only. Then the same student learns from both, by the
# linear schedule, with data from easy to hard.
# %%
RUNS = tempfile.mkdtemp()
small = {
    "output": RUNS,
    "batch": {"size": 8, "sequence_length": 256},
    "eval": {"problems": 64, "samples": 0, "max_new_tokens": 192},
    "checkpoint": {"every": 0},
    "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 2},
}


def teacher(name, steps, hardest):
    config = Config.for_stage(
        "sft",
        name=name,
        steps=steps,
        model={"init": "pretrained"},  # from the built-in student; otherwise from random weights
        data={"concise_share": 1.0, "max_steps": hardest},
        **small,
    )
    with quiet():
        return train(config)


made = {
    "weak": teacher("weak", TEACHER_STEPS // 2, 3),
    "strong": teacher("strong", TEACHER_STEPS, 6),
}
config = Config.for_stage(
    "distill",
    name="student",
    steps=STEPS,
    teachers={"paths": [str(run.folder) for run in made.values()]},
    data={"concise_share": 1.0},
    curriculum={"buckets": 4, "schedule": "linear", "replay": 0.2, "examples": 512},
    **small,
)
with quiet():
    run = train(config)
# %% [markdown]
# Above: which bucket and which teacher each step had. Below: how far the student is from its
# teachers. It steps up where questions get harder or a stronger teacher takes over, which is no
# failure: a falling curve only says that the student keeps up.
# %%
steps = run.metrics.steps
weights = np.stack([run.metrics["teacher_1"], run.metrics["teacher_2"]])
figure, (above, below) = plt.subplots(2, 1, figsize=(8, 4.2), sharex=True)
above.stackplot(steps, weights, colors=(SHADES[0], SHADES[2]), step="mid", labels=list(made))
above.set(ylabel="weight of the teachers", ylim=(0, 1))
above.grid(False)
above.legend(loc="upper left", frameon=True)
turn = above.twinx()
turn.step(steps, run.metrics["bucket"], where="mid", color=ORANGE)
turn.set(ylabel="bucket", yticks=range(1, 5))
turn.grid(False)
below.plot(steps, run.metrics["divergence"], "o-", color=PURPLE, markersize=3)
below.set(xlabel="step", ylabel="divergence, nats a token", ylim=(0, None))
plt.show()

figure, axis = plt.subplots(figsize=(7, 3.8))
shown = {
    "student before": (run.result["before"], GREY),
    "weak teacher, on short questions": (made["weak"].result["after"], SHADES[1]),
    "strong teacher": (made["strong"].result["after"], SHADES[2]),
    "student after": (run.result["after"], ORANGE),
}
for name, (row, colour) in shown.items():
    ends = [[row["accuracy"] - row["accuracy_low"]], [row["accuracy_high"] - row["accuracy"]]]
    at = row["tokens"], row["accuracy"]
    axis.errorbar(*at, ends, fmt="o", color=colour, capsize=3, label=name)
axis.set(title="held-out questions, 95 % intervals", xlabel="tokens of an answer", ylabel="right")
axis.legend(loc="upper right")
axis.yaxis.set_major_formatter("{x:.0%}")
plt.show()
# %% [markdown]
# A student of a concise teacher becomes concise: that much is visible in a minute. Whether the
# **order** helped is another question, which takes the controls (strongest teacher alone, order
# alone, reversed) at equal steps and several seeds. `configs/experiments/clpd.toml` runs them, and
# [RESULTS.md](../RESULTS.md) says what came out: on these problems the strongest teacher alone was
# no worse.
