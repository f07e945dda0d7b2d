# %% [markdown]
# # One GRPO step, opened up
#
# A run of `cotjax.train` is this step, some sixty times: sample a group of completions for every
# prompt, reward each, compare it with its siblings, push the better ones up and the others down.
# Here it is done once and looked at from all sides, with the built-in student (half a million
# parameters, two minutes on a CPU).
# %%
import tempfile

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from cotjax import Config, core
from cotjax.config import stage_class
from cotjax.parallel.mesh import run_mesh

PROMPTS, GROUP = 8, 8  # more of them: smoother pictures, more seconds
config = Config.for_stage(
    "grpo",
    seed=0,
    rollout={"prompts": PROMPTS, "group_size": GROUP, "max_new_tokens": 192},
    policy={"micro_batch": 0},  # all prompts in one pass
)
stage = stage_class("grpo").from_config(config, run_mesh(config.mesh))
stage.prepare(pathlib.Path(tempfile.mkdtemp()))
print(stage.objective)
# %% [markdown]
# A stage is a stream of batches, a loss and an update. `next_step` draws prompts, samples, rewards,
# and gives the batch that the update takes.
# %%
step = stage.next_step(stage.state.params, 0)
groups = step.groups
reward, length = groups.reward, groups.rollout.mask.sum(-1)
right = np.array([[one.parts["correct"] for one in group] for group in groups.judged]) > 0
signal = np.asarray(core.informative_groups(jnp.asarray(reward)))

shown = int(np.argmax(np.where(signal, -abs(right.mean(1) - 0.6), -9)))  # a mixed group
record = groups.records[shown]
print(record.question, "->", record.answer)
best, worst = int(reward[shown].argmax()), int(reward[shown].argmin())
for title, place in (("best", best), ("worst", worst)):
    one = groups.judged[shown][place]
    print(f"\n{title}: reward {one.reward:+.2f}, {one.tokens} tokens\n{one.text.strip()}")
# %% [markdown]
# ## Groups
#
# Every row is a prompt, every cell one of its completions with its length in tokens. A wrong answer
# costs 2, whatever its length (red); a right one earns 1, and a little more or less for its length
# (blue). 192 is the limit, behind which a completion is cut off. A row whose rewards are all equal
# has **no signal**: nothing in it is better than the rest.
# %%
order = np.argsort(reward.mean(1))[::-1]


