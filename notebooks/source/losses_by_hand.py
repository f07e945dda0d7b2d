# %% [markdown]
# # Losses by hand
#
# GRPO, distillation and rewards, computed twice: in NumPy, line by line from the equations, and by
# `cotjax.core`. Every pair is asserted equal, so what you read here is what trains. It runs in
# seconds on a CPU and downloads nothing.
#
# [docs/numerics.md](../docs/numerics.md) lists where other systems differ; [One GRPO
# step](grpo_step.ipynb) shows the same losses on a student that writes.
# %%
import jax.numpy as jnp
import numpy as np

from cotjax import core, cot


def agree(by_hand, by_library):
    np.testing.assert_allclose(by_hand, by_library, rtol=1e-5, atol=1e-6)


# %% [markdown]
# ## 1. GRPO
#
# ### Advantage
#
# A prompt gets $G$ completions, each with a reward $r_g$. What counts is how much better a completion
# is than its siblings:
#
# $$A_g = \frac{r_g - \bar r}{s + \epsilon}, \qquad
# \bar r = \frac1G \sum_h r_h, \qquad
# s = \sqrt{\frac{1}{G - d} \sum_h (r_h - \bar r)^2}.$$
#
# $d$ (`ddof`) and $\epsilon$ are conventions, and systems differ in them.
# %%
reward = np.array([[1.0, 0.0, 0.0, 0.0], [0.2, 1.0, 0.7, 0.2]])  # 2 prompts, 4 completions each

centred = reward - reward.mean(axis=1, keepdims=True)
spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / (4 - 1))
advantage = centred / (spread + 1e-6)

agree(advantage, core.group_advantage(jnp.asarray(reward)))
print(advantage.round(4))
# %%
for how, divisor in {
    "no scaling": 1.0,
    "ddof 1, eps 1e-4": reward[0].std(ddof=1) + 1e-4,
    "ddof 1, eps 1e-6": reward[0].std(ddof=1) + 1e-6,
    "ddof 0, eps 1e-8": reward[0].std(ddof=0) + 1e-8,
}.items():
    print(f"{how:18} the winner of [1, 0, 0, 0] gets {0.75 / divisor:.4f}")

agree(0.75, core.group_advantage(jnp.asarray(reward), scale="none")[0, 0])
agree(0.75 / (0.5 + 1e-4), core.group_advantage(jnp.asarray(reward), eps=1e-4)[0, 0])
agree(np.sqrt(3), core.group_advantage(jnp.asarray(reward), ddof=0, eps=1e-8)[0, 0])
# %% [markdown]
# ### Ratio, clip and mask
#
# The completions were drawn by an older policy. Each token's ratio says how much likelier it has
# become since:
#
# $$\rho_t = \frac{\pi(y_t)}{\pi_\text{old}(y_t)} = e^{\log \pi - \log \pi_\text{old}}, \qquad
# \ell_t = -\min\bigl(\rho_t A,\; \mathrm{clip}(\rho_t, 1 - \varepsilon, 1 + \varepsilon)\, A\bigr).$$
#
# Completions differ in length. `mask` is true on their tokens, the end-of-sequence token included;
# what lies behind them must not matter, so we put NaN there.
# %%
rng = np.random.default_rng(0)
B, G, T = 2, 4, 6
length = rng.integers(1, T + 1, size=(B, G))
mask = np.arange(T) < length[..., None]

logp_old = np.where(mask, -rng.exponential(size=(B, G, T)), np.nan)
logp = np.where(mask, logp_old + 0.3 * rng.normal(size=(B, G, T)), np.nan)

ratio = np.exp(logp - logp_old)
A = advantage[..., None]
loss = -np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A)

by_library = core.clipped_surrogate(jnp.asarray(logp), jnp.asarray(logp_old), jnp.asarray(A))
agree(loss[mask], by_library[mask])
print("lengths", length.tolist())
print("first completion:", loss[0, 0][mask[0, 0]].round(3))
# %% [markdown]
# ### Reduction
#
# One number from losses of ragged length, in three ways: every *sequence* counts the same (GRPO),
# every *token* counts the same (DAPO), or the sum is divided by a constant (Dr. GRPO):
#
# $$\frac1n \sum_i \frac{1}{|y_i|} \sum_t \ell_{it}, \qquad
# \frac{\sum_{it} \ell_{it}}{\sum_i |y_i|}, \qquad
# \frac{\sum_{it} \ell_{it}}{n\, T_\text{max}}.$$
# %%
sums = np.where(mask, loss, 0).sum(axis=-1)
per_sequence = (sums / length).mean()
per_token = sums.sum() / length.sum()
per_length = sums.sum() / (B * G * T)

