"""Sampled groups through JSON and back, bit for bit."""

import json

import jax
import numpy as np
import pytest

from cotjax.interfaces import End, PromptBatch, Record, Rollout
from cotjax.student.groups import RolloutGroups
from cotjax.student.sampled_json import groups_as_json, groups_from_json
from cotjax.training.evaluation import JudgedCompletion


@pytest.mark.parametrize("drafted", [False, True])
def test_groups_come_back_as_they_were(drafted):
    rng = np.random.default_rng(0)
    logp = rng.normal(size=(2, 2, 3)).astype(np.float32)
    logp[0, 0, 0], logp[0, 0, 1] = -np.inf, 1e-40
    groups = RolloutGroups(
        PromptBatch(
            tokens=rng.integers(0, 9, (2, 4), dtype=np.int32),
            mask=rng.random((2, 4)) < 0.5,
            ids=np.arange(2, dtype=np.int32),
        ),
        Rollout(
            tokens=rng.integers(0, 9, (2, 2, 3), dtype=np.int32),
            mask=rng.random((2, 2, 3)) < 0.5,
            logp=logp,
            entropy=np.abs(logp),
            end=np.array([[0, 1], [2, 0]], np.int32),
            passes=np.array([[1, 2], [2, 1]], np.int32) if drafted else None,
        ),
        [Record(f"r/{i}", "How many?", "7", ("3+4=7", "so 7"), 2, target=9) for i in range(2)],
        [
            [JudgedCompletion("a\u2028é", 3, End.EOS, 0.1, {"correct": 1.0}, "") for _ in range(2)]
            for _ in range(2)
        ],
    )
    again = groups_from_json(json.loads(json.dumps(groups_as_json(groups))))
    for one, other in ((again.prompts, groups.prompts), (again.rollout, groups.rollout)):
        jax.tree.map(np.testing.assert_array_equal, one, other)
        assert jax.tree.map(lambda leaf: leaf.dtype, one) == jax.tree.map(
            lambda leaf: leaf.dtype, other
        )
    assert again.records == groups.records and again.judged == groups.judged
