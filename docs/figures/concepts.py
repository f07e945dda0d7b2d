"""Draws the figures of the concepts and methods pages, from the functions that a run uses.

    python docs/figures/concepts.py

Each is an SVG of some kilobytes without a background, in colours that read on light and dark pages.
"""

import pathlib
import random

import jax.numpy as jnp
import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

from cotjax.core import group_advantage, teacher_weights  # noqa: E402
from cotjax.cot import (  # noqa: E402
    Rationale,
    completion_brevity,
    mask_steps,
    rewrite_brevity,
    shuffle_steps,  # noqa: E402
)

OUT = pathlib.Path(__file__).parent
INK, SOFT = "#7a828a", "#9aa2ab"  # legible on white and on near-black
GREEN, BLUE, ORANGE, RED = "#1b9e77", "#4c8fd6", "#e0812c", "#d9534f"
plt.rcParams.update(
    {
        "font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "cotjax",
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT,
        "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "axes.titlesize": 10,
        "axes.titlecolor": INK, "axes.titleweight": "bold",
    }
)  # fmt: skip


def save(figure, name: str) -> None:
    """Writes an SVG without a date, so that drawing it again changes nothing."""
    where = OUT / f"{name}.svg"
    figure.savefig(where, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def box(axes, x, y, width, height, title, below="", colour=GREEN) -> None:
    """A box with a title and a line below it."""
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, style, fc="none", ec=colour, lw=1.6))
    middle = y + height / 2 + (0.14 if below else 0)
    axes.text(x + width / 2, middle, title, ha="center", va="center", weight="bold")
    if below:
        axes.text(x + width / 2, middle - 0.34, below, ha="center", va="center", fontsize=8)


def arrow(axes, start, end, text="", colour=SOFT, bend=0.0) -> None:
    """An arrow between two points, with a word beside it."""
    how = {"arrowstyle": "-|>", "color": colour, "lw": 1.3}
    how["connectionstyle"] = f"arc3,rad={bend}"
    axes.annotate("", end, start, arrowprops=how)
    if text:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.14
        axes.text(*middle, text, ha="center", fontsize=8)


def canvas(width, height, x, y):
    """An empty figure in units of its boxes."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set(xlim=(0, x), ylim=(0, y))
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def step() -> None:
    """One GRPO step, as the data sees it."""
    figure, axes = canvas(7.0, 3.1, 11.2, 4.2)
    first = (("prompts", "[B, P]"), ("rollout", "[B, G, T]"), ("rewards", "[B, G]"))
    for place, (title, shape) in enumerate(first):
        box(axes, 0.1 + 3.9 * place, 2.9, 2.4, 1.1, title, shape)
    second = (("update", "new weights"), ("loss", "sum, count"), ("advantage", "[B, G]"))
    for place, (title, shape) in enumerate(second):
        box(axes, 0.1 + 3.9 * place, 0.2, 2.4, 1.1, title, shape, BLUE)
    arrow(axes, (2.55, 3.45), (3.95, 3.45), "sample")
    arrow(axes, (6.45, 3.45), (7.85, 3.45), "judge")
    arrow(axes, (9.1, 2.85), (9.1, 1.35))
    axes.text(9.25, 2.05, "against the group", fontsize=8, va="center", ha="left")
    arrow(axes, (7.85, 0.75), (6.45, 0.75), "weigh")
    arrow(axes, (3.95, 0.75), (2.55, 0.75), "gradient")
    arrow(axes, (1.3, 1.35), (1.3, 2.85), colour=GREEN)
    axes.text(1.45, 2.05, "next step", fontsize=8, va="center", ha="left")
    axes.set_xlim(0, 11.6)
    save(figure, "step")


def masking() -> None:
    """A rationale, shuffled with one mask (stage 1), and masked for completion (stage 2)."""
    whole = Rationale(
        steps=("3 + 4 = 7 pens", "7 * 2 = 14 pens", "14 - 5 = 9 pens", "9 + 1 = 10 pens"),
        answer="10",
    )
    one, _ = mask_steps(whole, rng=random.Random(3), count=1)
    mixed, _ = shuffle_steps(one, rng=random.Random(5))
    half, _ = mask_steps(whole, rng=random.Random(2), count=3)
    columns = (
        ("the teacher's steps", whole.steps, GREEN),
        ("stage 1: one, shuffled", mixed.steps, BLUE),
        ("stage 2: about half", half.steps, ORANGE),
    )
    figure, axes = canvas(7.0, 2.7, 12.2, 3.9)
    for place, (title, steps, colour) in enumerate(columns):
        left = 0.1 + 4.1 * place
        axes.text(left + 1.85, 3.6, title, ha="center", weight="bold", fontsize=9)
        for row, text in enumerate(steps):
            masked = text == "[MASK]"
            top = 2.65 - 0.85 * row
            style = "round,pad=0,rounding_size=0.08"
            face = colour if masked else "none"
            patch = FancyBboxPatch((left, top), 3.7, 0.62, style, fc=face, ec=colour, lw=1.2)
            axes.add_patch(patch)
            ink = "white" if masked else INK
            axes.text(left + 1.85, top + 0.3, text, ha="center", va="center", fontsize=9, color=ink)
    save(figure, "masking")


def rewards() -> None:
    """What a right completion earns for its length in stages 2 and 3."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.9))
    lengths, limit = np.array([0, 70, 140, 175, 175.01, 176, 268, 275, 290]), 175.0
    for monotone, colour, dash, name in ((True, GREEN, "-", "monotone (default)"),
                                         (False, ORANGE, "--", "as released")):  # fmt: skip
        earned = [completion_brevity(w, limit, monotone=monotone) for w in lengths]
        left.plot(lengths, earned, dash, color=colour, label=name, lw=1.8)
    left.axvline(limit, color=SOFT, lw=0.8, ls=":")
    left.text(limit - 4, -0.92, "L = 35 n₀", ha="right", fontsize=8)
    left.set(title="stage 2: r_len, n₀ = 5", xlabel="length w, tokens", ylabel="reward")
    left.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 0.12))
    ratios = np.array([0, 0.2, 0.5, 0.8, 1, 2, 2.2])
    right.plot(ratios, [rewrite_brevity(r) for r in ratios], color=BLUE, lw=1.8)
    right.axhline(0, color=SOFT, lw=0.8, ls=":")
    right.set(title="stage 3: b(ρ)", xlabel="ρ = length / teacher's length")
    figure.tight_layout()
    save(figure, "rewards")


