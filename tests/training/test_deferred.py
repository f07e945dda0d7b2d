"""Parts of a state that are made when it is saved, and not before."""

from cotjax.training.deferred import Deferred, settled


def test_what_is_deferred_is_made_when_it_is_settled_and_wherever_it_lies():
    made = []

    def make():
        made.append(1)
        return {"inner": Deferred(lambda: [2])}

    state = {"now": [1], "later": {"one": Deferred(make)}}
    assert not made
    assert settled(state) == {"now": [1], "later": {"one": {"inner": [2]}}}
    assert made == [1]


def test_a_state_without_such_parts_stays_as_it_is():
    state = {"position": {"next": 3}, "seen": [0.5]}
    assert settled(state) == state