agree(per_sequence, core.sequence_mean(jnp.asarray(loss), jnp.asarray(mask)))
agree(per_token, core.token_mean(jnp.asarray(loss), jnp.asarray(mask)))
agree(per_length, core.length_mean(jnp.asarray(loss), jnp.asarray(mask), max_length=T))
print(f"sequence {per_sequence:.4f}   token {per_token:.4f}   length {per_length:.4f}")


# %% [markdown]
# ### The whole loss, and its gradient
#
# `policy_loss` does all of the above and returns a sum and a count, so that micro-batches and devices
# can add up before anyone divides. By hand, the gradient is
#
# $$\frac{\partial L}{\partial \log \pi_t} = -\frac{\rho_t A}{n\, |y_i|}
# \quad\text{where the clip does not hold, and 0 elsewhere.}$$
# %%
def grpo(logp):
    total, count, _ = core.policy_loss(
        core.OBJECTIVES["grpo"],
        logp,
        jnp.asarray(logp_old),
        None,  # no reference model
        jnp.asarray(A),
        jnp.asarray(mask),
        max_length=T,
    )
    return core.mean_from(total, count)


value, slope = jax.value_and_grad(grpo)(jnp.asarray(logp))

held = ((ratio > 1.2) & (A > 0)) | ((ratio < 0.8) & (A < 0))
by_hand = np.where(mask & ~held, -ratio * A / (B * G * length[..., None]), 0)

agree(per_sequence, value)
agree(by_hand, slope)
print(f"loss {value:.4f}; the clip holds {held[mask].mean():.0%} of the tokens")
# %% [markdown]
# ### What the clip does
#
# Upper row: the loss of one token. Lower row: the gradient that reaches $\log \pi$; where it is 0 the
# token changes nothing. A good token (left) gets there once it is 20 % likelier. A bad token (right)
# does once it is 20 % rarer, but when it becomes *likelier* nothing bounds its loss, unless the dual
# clip does, at $-cA$.
# %%
ratios = jnp.linspace(0.02, 4, 400)
figure, axes = plt.subplots(2, 2, figsize=(9, 5.4), sharex=True, sharey="row")
for column, sign in enumerate((1.0, -1.0)):
    for dual_clip, colour, style in ((None, BLUE, "-"), (3.0, ORANGE, "--")):

        def token_loss(log_ratio, sign=sign, dual_clip=dual_clip):
            return core.clipped_surrogate(
                log_ratio, jnp.zeros(()), jnp.asarray(sign), dual_clip=dual_clip
            )

        values, slopes = jax.vmap(jax.value_and_grad(token_loss))(jnp.log(ratios))
        slopes = jnp.where(jnp.abs(jnp.diff(slopes, append=slopes[-1])) > 0.2, jnp.nan, slopes)
        label = "clip" if dual_clip is None else "dual clip, c = 3"
        for row, curve in enumerate((values, slopes)):
            axes[row, column].plot(ratios, curve, color=colour, linestyle=style, label=label)
    axes[0, column].set_title(f"$A = {sign:+.0f}$: a {'good' if sign > 0 else 'bad'} token")
    axes[1, column].set_xlabel(r"ratio $\rho$")
for axis in axes.flat:
    axis.axvspan(0.8, 1.2, color=GREY, alpha=0.15, linewidth=0)
    axis.axhline(0, color=GREY, linewidth=0.8)
