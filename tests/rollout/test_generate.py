"""Which engine `generate` takes."""

import pytest

from cotjax.rollout import generate as module
from cotjax.rollout.plan import Sampling
from tests.rollout.test_engine import KEY, PARAMS, POLICY, PROMPTS


@pytest.mark.parametrize(("draft", "name"), [(0, "Engine"), (2, "SpeculativeEngine")])
def test_drafts_take_the_speculative_engine(monkeypatch, draft, name):
    taken = []

    class Taken:
        def __init__(self, *about):
            taken.append(about[4].draft_tokens)

        def run(self):
            return name

    monkeypatch.setattr(module, name, Taken)
    settings = Sampling(4, 6, eos_id=0, pad_id=1, draft_tokens=draft)
    plain = module.generate.__wrapped__
    assert plain(POLICY, PARAMS, PROMPTS, KEY, settings=settings) == name and taken == [draft]
