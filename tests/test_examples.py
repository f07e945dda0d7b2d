"""docs/examples: the losses in loops that are not cotjax's, as their files say."""

import importlib.util
import pathlib
import runpy
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotjax.core import make_objective, mean_from, policy_loss

EXAMPLES = pathlib.Path(__file__).parents[1] / "docs" / "examples"
OWN = runpy.run_path(str(EXAMPLES / "own_loop.py"))
TUNIX = runpy.run_path(str(EXAMPLES / "tunix_loss.py"))


def test_a_model_of_ones_own_learns_by_reward_then_teaches():
    teacher, rewards = OWN["train_by_reward"](steps=60)
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.5
    _, distances = OWN["train_by_teachers"]([teacher, teacher], steps=60)
    assert np.mean(distances[-5:]) < 0.2 * np.mean(distances[:5])


def test_the_loop_needs_nothing_of_cotjax_but_its_core():
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1]);"
        "found = {name.split('.')[1] for name in sys.modules if name.startswith('cotjax.')};"
        "print(sorted(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLES / "own_loop.py")],
        capture_output=True, text=True, cwd=EXAMPLES.parents[1],
    )  # fmt: skip
    assert done.stdout.strip() == "['core']", done.stderr


def train_example(rows=4, length=5):
    """Of Tunix: what its `TrainExample` holds, random, with uneven masks."""
    rng = np.random.default_rng(0)

    def numbers(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    mask = jnp.arange(length) < jnp.array([[5], [3], [1], [4]])
    return numbers(rows, length), types.SimpleNamespace(
        prompt_ids=jnp.ones((rows, 2), jnp.int32),
        completion_ids=jnp.asarray(rng.integers(1, 9, (rows, length))),
        completion_mask=mask.astype(jnp.int32),
        advantages=numbers(rows),
        old_per_token_logps=numbers(rows, length),
        ref_per_token_logps=numbers(rows, length),
    )


def test_the_loss_for_tunix_is_policy_loss_of_its_example():
    logp, example = train_example()
    objective = make_objective(preset="tunix")
    loss, metrics = TUNIX["loss_of"](logp, example, objective)
    old, ref = example.old_per_token_logps, example.ref_per_token_logps
    mask = example.completion_mask.astype(bool)
    total, count, _ = policy_loss(
        *(objective, logp, old, ref, example.advantages[:, None], mask), max_length=5
    )
    assert loss == mean_from(total, count)
    assert {"kl", "ratio", "clip_fraction"} <= metrics.keys()


# What it and what it stands on warn of is theirs.
quiet = pytest.mark.filterwarnings("ignore")
tunix_there = pytest.mark.skipif(
    importlib.util.find_spec("tunix") is None,
    reason="google-tunix is not installed; its transformers is older than a run of cotjax needs",
)


@quiet
@tunix_there
def test_tunix_s_own_loss_has_our_value_and_gradient(monkeypatch):
    from tunix.rl import algo_core, common
    from tunix.rl.function_registry import get_policy_loss_fn
    from tunix.rl.grpo.grpo_learner import GRPOConfig

    logp, example = train_example()
    logits = jnp.zeros((*logp.shape, 9))
    config = GRPOConfig(policy_loss_fn=TUNIX["register"](name="cotjax_test"))
    config.temperature = 1.0
    ours, theirs = get_policy_loss_fn("cotjax_test"), algo_core.grpo_loss_fn
    model = model_of_tunix()

    def slope(loss):
        def value(logp):
            monkeypatch.setattr(common, "compute_per_token_logps", lambda *_, **__: (logp, logits))
            return loss(model, example, config, 0, 1)[0]

        return jax.value_and_grad(value)(logp)

    for own, other in zip(slope(ours), slope(theirs), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


@quiet
@tunix_there
def test_tunix_s_learner_trains_by_our_loss():
    peers = runpy.run_path(str(EXAMPLES.parents[1] / "benchmarks" / "peers" / "tunix_step.py"))
    from flax import nnx
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
    from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
    from tunix.rl.rollout.base_rollout import RolloutConfig

    roles = (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT)
    mesh = jax.make_mesh(
        (1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:1],
    )  # fmt: skip
    with mesh:
        cluster = RLCluster(
            actor=model_of_tunix(), reference=model_of_tunix(), tokenizer=peers["NUMBERS"],
            cluster_config=ClusterConfig(
                role_to_mesh=dict.fromkeys(roles, mesh), rollout_engine="vanilla",
                training_config=RLTrainingConfig(
                    actor_optimizer=optax.adam(1e-2), eval_every_n_steps=10**6, max_steps=2
                ),
                rollout_config=RolloutConfig(
                    max_tokens_to_generate=4, max_prompt_length=4, kv_cache_size=8, temperature=1.0
                ),
            ),
        )  # fmt: skip
        before = jax.tree.map(jnp.copy, nnx.state(cluster.actor_trainer.model))
        learner = GRPOLearner(
            rl_cluster=cluster,
            algo_config=GRPOConfig(policy_loss_fn=TUNIX["register"](), num_generations=4),
            reward_fns=lambda prompts, completions, **_: [float(len(c) % 7) for c in completions],
        )
        learner.train([{"prompts": np.array(["2 3 4 5", "3 4 5 6"])} for _ in range(2)])
        after = nnx.state(cluster.actor_trainer.model)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, after)
    assert max(jax.tree.leaves(moved)) > 0


@quiet
@tunix_there
def test_a_strategy_of_tunix_has_our_masked_divergence():
    def mask_of(labels):
        return labels.sum(-1) > 0

    functions = dict.fromkeys(("student_forward_fn", "teacher_forward_fn", "labels_fn"), jnp.sum)
    strategy = TUNIX["strategy"](mask_of, **functions)
    labels = jax.nn.one_hot(jnp.array([[1, 2], [3, -1]]), 4)
    student = jnp.zeros((2, 2, 4))
    teacher = student.at[1, 1].set(jnp.nan)  # where nothing counts
    assert strategy.compute_loss(student, teacher, labels)[0] == 0
    np.testing.assert_allclose(strategy.compute_eval_loss(student, labels)[0], np.log(4), rtol=1e-6)


def model_of_tunix():
    """A tiny Llama of Tunix."""
    peers = runpy.run_path(str(EXAMPLES.parents[1] / "benchmarks" / "peers" / "tunix_step.py"))
    size = {"layers": 1, "vocab": 32, "hidden": 16, "mlp": 32, "heads": 2, "head_dim": 8}
    return peers["make_model"](size | {"kv_heads": 1})
