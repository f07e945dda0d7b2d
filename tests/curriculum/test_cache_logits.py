"""The cache of top logits: what is counted, what it keeps, and that it goes on where it stopped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.curriculum import cache_logits as module
from cotjax.curriculum.cache_logits import (
    cache_logits,
    counted_columns,
    kl_of_cache,
    packed,
    top_logprobs,
)
from cotjax.curriculum.dataset import DistillDataset
from cotjax.errors import InputError
from cotjax.models.head import Head
from cotjax.parallel.mesh import make_mesh
from cotjax.student.load import load_policy
from cotjax.teachers.logit_store import LogitStore
from cotjax.teachers.pool import TeacherPool
from tests.tiny import TOKENIZER, make_config, write_teachers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    write_teachers(folder)
    return folder


def config_of(folder, *more):
    flags = "--stage=distill", "--steps=4", "--curriculum.buckets=2", "--curriculum.num-monitor=4"
    both = [str(folder / name) for name in ("weak", "strong")]
    return make_config(folder, *flags, "--teachers.paths", *both, *more)


def random_case(vocabulary=50):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(0, 1, (2, 6, 8)), jnp.float32)
    matrix = jnp.asarray(rng.normal(0, 1, (vocabulary, 8)), jnp.float32)
    return hidden, matrix


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_top_and_the_rest_are_those_of_the_whole_distribution(chunk):
    hidden, matrix = random_case()
    columns = jnp.array([[1, 3], [0, 5]])
    top, ids, log_rest, plogp = top_logprobs(
        hidden, columns, Head(matrix), 2.0, k=4, chunk_size=chunk
    )
    logp = np.asarray(jax.nn.log_softmax(hidden @ matrix.T / 2.0), np.float64)
    logp = np.take_along_axis(logp, np.asarray(columns)[..., None], axis=1)
    order = np.argsort(-logp, axis=-1)
    np.testing.assert_array_equal(ids, order[..., :4])
    np.testing.assert_allclose(top, np.take_along_axis(logp, order[..., :4], -1), atol=1e-5)
    rest = np.take_along_axis(logp, order[..., 4:], -1)
    np.testing.assert_allclose(log_rest, np.log(np.exp(rest).sum(-1)), atol=1e-5)
    np.testing.assert_allclose(plogp, (np.exp(rest) * rest).sum(-1), atol=1e-4)


def test_a_cache_of_all_tokens_loses_nothing_and_of_few_what_the_even_rest_loses():
    logits = np.random.default_rng(0).normal(0, 2, (5, 40))
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ordered = -np.sort(-logp, axis=-1)

    def kl(k):
        rest = ordered[:, k:]
        log_rest = np.log(np.maximum(np.exp(rest).sum(-1), 1e-12))
        plogp = (np.exp(rest) * rest).sum(-1)
        return kl_of_cache(ordered[:, :k], log_rest, plogp, others=40 - k, dtype="float16")

    losses = [kl(k).mean() for k in (1, 4, 16, 39)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-5
    rest = ordered[:, 4:]
    mass = np.exp(rest).sum(-1)
    dense = (np.exp(rest) * (rest - np.log(mass / 36)[:, None])).sum(-1)
    np.testing.assert_allclose(kl(4), dense, atol=2e-3)


def test_counted_positions_come_first_and_few_widths_compile():
    rng = np.random.default_rng(0)
    widths = set()
    for share in np.linspace(0, 1, 40):
        counted = rng.random((3, 64)) < share
        columns = counted_columns(counted)
        widths.add(columns.shape[1])
        for row, places in zip(counted, columns, strict=True):
            np.testing.assert_array_equal(places[: row.sum()], np.flatnonzero(row))
    assert len(widths) <= 16


def test_every_example_is_packed_once(folder):
    config = config_of(folder)
    dataset = DistillDataset(config, make_mesh(1), load_policy(config, make_mesh(1)))
    batches = list(packed(dataset, np.arange(len(dataset.records)), 2, 48))
    examples = [span.example for _, spans in batches for span in spans]
    assert sorted(examples) == list(range(len(dataset.records)))


def test_a_cache_holds_the_pairs_of_a_run_and_a_stopped_one_goes_on(folder, tmp_path, monkeypatch):
    config, mesh = config_of(folder), make_mesh(1)
    written = cache_logits(config, mesh, tmp_path / "whole")
    assert (written.shards, written.kl > 0, written.bytes > 0) == (2, True, True)
    assert cache_logits(config, mesh, tmp_path / "whole").shards == 0, "complete already"

    dataset = DistillDataset(config, mesh, load_policy(config, mesh))
    dataset.curriculum.prepare(dataset.student.params, 0)
    expected = dataset.manifest(TeacherPool(config, mesh, TOKENIZER, slots=1))
    store = LogitStore(tmp_path / "whole", expected, sorted(dataset.curriculum.pairs()))
    for index in range(len(dataset.records)):
        teacher = int(dataset.curriculum.bucket[index])
        assert len(store.read(teacher, index).ids) == (dataset.encode(index)["weight"] > 0).sum()

    monkeypatch.setattr(module, "SHARD_EXAMPLES", 3)
    parts = cache_logits(config, mesh, tmp_path / "parts")
    assert parts.shards == 6 and parts.positions == written.positions
    assert parts.kl == pytest.approx(written.kl, rel=1e-4)
    sorted((tmp_path / "parts").glob("*.json"))[-1].unlink()  # a shard without it is not there
    assert cache_logits(config, mesh, tmp_path / "parts").shards == 1


def test_another_cache_in_the_folder_is_refused(folder, tmp_path):
    cache_logits(config_of(folder), make_mesh(1), tmp_path)
    with pytest.raises(InputError, match="was made with top_k = 16, this run has 8"):
        cache_logits(config_of(folder, "--teachers.top-k=8"), make_mesh(1), tmp_path)
