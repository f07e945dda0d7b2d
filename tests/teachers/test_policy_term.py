"""On-policy distillation beside GRPO: what it adds, and that it adds nothing at coefficient 0."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotjax.core import mix_teachers
from cotjax.core.distillation import reverse_kl
from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.stages import base
from cotjax.stages.grpo import Grpo
from tests.tiny import make_config, write_teachers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("term")
    write_teachers(folder)
    return folder


@pytest.fixture
def descent(monkeypatch):
    """Plain descent, so that parameters move by gradients alone."""
    monkeypatch.setattr(base, "make_optimizer", lambda *settings: optax.sgd(1.0))


def open_stage(folder, coefficient, *more, steps=3):
    flags = ["--stage=grpo", f"--steps={steps}", "--policy.micro-batch=0"]
    if coefficient:
        both = str(folder / "weak"), str(folder / "strong")
        flags += [f"--distill.coefficient={coefficient}", "--curriculum.ranking-problems=0"]
        flags += ["--teachers.paths", *both]
    else:  # teachers that do nothing are refused
        more = [flag for flag in more if not flag.startswith(("--distill", "--curriculum"))]
    return Grpo.from_config(make_config(folder, *flags, *more), make_mesh(1))


def copy(tree):
    return jax.tree.map(np.array, tree)


def difference(after, before):
    return np.concatenate([
        (a - b).ravel() for a, b in zip(*map(jax.tree.leaves, (after, before)), strict=True)
    ])  # fmt: skip


def moved(stage, step=0):
    """How one plain descent step changes the parameters, and its metrics."""
    before = copy(stage.state.params)
    work = stage.next_step(stage.state.params, step)
    state, metrics = stage.update(stage.state, work.batch)
    learned = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    return difference(copy(state.params), before), work.metrics | learned


def logits(policy, params, groups):
    hidden = policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)
    return (hidden @ policy.unembed(params).T)[..., :421]


def chosen(logits, groups):
    logp = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logp, groups.completion[..., None], axis=-1)[..., 0]


def mixture(stage, groups, weights):
    spoken = []
    for index in range(2):
        teacher = stage.teachers.teachers[index]
        spoken.append(logits(teacher.student.policy, teacher.params, groups))
    return mix_teachers(jnp.stack(spoken), jnp.array(weights))


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def test_at_coefficient_0_a_run_is_bit_for_bit_that_without_teachers(folder):
    def three_steps(stage):
        state, rows = stage.state, []
        for step in range(3):
            work = stage.next_step(state.params, step)
            state, metrics = stage.update(state, work.batch)
            rows.append((jax.tree.map(np.asarray, work.batch), copy(metrics)))
        return rows, copy(state)

    none = Grpo.from_config(
        make_config(folder, "--stage=grpo", "--steps=3", "--policy.micro-batch=0"), make_mesh(1)
    )
    jax.tree.map(
        np.testing.assert_array_equal, three_steps(open_stage(folder, 0)), three_steps(none)
    )


@pytest.mark.parametrize("updates", [1, 2])
def test_the_gap_to_the_mixture_is_added_to_every_tokens_advantage(folder, updates):
    flags = "--curriculum.schedule=linear", f"--policy.inner-updates={updates}"
    stage = open_stage(folder, 0.25, *flags, "--policy.kl-coefficient=0")
    stage.next_step(stage.state.params, 0)
    (groups,) = stage.next_step(stage.state.params, 1).batch  # half way: both teachers, half each
    mask = np.asarray(groups.completion_mask)
    theirs = chosen(mixture(stage, groups, [0.5, 0.5]), groups)
    np.testing.assert_allclose(groups.logp_teacher[mask], theirs[mask], atol=1e-5)
    _, metrics = stage.update(stage.state, [groups])
    # The ratio is 1, so the loss of a token is minus its advantage.
    ours = np.asarray(groups.logp_sampler)
    advantage = np.asarray(groups.advantage)[..., None] + 0.25 * (np.asarray(theirs) - ours)
    expected = -(advantage * mask).sum(-1) / mask.sum(-1)
    total, count = metrics["loss"]
    np.testing.assert_allclose(total / count, expected.mean(), rtol=1e-4)
    gap, tokens = metrics["divergence"]
    np.testing.assert_allclose(gap / tokens, (ours - np.asarray(theirs))[mask].mean(), rtol=1e-4)


def test_a_huge_coefficient_is_pure_policy_gradient_distillation(folder, descent):
    plain = "--policy.kl-coefficient=0", "--curriculum.schedule=step", "--policy.objective=dapo"
    stage = open_stage(folder, 1e5, *plain)
    (groups,) = stage.next_step(stage.state.params, 0).batch
    policy, mask = stage.student.policy, groups.completion_mask
    theirs = chosen(mixture(stage, groups, [1.0, 0.0]), groups)
    hidden = lambda params: policy.completions(  # noqa: E731
        params, groups.prompt, groups.prompt_mask, groups.completion
    )

    def pure(params):
        logp = jax.nn.log_softmax(hidden(params) @ policy.unembed(params).T)
        logp = jnp.take_along_axis(logp, groups.completion[..., None], axis=-1)[..., 0]
        gap = jax.lax.stop_gradient(theirs - logp)
        return -jnp.where(mask, gap * logp, 0).sum() / mask.sum()

    expected = -difference(jax.grad(pure)(stage.state.params), jax.tree.map(
        jnp.zeros_like, stage.state.params))  # fmt: skip
    directions = {}
    for coefficient in (0.0, 1.0, 1e5):
        step, _ = moved(open_stage(folder, coefficient, *plain))
        directions[coefficient] = cosine(step, expected)
    assert directions[1e5] > 0.99999
    assert directions[0.0] < directions[1.0] < directions[1e5]


def test_the_divergence_is_added_to_the_loss(folder):
    flags = "--distill.on-policy-loss=divergence", "--distill.divergence=reverse_kl"
    flags += "--policy.kl-coefficient=0", "--policy.objective=dapo"
    losses = {}
    for coefficient in (0.0, 0.5):
        stage = open_stage(folder, coefficient, *flags)
        (groups,) = stage.next_step(stage.state.params, 0).batch
        losses[coefficient] = stage.update(stage.state, [groups])[1]["loss"]
    stage = open_stage(folder, 0.5, *flags)
    (groups,) = stage.next_step(stage.state.params, 0).batch
    ours = logits(stage.student.policy, stage.state.params, groups)
    dense = reverse_kl(mixture(stage, groups, [1.0, 0.0]), ours)
    mask = np.asarray(groups.completion_mask)
    added = losses[0.5][0] - losses[0.0][0]
    np.testing.assert_allclose(added, 0.5 * np.asarray(dense)[mask].sum(), rtol=1e-4)
    assert losses[0.5][1] == losses[0.0][1] == mask.sum()


def test_teachers_follow_the_schedule_and_micro_batches_do_not_matter(folder, descent):
    flags = "--curriculum.schedule=step", "--policy.kl-coefficient=0"
    stage = open_stage(folder, 0.5, *flags, steps=4)
    seen = [stage.next_step(stage.state.params, step).metrics for step in range(4)]
    assert [row["teacher_1"] for row in seen] == [1, 1, 0, 0]
    assert [row["teacher_2"] for row in seen] == [0, 0, 1, 1]
    assert stage.teachers.teachers.calls == [2, 2] and stage.teachers.teachers.resident == {1}
    whole, _ = moved(open_stage(folder, 0.5, *flags))
    parts, _ = moved(open_stage(folder, 0.5, *flags, "--policy.micro-batch=2"))
    np.testing.assert_allclose(parts, whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--teachers.cache=somewhere"], "teachers.cache: stage grpo does not read it"),
        (["--curriculum.schedule=adaptive"], 'curriculum.schedule = "adaptive": it follows'),
        (["--distill.temperature=2"], "Set distill.temperature = 1.0"),
        (["--stage=sft"], "stage sft does not read it"),
        (
            ["--curriculum.schedule=fixed", "--curriculum.teacher-weights", "0.5", "0.6"],
            "sum to 1.1",
        ),
        (["--policy.objective=bridge_release"], "it weighs a whole completion"),
    ],
)
def test_what_cannot_be_added_is_refused(folder, flags, words):
    with pytest.raises(InputError, match=words):
        open_stage(folder, 0.5, *flags)