axes[0, 0].set_ylabel("loss")
axes[1, 0].set_ylabel(r"gradient by $\log \pi$")
axes[0, 1].legend(loc="upper left")
axes[0, 0].annotate(r"$1 \pm \varepsilon$", (1.0, 3.4), color=GREY, ha="center")
plt.show()
# %% [markdown]
# ### Distance to a reference
#
# To keep the policy near a reference, three estimators of $\mathrm{KL}(\pi \,\|\, \pi_\text{ref})$ need
# only the drawn token. With $\Delta = \log \pi_\text{ref} - \log \pi$:
#
# $$k_1 = -\Delta, \qquad k_2 = \tfrac12 \Delta^2, \qquad k_3 = e^{\Delta} - \Delta - 1.$$
#
# $k_1$ and $k_3$ have exactly the right expectation; $k_2$ is off in the third order. Near the
# reference, where training should stay, $k_1$ is by far the noisiest; it is also the only one that
# can be negative.
# %%
reference = np.array([0.4, 0.3, 0.2, 0.1])
direction = np.array([1.0, -0.5, 0.5, -1.0])
estimators = {"k1": core.kl_k1, "k2": core.kl_k2, "k3": core.kl_k3}
colours = dict(zip(estimators, (BLUE, ORANGE, GREEN), strict=True))

policies = reference * np.exp(np.linspace(0, 1.5, 40)[:, None] * direction)  # ever further away
policies /= policies.sum(axis=1, keepdims=True)
distance = (policies * np.log(policies / reference)).sum(axis=1)  # the true KL

mean, noise = {}, {}
for name, estimator in estimators.items():
    k = np.asarray(estimator(jnp.log(jnp.asarray(policies)), jnp.log(jnp.asarray(reference))))
    mean[name] = (policies * k).sum(axis=1)  # over all tokens: the exact expectation
    noise[name] = np.sqrt((policies * (k - mean[name][:, None]) ** 2).sum(axis=1))
agree(distance, mean["k1"])
agree(distance, mean["k3"])

delta = np.linspace(-2, 2, 200)
by_hand = {"k1": -delta, "k2": delta**2 / 2, "k3": np.exp(delta) - delta - 1}
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4))
for name, estimator in estimators.items():
    value = estimator(jnp.zeros(delta.shape), jnp.asarray(delta))
    agree(by_hand[name], value)
    left.plot(delta, value, color=colours[name], label=name)
    style = {"k1": "-", "k2": "-", "k3": (0, (4, 4))}[name]
    middle.plot(distance, mean[name], color=colours[name], linestyle=style, label=name)
    right.plot(distance, noise[name], color=colours[name], label=name)
left.axhline(0, color=GREY, linewidth=0.8)
left.set(title="value of one token", xlabel=r"$\Delta = \log \pi_{ref} - \log \pi$", ylabel="nats")
middle.set(title="expectation", xlabel="true KL, nats")
right.set(title="standard deviation of one token", xlabel="true KL, nats")
left.legend()
middle.legend()
right.legend()
plt.show()
# %% [markdown]
# ## 2. Distillation
#
# A teacher $p$ and a student $q$ give each next token a probability. At temperature $\tau$ both are
# $\mathrm{softmax}(z / \tau)$. Forward KL is large wherever the student misses what the teacher may write:
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_v p_v (\log p_v - \log q_v), \qquad
# \frac{\partial\, \mathrm{KL}}{\partial z^q_v} = \frac{q_v - p_v}{\tau}.$$
#
# The generalised Jensen-Shannon divergence measures both against their mixture
# $M = \beta p + (1 - \beta) q$, and never exceeds $\log 2$ at $\beta = \tfrac12$:
#
# $$\mathrm{JSD}_\beta = \beta\, \mathrm{KL}(p \,\|\, M) + (1 - \beta)\, \mathrm{KL}(q \,\|\, M).$$
# %%
V, tau, beta = 8, 2.0, 0.3
teacher, student = rng.normal(size=(2, T, V))  # logits


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(axis=-1)


p, q = softmax(teacher / tau), softmax(student / tau)
mixture = beta * p + (1 - beta) * q

logits = jnp.asarray(teacher), jnp.asarray(student)
agree(kl(p, q), core.forward_kl(*logits, temperature=tau))
agree(kl(q, p), core.reverse_kl(*logits, temperature=tau))
agree(
    beta * kl(p, mixture) + (1 - beta) * kl(q, mixture),
    core.jensen_shannon(*logits, beta=beta, temperature=tau),
)
agree(
    (q - p) / tau,
    jax.grad(lambda z: core.forward_kl(logits[0], z, temperature=tau).sum())(logits[1]),
)
print("forward KL of each token:", kl(p, q).round(3))
# %% [markdown]
# ### Five divergences and a moving student
#
# The teacher has two modes. The student has one, which slides over the vocabulary. Where is each
# divergence smallest? Forward KL *between* the modes, for every missed mode costs; reverse KL *on* the
# likelier mode. JSD, total variation
# and, with $\alpha = 0.1$, skew KL stay bounded.
# %%
ids = np.arange(13)


