"""Groups on the host: what they say, how they are joined, and micro-batches of like length."""

import dataclasses

import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.interfaces import End, PromptBatch, Record, Rollout
from cotjax.parallel.mesh import make_mesh
from cotjax.student.groups import RolloutGroups, micro_batch_prompts, padded_length
from cotjax.training.evaluation import JudgedCompletion

WIDTH, GROUP = 200, 2


def make(lengths, rewards, ends=None):
    """Groups of completions of given lengths and rewards; every token tells whose it is."""
    lengths, rewards = np.array(lengths), np.array(rewards, float)
    count = len(lengths)
    ends = np.full(lengths.shape, End.EOS) if ends is None else np.array(ends)
    mask = np.arange(WIDTH) < lengths[..., None]
    tokens = np.where(mask, 1 + np.arange(count)[:, None, None], 0).astype(np.int32)
    prompt = np.arange(count, dtype=np.int32)
    prompts = PromptBatch(np.repeat(prompt[:, None], 4, 1), np.ones((count, 4), bool), prompt)  # pyright: ignore
    zero = np.zeros(tokens.shape, np.float32)
    records = [Record(f"r/{i}", "?", "7", (), 1) for i in range(count)]
    judged = [
        [
            JudgedCompletion(
                "", int(size), End(end), value, {"correct": value > 0, "well_formed": 1.0}
            )
            for size, value, end in zip(*rows, strict=True)
        ]
        for rows in zip(lengths, rewards, ends, strict=True)
    ]
    return RolloutGroups(prompts, Rollout(tokens, mask, zero, zero, ends), records, judged)  # pyright: ignore


GROUPS = make(
    [[3, 70], [5, 5], [130, 9], [2, 66]], [[1, -2], [1, 1], [-2, -2], [0.5, 0.5]],
    [[0, 1], [1, 1], [3, 2], [1, 1]],
)  # fmt: skip


def test_groups_of_equal_rewards_say_nothing():
    np.testing.assert_array_equal(GROUPS.informative, [True, False, False, False])
    np.testing.assert_array_equal(GROUPS.reward[0], [1, -2])
    np.testing.assert_array_equal(GROUPS.finite, [[1, 1], [1, 1], [0, 1], [1, 1]])


def test_a_completion_that_a_nan_ended_is_no_other_reward_of_its_group():
    ends = [[End.NONFINITE, End.EOS, End.STOP], [End.EOS, End.LENGTH, End.EOS]]
    groups = make([[3, 4, 5], [3, 4, 5]], [[1, -2, -2], [1, -2, 1]], ends)
    np.testing.assert_array_equal(groups.informative, [False, True])
    assert groups.metrics()["no_signal"] == 0.5
    np.testing.assert_array_equal(groups.informative_among(groups.rollout.ended), [False, False])


def test_metrics_are_means_over_completions():
    metrics = GROUPS.metrics()
    assert metrics["accuracy"] == 5 / 8 and metrics["reward"] == pytest.approx(-0.25)
    assert metrics["completion_tokens"] == 290 / 8 and metrics["no_signal"] == 0.75
    assert metrics["truncated"] == 2 / 8, "a length limit and a NaN are no end"
    assert metrics["nonfinite"] == 1 and metrics["well_formed"] == 1


def test_completions_that_say_the_same_are_a_share_of_their_group():
    groups = make([[3] * 4] * 2, [[1] * 4] * 2)
    same = GROUPS.judged[0][0]
    group = [dataclasses.replace(same, text=text) for text in ("a", "b", "a", "c")]
    groups = dataclasses.replace(groups, judged=[group, [same] * 4])
    assert groups.metrics()["repeated"] == (0.5 + 1) / 2


def ids(groups):
    return [record.id for record in groups.records]


def test_some_groups_and_joined_ones_keep_all_that_belongs_together():
    some = GROUPS.take([2, 0])
    assert ids(some) == ["r/2", "r/0"] and some.judged == [GROUPS.judged[2], GROUPS.judged[0]]
    np.testing.assert_array_equal(some.prompts.ids, [2, 0])
    np.testing.assert_array_equal(some.rollout.tokens[0, 0, :2], [3, 3])
    both = some.join(GROUPS.take([3]))
    assert ids(both) == ["r/2", "r/0", "r/3"] and len(both.judged) == len(both.prompts.ids) == 3


