"""What stages that sample share: when the stream is opened, and judged groups."""

import numpy as np
import pytest

from cotjax.parallel.mesh import make_mesh
from cotjax.stages.grpo import Grpo
from cotjax.stages.rft import Rft
from cotjax.stages.rollouts import RolloutStage, examples
from tests.tiny import make_config


@pytest.mark.parametrize("own", [Grpo, Rft])
def test_both_kinds_sample_the_same_groups(tmp_path_factory, own):
    folder = tmp_path_factory.mktemp(own.__name__)
    config = make_config(folder, f"--stage={own.__name__.lower()}")
    stage = own.from_config(config, make_mesh(1))
    assert isinstance(stage, RolloutStage) and "stream" not in vars(stage)
    stage.prepare(folder)
    assert "stream" in vars(stage)
    groups, metrics = stage.sample(stage.state.params, 0)
    assert groups.reward.shape == (4, 4) == np.asarray(groups.rollout.ended).shape
    assert metrics["sampled_tokens"] == groups.tokens and metrics["rollout_s"] > 0
    rows = examples(groups, stage.student.tokenizer)
    assert [row["id"] for row in rows] == [one.id for one in groups.records[:2] for _ in range(2)]
    texts = [one.text for group in groups.judged[:2] for one in group[:2]]
    assert [row["completion"] for row in rows] == texts
    for row, place in zip(rows, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        mask = np.asarray(groups.rollout.mask)[place]
        np.testing.assert_allclose(
            row["logp"], np.asarray(groups.rollout.logp)[place][mask], atol=6e-3
        )
        assert len(row["letters"]) == row["tokens"] and sum(row["letters"]) == len(
            row["completion"]
        )
        assert ("prompt" in row) == (place[1] == 0) and "advantage" not in row
        assert place[1] or row["question"] in row["prompt"]


def test_drafts_change_no_completion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafts")
    found = []
    for draft in (0, 3):
        stage = Grpo.from_config(
            make_config(folder, "--stage=grpo", f"--rollout.draft-tokens={draft}"), make_mesh(1)
        )
        stage.prepare(folder)
        found.append(stage.sample(stage.state.params, 0))
    (plain, without), (fast, having) = found
    np.testing.assert_array_equal(fast.rollout.tokens, plain.rollout.tokens)
    np.testing.assert_array_equal(fast.reward, plain.reward)
    assert "tokens_per_pass" not in without | plain.metrics() and having["tokens_per_pass"] >= 1
