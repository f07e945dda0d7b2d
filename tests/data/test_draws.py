"""Random numbers of records: as good as a generator's, and nobody's draws change another's."""

import itertools

import numpy as np

from cotjax.data.draws import READY, draws


def numbers(count, records=4, seed=0):
    """`count` numbers of each record."""
    made = draws(np.random.default_rng(seed), records)
    return [[one.random() for _ in range(count)] for one in made]


def test_the_seed_decides_all_numbers_and_no_two_are_equal():
    assert numbers(3 * READY) == numbers(3 * READY) != numbers(3 * READY, seed=1)
    flat = list(itertools.chain(*numbers(3 * READY)))
    assert len(set(flat)) == len(flat) and all(0 <= number < 1 for number in flat)


def test_how_many_a_record_takes_changes_no_other_s():
    for count in (1, READY, 5 * READY):
        made = draws(np.random.default_rng(0), 2)
        first, second = next(made), next(made)
        for _ in range(count):
            first.random()
        assert [second.random() for _ in range(3)] == numbers(3, records=2)[1]


def test_numbers_are_uniform_before_and_behind_the_ready_ones():
    drawn = np.array(numbers(2 * READY, records=2000))
    for part in (drawn[:, :READY], drawn[:, READY:]):
        np.testing.assert_allclose(part.mean(), 0.5, atol=0.01)
        np.testing.assert_allclose(part.var(), 1 / 12, atol=0.01)