def bump(centre, width=1.3):
    return -((ids - centre) ** 2) / (2 * width**2)


teacher = jnp.asarray(np.log(0.6 * softmax(bump(3)) + 0.4 * softmax(bump(9))))
centre = np.linspace(-0.5, 12.5, 300)
students = jnp.asarray(np.stack([bump(c, 1.8) for c in centre]))
divergences = {
    "forward KL": (core.forward_kl, BLUE),
    "reverse KL": (core.reverse_kl, ORANGE),
    r"skew KL, $\alpha$ = 0.1": (core.skew_forward_kl, GREEN),
    r"JSD, $\beta$ = 0.5": (core.jensen_shannon, PURPLE),
    "total variation": (core.total_variation, GREY),
}

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(2, 3), sharex=True)
left.bar(ids, jnp.exp(teacher), color=GREY, alpha=0.35, label="teacher")
for name, (divergence, colour) in divergences.items():
    value = divergence(jnp.broadcast_to(teacher, students.shape), students)
    best = int(value.argmin())
    right.plot(centre, value, color=colour, label=name)
    right.plot(centre[best], value[best], "o", color=colour, markersize=5)
    if name.endswith("KL") and "skew" not in name:
        q = softmax(np.asarray(students[best]))
        left.plot(ids, q, "o-", color=colour, markersize=3, label=f"best by {name}")
left.set(title="what each KL prefers", xlabel="token id", ylabel="probability", ylim=(0, 0.34))
left.legend(loc="upper right")
right.set(title="divergence, minimum marked", xlabel="centre of the student")
right.set(ylabel="nats (TV: mass)", ylim=(0, 2.6), xticks=range(0, 13, 2))
right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
# %% [markdown]
# ### Only the top K
#
# A cache of teacher logits keeps the $K$ best of a vocabulary. What about the rest? Put all of it
# into **one bucket** on both sides, and the loss is the exact KL of two distributions: never above
# the full one, equal at $K = V$, and zero only where the student gives the kept tokens what the
# teacher gives them. *Renormalising* forgets how sure the teacher was. *Dropping* the rest leaves a
# loss whose minimum lies elsewhere, below zero: it rewards a student for moving all of its
# probability onto the kept tokens.
# %%
V = 40
z_teacher, z_student = 2.2 * rng.normal(size=V), 1.5 * rng.normal(size=V)
p, q = softmax(z_teacher), softmax(z_student)
ranked = np.argsort(-p)
tails = {"bucket": BLUE, "renormalise": ORANGE, "drop": PURPLE}


def by_bucket(p, q, kept):
    p_rest, q_rest = 1 - p[kept].sum(), 1 - q[kept].sum()
    return kl(p[kept], q[kept]) + p_rest * (np.log(p_rest) - np.log(q_rest))


def by_cache(z_student, number, tail):
    ids = jnp.asarray(ranked[:number])
    return core.topk_forward_kl(jnp.log(p)[ids], ids, jnp.asarray(z_student), tail=tail)


sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
agree(
    [by_bucket(p, q, ranked[:k]) for k in sizes], [by_cache(z_student, k, "bucket") for k in sizes]
)

# A student between itself (0) and the teacher (1), and beyond: only kept tokens, none of the rest.
away = np.where(np.isin(np.arange(V), ranked[:4]), z_teacher, z_teacher - 6)
path = np.linspace(0, 2, 61)[:, None]
students = np.where(
    path < 1, (1 - path) * z_student + path * z_teacher, (2 - path) * z_teacher + (path - 1) * away
)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
for tail, colour in tails.items():
    left.plot(
        sizes, [by_cache(z_student, k, tail) for k in sizes], "o-", color=colour, markersize=4
    )
    curve = [by_cache(z, 4, tail) for z in students]
    right.plot(path[:, 0], curve, color=colour, label=tail)