def grid(axis, values, texts, title, rows=order):
    axis.imshow(values[rows], cmap="RdBu", vmin=-2.8, vmax=2.8, aspect="auto")
    for row, place in enumerate(rows):
        for column, value in enumerate(values[place]):
            ink = "white" if abs(value) > 1.6 else "black"
            at = {"ha": "center", "va": "center", "fontsize": 8, "color": ink}
            axis.text(column, row, texts[place][column], **at)
    axis.set(title=title, xticks=range(GROUP), xlabel="completion")
    axis.set_xticks(np.arange(GROUP + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axis.grid(False)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)


figure, axis = plt.subplots(figsize=(9, 0.42 * PROMPTS + 1.2))
grid(axis, reward, length, "reward (colour) and tokens (number)")
steps = [f"{groups.records[place].difficulty} steps" for place in order]
axis.set_yticks(range(PROMPTS), steps)
for row, place in enumerate(order):
    told = f"{right[place].mean():.0%} right" if signal[place] else "no signal"
    axis.text(GROUP - 0.35, row, told, va="center", color="black" if signal[place] else GREY)
plt.show()
# %% [markdown]
# ## Rewards
#
# Left: what a completion earned against the tokens that it took, as a share of the 35 tokens per
# step that the reward allows. Brevity counts only where the answer is right, so a short wrong
# answer gains nothing. Right: the parts of the rewards in the group from above.
# %%
budget = config.reward.length_per_step * np.array([[one.difficulty] for one in groups.records])
figure, (left, middle) = plt.subplots(1, 2, figsize=(10, 3.6))
for mask, colour, label in ((right, GREEN, "right"), (~right, ORANGE, "wrong")):
    left.scatter((length / budget)[mask], reward[mask], color=colour, alpha=0.7, label=label)
left.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
left.annotate("allowed", (1, -1), (5, 0), textcoords="offset points", color=GREY)
left.set(title="all completions of the step", xlabel="tokens / allowed tokens", ylabel="reward")
left.legend(loc="center left")

bottom = {1: np.zeros(GROUP), -1: np.zeros(GROUP)}
for part, colour in (("outcome", GREY), ("steps", BLUE), ("brevity", PURPLE)):
    value = np.array([one.parts.get(part, 0.0) for one in groups.judged[shown]])
    for sign in (1, -1):
        height = np.where(np.sign(value) == sign, value, 0)
        label = part if height.any() and part not in middle.get_legend_handles_labels()[1] else None
        middle.bar(range(GROUP), height, bottom=bottom[sign], color=colour, label=label)
        bottom[sign] += height
middle.plot(range(GROUP), reward[shown], "k_", markersize=16, label="reward")
middle.axhline(0, color="black", linewidth=0.8)
middle.set(title="parts of the rewards of one group", xlabel="completion", xticks=range(GROUP))
middle.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
# %% [markdown]
# ## Advantages
#
# A completion is compared with its siblings: $A_g = (r_g - \bar r) / (s + \epsilon)$. The division
# by the standard deviation makes every row equally loud, and that cuts both ways. The one right
# answer of a hard prompt counts as much as the one wrong answer of an easy one; and where all are
# right (the first row), a difference in length is blown up to the size of right against wrong,
# which is how a run learns brevity. A row without a signal becomes exactly 0.
# %%
centred = reward - reward.mean(1, keepdims=True)
by_hand = centred / (reward.std(1, ddof=1, keepdims=True) + stage.objective.eps)
advantage = np.asarray(core.group_advantage(jnp.asarray(reward)))
np.testing.assert_allclose(np.where(signal[:, None], by_hand, 0), advantage, atol=1e-4)

figure, axes = plt.subplots(1, 2, figsize=(11, 0.36 * PROMPTS + 1.2), sharey=True)
for axis, title, values in (
    (axes[0], r"reward less its mean (Dr. GRPO)", centred),
    (axes[1], "divided by the deviation (GRPO): the advantage", advantage),
):
    texts = [[f"{value:+.1f}" if value else "0" for value in row] for row in values]
    grid(axis, values, texts, title)
axes[0].set_yticks(range(PROMPTS), steps)
plt.show()
# %% [markdown]
# ## The gradient of every token
#
# The loss tells each sampled token by how much to become likelier (blue) or rarer (red). At the
# first update the ratio to the sampling policy is 1, so by hand the push on $\log \pi$ is
# $A / (n\,|y|)$: all tokens of a completion get the same one, and in GRPO's mean over sequences a
# **short** completion gets a stronger one per token. Dr. GRPO divides by a constant instead. Behind
# the end (white) nothing counts.
# %%
mask = jnp.asarray(groups.rollout.mask)
logp = jnp.asarray(groups.rollout.logp)


def push(objective, advantage):
    def loss(logp):
        total, count, _ = core.policy_loss(
            objective, logp, None, None, advantage[..., None], mask, max_length=mask.shape[-1]
        )
        return core.mean_from(total, count)

    return -np.asarray(jax.grad(loss)(logp))


found = {
    "GRPO: mean over sequences": push(core.OBJECTIVES["grpo"], jnp.asarray(advantage)),
    "Dr. GRPO: sum over a constant": push(core.OBJECTIVES["dr_grpo"], jnp.asarray(centred)),
}
expected = advantage[..., None] / (reward.size * length[..., None]) * np.asarray(mask)
np.testing.assert_allclose(found["GRPO: mean over sequences"], expected, atol=1e-7)

ranked = np.argsort(length[shown])
figure, axes = plt.subplots(1, 2, figsize=(11, 3.2), sharey=True)
for axis, (title, values) in zip(axes, found.items(), strict=True):
    seen = np.where(np.asarray(mask)[shown], values[shown], np.nan)[ranked]
    most = np.nanmax(abs(seen))
    picture = axis.imshow(seen / most, cmap="RdBu", vmin=-1, vmax=1, aspect="auto",
                          interpolation="none")  # fmt: skip
    axis.set(title=title, xlabel="token", xlim=(-0.5, length[shown].max() + 1))
    axis.grid(False)
labels = [f"{reward[shown][one]:+.2f}" for one in ranked]
axes[0].set_yticks(range(GROUP), labels)
axes[0].set_ylabel("reward of the completion")
figure.colorbar(picture, ax=axes, label="push on log π, of the strongest")
plt.show()
# %% [markdown]
# ## Where a push can change anything
#
# The same push hardly moves a token that was certain, and moves an open one a lot. These are the
# best and the worst completion of the group, token by token; the darker a token, the less the
# student expected it when it wrote it. Most of a text is certain. What is learned, is learned at the
# dark places.
# %%
tokenizer = stage.student.tokenizer


def draw_tokens(axis, place, width=52):
    ids = groups.rollout.tokens[shown, place][np.asarray(mask)[shown, place]]
    chance = np.exp(groups.rollout.logp[shown, place][np.asarray(mask)[shown, place]])
    x = y = 0
    for token, probability in zip(ids, chance, strict=True):
        text = tokenizer.decode([int(token)])
        for number, line in enumerate(text.split("\n")):
            if number or x + len(line) > width:
                x, y = 0, y + 1
            if line:
                colour = plt.cm.Oranges(1 - probability)
                axis.add_patch(plt.Rectangle((x, y), len(line), 0.9, color=colour, linewidth=0))
                at = (x + len(line) / 2, y + 0.5)
                axis.text(*at, line.strip(), family="monospace", fontsize=8, ha="center",
                          va="center", color="white" if probability < 0.4 else "black")  # fmt: skip
            x += len(line)
    axis.set_xlim(0, width)
    axis.axis("off")
    return y + 1


figure, axes = plt.subplots(1, 2, figsize=(11, 2.8), sharey=True)
lines = [draw_tokens(axis, place) for axis, place in zip(axes, (best, worst), strict=True)]
axes[0].set_ylim(max(lines), 0)
axes[0].set_title(f"best: reward {reward[shown, best]:+.2f}", loc="left")
axes[1].set_title(f"worst: reward {reward[shown, worst]:+.2f}", loc="left")
plt.show()
# %% [markdown]
# ## The gradient of the parameters
#
# Each group pulls half a million parameters somewhere. How strongly, and do the groups agree? A
# group without a signal pulls nowhere. Of the others some pull the same way and some against each
# other, and the rest of them cancels: that is the noise over which a step averages.
# %%
policy, (micro,) = stage.student.policy, step.batch


@jax.jit
def pull(params, groups):
    def loss(params):
        logp = stage.score(policy, params, groups)
        advantage, mask = groups.advantage[..., None], groups.completion_mask
        return core.policy_loss(
            core.OBJECTIVES["grpo"], logp, None, None, advantage, mask, max_length=mask.shape[-1]
        )[0]

    return ravel_pytree(jax.grad(loss)(params))[0]


start = stage.student.params
pulls = np.stack(
    [pull(start, jax.tree.map(lambda x, b=b: x[b : b + 1], micro)) for b in range(PROMPTS)]
)
strength = np.linalg.norm(pulls, axis=1)
unit = pulls / np.maximum(strength, 1e-12)[:, None]
figure, (left, middle) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1, 1.1))
left.barh(range(PROMPTS), strength, color=[BLUE if one else GREY for one in strength])
left.set(title="norm of a group's gradient", ylabel="group, short to long", yticks=range(PROMPTS))
left.invert_yaxis()
picture = middle.imshow(unit @ unit.T, cmap="PuOr", vmin=-1, vmax=1)
middle.set(title="cosine between groups", xticks=range(PROMPTS), yticks=range(PROMPTS))
middle.grid(False)
figure.colorbar(picture, ax=middle)
plt.show()
together = np.linalg.norm(pulls.sum(0)) / strength.sum()
print(f"The sum is {together:.0%} as long as the lengths added up: the rest cancels.")
# %% [markdown]
# ## What the step changed
#
# The update, and then the same completions scored again. Those with a positive advantage became
# likelier, the others rarer, though no one wrote down which words to use.
# %%
before = np.asarray(stage.score(policy, start, micro))
state, numbers = stage.update(stage.state, step.batch)
after = np.asarray(stage.score(policy, state.params, micro))
where = np.asarray(micro.completion_mask)
change = np.where(where, after - before, 0).sum(-1)
own = np.asarray(micro.advantage)

figure, axis = plt.subplots(figsize=(7, 3.8))
axis.axhline(0, color=GREY, linewidth=0.8)
axis.axvline(0, color=GREY, linewidth=0.8)
colours = np.where(own > 0, BLUE, np.where(own < 0, ORANGE, GREY)).ravel()
axis.scatter(own.ravel(), change.ravel(), c=colours, alpha=0.75)
axis.set(title="one update", xlabel="advantage", ylabel="change of log π(completion), nats")
plt.show()
agree = (np.sign(change) == np.sign(own))[own != 0].mean()
total, count = numbers["grad_norm"]
print(f"gradient norm {float(total / count):.2f}; {agree:.0%} of the completions moved as told")
# %% [markdown]
# That is one step. `cotjax.train(Config.for_stage("grpo"))` takes sixty of them in some minutes,
# and evaluates, saves and reports around them. [Losses by hand](losses_by_hand.ipynb) has the
# equations, [Your own parts](your_own.ipynb) another reward.