def advantages() -> None:
    """Rewards of a group of eight, and their advantages."""
    reward = np.array([1.2, 1.1, 1.3, -2, -2, 0.9, -1, 1.2])
    advantage = np.asarray(group_advantage(jnp.asarray(reward[None])))[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.5))
    for axes, values, title in ((left, reward, "reward"), (right, advantage, "advantage")):
        colours = [GREEN if one > 0 else RED for one in values]
        axes.bar(np.arange(1, 9), values, color=colours, width=0.62)
        axes.axhline(0, color=SOFT, lw=0.8)
        axes.set(title=title, xlabel="completion of one prompt", xticks=range(1, 9))
    left.axhline(reward.mean(), color=INK, lw=1, ls="--")
    left.text(8.5, reward.mean() + 0.08, "mean", fontsize=8, ha="right")
    figure.tight_layout()
    save(figure, "advantages")


def curriculum() -> None:
    """Buckets of data, and the weights of three teachers by schedule."""
    figure, panels = plt.subplots(
        4, 1, figsize=(7.0, 4.6), sharex=True, height_ratios=(0.8, 1, 1, 1)
    )
    for bucket in range(5):
        shade = 0.25 + 0.15 * bucket
        panels[0].barh(0, 0.19, left=bucket / 5 + 0.005, color=GREEN, alpha=shade, height=0.7)
        panels[0].text(bucket / 5 + 0.1, 0, f"{bucket + 1}", ha="center", va="center", fontsize=9)
    panels[0].set(yticks=[], title="buckets, easy to hard", ylim=(-0.5, 0.5))
    panels[0].spines["left"].set_visible(False)
    progress = np.unique([*np.linspace(0.001, 1, 41), 1 / 3, 0.3341, 2 / 3, 0.6674])
    for axes, kind in zip(panels[1:], ("step", "linear", "cosine"), strict=True):
        found = np.array([teacher_weights(x, num_teachers=3, kind=kind) for x in progress])
        for teacher, (colour, name) in enumerate(
            ((BLUE, "weak"), (ORANGE, "medium"), (RED, "strong"))
        ):
            axes.fill_between(progress, found[:, teacher], color=colour, alpha=0.22, lw=0)
            axes.plot(progress, found[:, teacher], color=colour, lw=1.6, label=name)
        axes.set(ylabel=kind, yticks=(0, 1), ylim=(0, 1.06))
    panels[1].legend(ncol=3, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 0.98))
    panels[-1].set(xlabel="progress of the run", xlim=(0, 1))
    figure.tight_layout(h_pad=0.6)
    save(figure, "curriculum")


def tail() -> None:
    """A teacher's distribution, its top four, and the bucket of the rest."""
    full = np.array([0.42, 0.25, 0.12, 0.07, *([0.14 / 8] * 8)])
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.5), width_ratios=(1.7, 1))
    left.bar(range(12), full, color=[GREEN] * 4 + [SOFT] * 8, width=0.7)
    left.set(title="the teacher, V tokens", xticks=[], ylabel="probability", ylim=(0, 0.46))
    right.bar(range(4), full[:4], color=GREEN, width=0.7)
    right.bar(4, full[4:].sum(), color=ORANGE, width=0.7)
    right.text(4, full[4:].sum() + 0.012, "the rest", ha="center", fontsize=8)
    right.set(title="the cache: K = 4 and one bucket", xticks=[], ylim=(0, 0.46))
    figure.tight_layout()
    save(figure, "tail")


def run() -> None:
    """Parts of a run, in the order in which data walks."""
    figure, axes = canvas(7.0, 2.3, 12.4, 3.3)
    top = (("data", "records"), ("curriculum", "order"), ("stage", "batches, loss"),
           ("training", "update"), ("report", "one page"))  # fmt: skip
    for place, (title, below) in enumerate(top):
        colour = BLUE if title == "stage" else GREEN
        box(axes, 0.1 + 2.5 * place, 1.9, 2.0, 1.1, title, below, colour)
        if place:
            arrow(axes, (2.5 * place - 0.38, 2.45), (0.08 + 2.5 * place, 2.45))
    for place, (title, below) in enumerate((("teachers", "optional"), ("student", "weights"))):
        box(axes, 3.85 + 2.5 * place, 0.1, 2.0, 1.1, title, below, ORANGE)
    arrow(axes, (5.1, 1.24), (5.75, 1.86), colour=ORANGE)
    arrow(axes, (7.2, 1.24), (6.45, 1.86), colour=ORANGE)
    arrow(axes, (8.3, 1.86), (7.75, 1.24), colour=SOFT)
    save(figure, "run")


if __name__ == "__main__":
    for draw in (run, step, masking, rewards, advantages, curriculum, tail):
        draw()