left.axhline(kl(p, q), color="black", linewidth=0.8)
left.annotate("the full KL", (sizes[-1], kl(p, q)), (0, 4), textcoords="offset points", ha="right")
left.set(title="one pair of distributions", xlabel="K kept logits", ylabel="nats", xscale="log")
left.set_xticks([1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32])
right.axhline(0, color="black", linewidth=0.8)
right.set(title="a student on its way, K = 4", xticks=(0, 1, 2))
right.set_xticklabels(["as it was", "the teacher", "kept tokens only"])
right.legend()
plt.show()
# %% [markdown]
# ## 3. Two rewards
#
# Both stages of BRIDGE reward a right, well-formed completion for being brief; a wrong one gets $-2$
# and a right but ill-formed one $-1$, however short.
#
# **Stage 2** allows $L$ = 35 tokens per step of the teacher, here 5. Up to $0.8 L$ brevity pays, behind
# it length costs. As released, the reward *rises* again just behind $L$; the default (`monotone`)
# continues the slope instead.
#
# **Stage 3** compares with the teacher's own length: $\rho$ is the quotient.
# %%
right_text = "\n".join(f"Step {k}: 6 * 7 = 42" for k in range(1, 6)) + "\nAnswer: 42"
short_text = "Step 1: 6 * 7 = 42\nAnswer: 42"
L = 35 * 5


def stage_2(length, monotone):
    settings = {"gold": "42", "teacher_steps": 5, "unit": "tokens", "monotone": monotone}
    return cot.completion_reward(right_text, length=length, **settings)[0]


def stage_3(rho):
    settings = {"gold": "42", "teacher_length": 1000, "unit": "tokens"}
    return cot.rewrite_reward(short_text, length=round(1000 * rho), **settings)[0]


w = np.arange(0, 351)
released = np.select(
    [w > L, w > 0.8 * L],
    [np.maximum(-0.01 * (w - L), -1), -0.002 * (w - 0.8 * L)],
    np.minimum(0.001 * (0.8 * L - w), 0.2),
)
continued = np.where(w > L, np.maximum(-0.002 * 0.2 * L - 0.01 * (w - L), -1), released)
agree(1 + released, [stage_2(int(x), monotone=False) for x in w])
agree(1 + continued, [stage_2(int(x), monotone=True) for x in w])

rho = np.linspace(0, 2.5, 251)
bonus = np.select(
    [rho > 1, rho > 0.8, rho > 0.5],
    [-0.5 * np.minimum(rho - 1, 1), 0, 0.5 * (0.8 - rho) / 0.3],
    0.5 + 0.3 * np.minimum((0.5 - rho) / 0.3, 1),
)
agree(1 + bonus, [stage_3(x) for x in rho])

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
inset = left.inset_axes((0.09, 0.13, 0.31, 0.42))
for axis in (left, inset):
    axis.plot(w[w <= L], 1 + released[w <= L], color=ORANGE)
    axis.plot(w[w > L], 1 + released[w > L], color=ORANGE, label="as released")
    axis.plot(w, 1 + continued, color=BLUE, linestyle="--", label="monotone (default)")
    axis.axvline(L, color=GREY, linewidth=0.8)
inset.set(xlim=(165, 185), ylim=(0.83, 1.01), xticks=(165, L, 185), yticks=(0.9, 1.0))
inset.tick_params(labelsize=8)
left.indicate_inset_zoom(inset, edgecolor=GREY)
left.set(title="stage 2: five steps, as many as the teacher", xlabel="tokens", ylabel="reward")
left.annotate("L", (L - 4, 1.2), color=GREY, ha="right")
left.set_ylim(-0.1, 1.3)
left.legend(loc="upper right")
right.plot(rho, 1 + bonus, color=GREEN)
right.set(title="stage 3: rewriting the teacher", xlabel=r"$\rho$ = length / teacher's length")
right.set(ylabel="reward", ylim=(0, 2))
for at in (0.5, 0.8, 1.0):
    right.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
plt.show()
# %%
wrong, ill_formed = "Step 1: 6 + 7 = 13\nAnswer: 13", "42, of course. The answer is 42."
for text in (wrong, ill_formed, short_text):
    reward, parts = cot.rewrite_reward(text, gold="42", teacher_length=60)
    print(f"{reward:+.1f}   {text!r}")
