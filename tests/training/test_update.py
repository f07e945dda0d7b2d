"""One update: what it averages over, and that no way of splitting a batch changes it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotjax import startup
from cotjax.startup import counted
from cotjax.training import update as update_module
from cotjax.training.update import (
    Frozen,
    init_program,
    init_state,
    make_update,
    on_host,
    with_skipped,
)

ROWS, WIDTH = 12, 5


def regression(params, frozen, batch):
    """Squared error of a line, summed over the targets that count."""
    error = (batch["x"] @ params["w"] + params["b"] - batch["y"]) * batch["mask"]
    count = batch["mask"].sum()
    return (error**2).sum() / 2, count, {"error": (abs(error).sum(), count)}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    # Rows count 0 to 4 targets each: micro-batches are as uneven as can be.
    mask = (np.arange(4) < (np.arange(ROWS) // 2 % 5)[:, None]).astype(np.float32)
    x = rng.normal(size=(ROWS, 4, WIDTH)).astype(np.float32)
    return {"x": x, "y": rng.normal(size=(ROWS, 4)).astype(np.float32), "mask": mask}


@pytest.fixture
def params():
    return {"w": jnp.linspace(-1, 1, WIDTH), "b": jnp.float32(0.5)}


def by_hand(params, batch):
    """The gradient of the mean over counted targets, target by target."""
    w, b, count = np.zeros(WIDTH), 0.0, 0
    for r, t in np.argwhere(batch["mask"]):
        error = batch["x"][r, t] @ np.asarray(params["w"]) + params["b"] - batch["y"][r, t]
        w, b, count = w + error * batch["x"][r, t], b + error, count + 1
    return {"w": w / count, "b": b / count}


def cut(batch, sizes):
    """Micro-batches of these numbers of rows; each drops the trailing targets that it can spare."""
    micros, start = [], 0
    for size in sizes:
        rows = {name: leaf[start : start + size] for name, leaf in batch.items()}
        longest = max(int(rows["mask"].sum(axis=1).max()), 1)
        micros.append({name: leaf[:, :longest] for name, leaf in rows.items()})
        start += size
    return micros


def step(params, micros):
    """The mean gradient, read off a step of plain descent, and the metrics."""
    before = jax.tree.map(np.asarray, params)
    state = init_state(params, optax.sgd(1.0))
    state, metrics = make_update(regression, optax.sgd(1.0), state)(state, micros)
    return jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params), metrics


@pytest.mark.parametrize("sizes", [[12], [6, 6], [3, 8, 1], [1] * 12])
def test_uneven_micro_batches_give_the_gradient_of_the_whole_batch(batch, params, sizes):
    expected = by_hand(params, batch)
    whole, _, _ = regression(params, None, batch)
    gradient, metrics = step(params, cut(batch, sizes))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient, expected)
    assert metrics["loss"][1] == batch["mask"].sum()
    np.testing.assert_allclose(metrics["loss"][0], whole, rtol=1e-5)


def test_micro_batches_of_one_shape_are_one_program_with_the_same_step(batch, params):
    micros = [
        {name: leaf[start : start + 3] for name, leaf in batch.items()} for start in (0, 3, 6)
    ]
    traced = []

    def loss(*arguments):
        traced.append(arguments)
        return regression(*arguments)

    def run(scan):
        state = init_state(jax.tree.map(jnp.copy, params), optax.sgd(1.0))
        update = make_update(loss, optax.sgd(1.0), state, scan=scan)
        for _ in range(2):
            state, metrics = update(state, micros)
        return state.params, metrics

    one_after_the_other, traces = run(scan=False), len(traced)
    scanned = run(scan=True)
    assert len(traced) - traces == 2, "shapes, then the loop's body"
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), scanned, one_after_the_other
    )


def test_metrics_are_sums_over_all_micro_batches(batch, params):
    _, count, whole = regression(params, None, batch)
    _, metrics = step(params, cut(batch, [4, 4, 4]))
    np.testing.assert_allclose(metrics["error"], (whole["error"][0], count), rtol=1e-5)


def test_a_batch_in_which_nothing_counts_has_no_gradient(batch, params):
    empty = batch | {"mask": np.zeros_like(batch["mask"])}
    gradient, _ = step(params, cut(empty, [4, 8]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_an_update_is_one_step_of_the_optimizer_and_counts_itself(batch, params):
    state = init_state(params, optax.sgd(0.1))
    update = make_update(regression, optax.sgd(0.1), state)
    assert state.step == 0
    expected = {name: params[name] - 0.1 * g for name, g in by_hand(params, batch).items()}
    state, _ = update(state, [batch])
    assert state.step == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, expected)


def test_grad_norm_is_the_norm_before_clipping(batch, params):
    norm = np.sqrt(sum((g**2).sum() for g in by_hand(params, batch).values()))
    optimizer = optax.chain(optax.clip_by_global_norm(norm / 10), optax.sgd(1.0))
    before = jax.tree.map(np.asarray, params)
    state = init_state(params, optimizer)
    state, metrics = make_update(regression, optimizer, state)(state, [batch])
    np.testing.assert_allclose(metrics["grad_norm"], (norm, 1), rtol=1e-5)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before))
    np.testing.assert_allclose(moved, norm / 10, rtol=1e-4)


def test_the_old_state_gives_up_its_buffers(batch, params):
    old = init_state(params, optax.adam(0.1))
    update = make_update(regression, optax.adam(0.1), old)
    update(old, [batch])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))


def test_what_is_frozen_reaches_the_loss_and_stays(batch, params):
    def shifted(whole, reference, micro):
        total, count, metrics = regression(whole, None, micro)
        return total, count, metrics | {"reference": (reference["w"].sum(), jnp.ones(()))}

    zero = jax.tree.map(jnp.zeros_like, params)
    join = lambda trained, base: jax.tree.map(jnp.add, trained, base)  # noqa: E731
    state = init_state(zero, optax.sgd(0.1))
    update = make_update(shifted, optax.sgd(0.1), state, join=join)
    state, metrics = update(state, [batch], Frozen(params, params))
    assert metrics["reference"][0] == params["w"].sum()
    expected = {name: -0.1 * g for name, g in by_hand(params, batch).items()}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, expected)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


# NaN and infinity.


def broken(batch, kind):
    """The batch, or loss of a batch, with something that is not finite."""
    x, y = batch["x"].copy(), batch["y"].copy()
    mask = batch["mask"].copy()
    row, column = np.argwhere(mask)[0]
    if kind == "a NaN in the batch":
        x[row, column, 0] = np.nan
    elif kind == "an infinite loss":
        y[row, column] = 1e30
    return {"x": x, "y": y, "mask": mask, "root": np.float32(kind == "a gradient alone")}


def rooted(params, frozen, batch):
    """The same loss, whose gradient alone is NaN where the batch says so: that of √0 · 0."""
    total, count, metrics = regression(params, frozen, batch)
    zero = jnp.where(batch["root"] > 0, params["b"] * 0, 1.0)
    return total + jnp.sqrt(zero) * 0, count, metrics


KINDS = ("a NaN in the batch", "an infinite loss", "a gradient alone")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "scan"), [(1, True), (2, True), (2, False)], ids=str)
def test_what_is_not_finite_changes_nothing_and_is_counted(batch, params, kind, count, scan):
    optimizer = optax.adamw(optax.linear_schedule(0.1, 0.0, 9))
    state = init_state(params, optimizer)
    update = make_update(rooted, optimizer, state, scan=scan)
    good = [broken(batch, "")] * count
    state, metrics = update(state, good)
    assert metrics["skipped"] == (0, 1) and np.isfinite(metrics["grad_norm"][0])
    before = jax.tree.map(np.array, state)
    state, metrics = update(state, [broken(batch, kind), *good[1:]])
    assert metrics["skipped"] == (1, 1)
    if kind == "a gradient alone":
        assert np.isfinite(metrics["loss"][0]) and np.isnan(metrics["grad_norm"][0])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), before)
    state, _ = update(state, good)
    assert state.step == 2 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_what_is_finite_is_the_same_as_without_a_guard(batch, params):
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, b2=0.99))

    @jax.jit
    def unguarded(params, opt_state, summed):
        total, metrics = summed
        count = jnp.maximum(metrics["loss"][1], 1e-9)
        mean = jax.tree.map(lambda leaf: (leaf / count).astype(leaf.dtype), total)
        updates, opt_state = optimizer.update(mean, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, optax.tree.norm(mean)

    state = init_state(jax.tree.map(jnp.copy, params), optimizer)
    update = make_update(regression, optimizer, state, scan=False)
    opt_state = optimizer.init(params)
    for _ in range(3):
        micros = cut(batch, [6, 6])
        one, other = (update.gradient(params, Frozen(), micro) for micro in micros)
        params, opt_state, _ = unguarded(params, opt_state, update.add(one, other))
        state, _ = update(state, micros)
    # Two programs: as they are compiled here, quickly, one fuses a product and a sum of a scalar.
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7)  # noqa: E731
    jax.tree.map(same, (state.params, state.opt_state), (params, opt_state))


def test_an_element_that_would_become_infinite_keeps_its_value():
    loss = lambda params, _, micro: (  # noqa: E731
        (params["w"] * micro["x"]).sum(), jnp.ones(()), {}
    )  # fmt: skip
    optimizer, params = optax.sgd(3e38), {"w": jnp.array([1.0, 2.0])}
    state = init_state(params, optimizer)
    state, metrics = make_update(loss, optimizer, state)(state, [{"x": jnp.array([10.0, 1.0])}])
    np.testing.assert_array_equal(state.params["w"], np.float32([1.0, -3e38]))
    assert metrics["skipped"] == (0, 1)


def test_skipped_updates_of_a_step_are_added_up_on_the_host():
    def one(loss, skipped):
        return {"loss": (jnp.float32(loss), 2.0), "skipped": (jnp.float32(skipped), 1.0)}

    step = with_skipped(one(6, 0), with_skipped(one(4, 1), one(2, 1)), one(8, 0))
    assert on_host(step) == {"loss": 3.0, "skipped": 0.5}
    assert on_host(with_skipped(one(6, 1), {})) == {"loss": 3.0, "skipped": 1.0}
    assert on_host(with_skipped({"loss": (0.0, 0.0)})) == {"loss": 0.0}


# What it lists.


def named(size):
    """A micro-batch, whose programs no other test has compiled."""
    return {"x": jnp.ones((size, 5)), "y": jnp.ones((size, 5))}


def shape_of(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("sizes", [(6,), (6, 6), (6, 9)], ids=["one", "alike", "unlike"])
def test_steps_compile_what_is_listed_and_nothing_else(scan, sizes):
    def loss(params, reference, micro):
        value = ((micro["x"] * params["w"] - micro["y"]) ** 2).sum()
        return value, jnp.float32(micro["x"].size), {}

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    optimizer, params = optax.adam(0.1), jax.device_put({"w": jnp.ones(5)}, place)
    like = {"w": jax.ShapeDtypeStruct((5,), jnp.float32, sharding=place)}
    shapes = init_state(like, optimizer)
    update = make_update(loss, optimizer, shapes, scan=scan)
    kinds = [shape_of(named(size)) for size in sorted(set(sizes))]
    for program in update.programs("update", shapes, kinds, count=len(sizes)):
        program.function.lower(*program.args, **program.kwargs).compile()
    init = init_program(like, optimizer)
    init.function.lower(*init.args).compile()
    micros = [named(size) for size in sizes]
    with counted() as asked:
        update(init_state(params, optimizer), micros)
    assert not asked.names.keys() & {"init_fn", "update", "gradient", "add_gradients", "apply"}


def test_the_likeliest_shape_is_compiled_at_start_up_and_the_others_when_they_come():
    optimizer = optax.sgd(0.1)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = init_state({"w": jax.ShapeDtypeStruct((5,), jnp.float32, sharding=place)}, optimizer)
    loss = lambda params, _, micro: (  # noqa: E731
        (params["w"] * micro["x"]).sum(), jnp.ones(()), {}
    )  # fmt: skip
    kinds = [shape_of(named(size)) for size in (2, 4)]
    sure = lambda scan, count: [  # noqa: E731
        (one.function.__name__, one.always)
        for one in make_update(loss, optimizer, shapes, scan=scan).programs(
            "update", shapes, kinds, count=count
        )
    ]
    assert sure(True, 1) == [("update", False), ("update", True)]
    assert not any(always for _, always in sure(True, 3)), "alike or not is not known"
    assert sure(False, 3) == [
        ("gradient", False), ("gradient", True), ("add_gradients", True), ("apply", True)
    ]  # fmt: skip


def test_what_new_shapes_need_is_compiled_side_by_side_the_longest_first(monkeypatch):
    together = []

    def compile_together(programs):
        together.append([(one.function.__name__, one.args) for one in programs])
        startup.compile_together(programs)

    monkeypatch.setattr(update_module, "compile_together", compile_together)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    optimizer, params = optax.adam(0.1), jax.device_put({"w": jnp.ones(5)}, place)
    state = init_state(params, optimizer)
    loss = lambda params, _, micro: (  # noqa: E731
        ((micro["x"] * params["w"]) ** 2).sum(), jnp.float32(micro["x"].size), {}
    )  # fmt: skip
    update = make_update(loss, optimizer, state)
    first, again, other = [[named(size) for size in sizes]
                           for sizes in ((3, 3, 7), (3, 7, 7), (3, 7, 11))]  # fmt: skip
    with counted() as asked:
        state, _ = update(state, first)
    assert [name for name, _ in together[0]] == ["gradient", "gradient", "add_gradients", "apply"]
    assert [args[2]["x"].shape[0] for name, args in together[0] if name == "gradient"] == [7, 3]
    of_steps = {"gradient": 2, "add_gradients": 1, "apply": 1}
    assert {name: asked.names[name] for name in of_steps} == of_steps, "nothing is compiled twice"
    with counted() as asked:
        state, _ = update(state, again)
    assert not asked.names.keys() & {*of_steps}
    with counted() as asked:
        update(state, other)
    assert asked.names["gradient"] == 1 and len(together) == 1, "one alone is compiled where it is"