def micros(groups, counts=None, prompts=2, longest=WIDTH):
    counts = np.ones((len(groups.records), GROUP), bool) if counts is None else counts
    advantage = np.arange(2 * len(groups.records), dtype=np.float32).reshape(-1, 2)
    return list(
        groups.micro_batches(advantage, counts, prompts=prompts, longest=longest, pad_id=99)
    )


def test_like_lengths_go_together_and_no_completion_is_cut():
    short, long = micros(GROUPS)
    assert short.completion.shape[-1] == 128 and long.completion.shape[-1] == WIDTH
    whose = [np.asarray(one.prompt)[:, 0].tolist() for one in (short, long)]
    assert sorted(whose[0]) == [1, 3] and sorted(whose[1]) == [0, 2]
    assert sum(int(one.completion_mask.sum()) for one in (short, long)) == 290
    for one, numbers in zip((short, long), whose, strict=True):
        assert np.asarray(one.advantage).tolist() == [[2 * i, 2 * i + 1] for i in numbers]


def test_what_does_not_count_teaches_nothing_and_a_nan_s_tokens_are_replaced():
    counts = GROUPS.finite
    made = micros(GROUPS, counts, prompts=4)[0]
    (row,) = np.flatnonzero(np.asarray(made.prompt)[:, 0] == 2)
    mask, tokens = np.asarray(made.completion_mask)[row], np.asarray(made.completion)[row]
    assert not mask[0].any() and mask[1].sum() == 9
    assert (tokens[0] == 99).all() and (tokens[1][mask[1]] == 3).all()


def test_a_group_of_nans_hides_its_prompt_too():
    made = make([[3, 4]], [[1, 1]], [[3, 3]])
    (one,) = micros(made, made.finite, prompts=1)
    assert (np.asarray(one.prompt) == 99).all() and not np.asarray(one.completion_mask).any()


def test_a_micro_batch_is_as_wide_as_its_longest_prompt_needs():
    prompts = np.zeros((3, 6), np.int32)
    mask = np.zeros((3, 6), bool)
    for row, size in enumerate((1, 6, 2)):  # left-padded
        prompts[row, 6 - size :], mask[row, 6 - size :] = row + 1, True
    made = make([[3, 4], [200, 9], [5, 6]], [[1, 0]] * 3)
    made = dataclasses.replace(made, prompts=PromptBatch(prompts, mask, np.arange(3)))  # pyright: ignore
    counts, advantage = np.ones((3, 2), bool), np.zeros((3, 2), np.float32)
    cut = lambda widths: [  # noqa: E731
        (one.prompt.shape[1], np.asarray(one.prompt)[np.asarray(one.prompt_mask)].tolist())
        for one in made.micro_batches(
            advantage, counts, prompts=1, longest=WIDTH, pad_id=0, widths=widths
        )
    ]
    assert cut((2, 4, 6)) == [(2, [1]), (2, [3, 3]), (6, [2] * 6)]
    assert [width for width, _ in cut(())] == [6, 6, 6]


def test_groups_of_narrow_and_wide_prompts_are_joined():
    narrow = dataclasses.replace(
        GROUPS,
        prompts=PromptBatch(
            *(leaf[:, -1:] for leaf in (GROUPS.prompts.tokens, GROUPS.prompts.mask)),
            GROUPS.prompts.ids,
        ),
    )
    for both in (GROUPS.join(narrow), narrow.join(GROUPS)):
        assert both.prompts.tokens.shape == both.prompts.mask.shape
        assert both.prompts.mask.sum() == GROUPS.prompts.mask.sum() + narrow.prompts.mask.sum()
        assert (both.prompts.tokens[:, -1:] == np.concatenate([narrow.prompts.tokens] * 2)).all()


@pytest.mark.parametrize(
    ("longest", "limit", "size"),
    [(1, 256, 64), (64, 256, 64), (129, 512, 256), (200, 200, 200), (3, 8, 8)],
)
def test_completions_are_cut_to_a_few_widths(longest, limit, size):
    assert padded_length(longest, limit) == size


@pytest.mark.parametrize(
    ("per_device", "devices", "size"), [(0, 1, 16), (4, 1, 4), (4, 2, 8), (4, 8, 16), (16, 1, 16)]
)
def test_a_micro_batch_counts_prompts_per_device(per_device, devices, size):
    assert micro_batch_prompts(per_device, 16, make_mesh(devices)) == size


def test_a_micro_batch_that_does_not_divide():
    with pytest.raises(InputError, match="policy.micro_batch = 3: .* rollout.prompts = 16"):
        micro_batch_prompts(3, 16, make_mesh(2))
