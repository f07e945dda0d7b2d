"""Each guard sees the accident that is planted for it, names it, and is silent without it."""

import dataclasses
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cotjax.cot import Rationale, render_rationale
from cotjax.interfaces import End, PromptBatch, Record, Rollout
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.student import guards
from cotjax.training.evaluation import JudgedCompletion

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k" / "test.jsonl"
TOKENIZER = load_tokenizer(resolve("tiny"))
RECORD = Record("r/1", "Mia has 7 pens. She buys 5 more.", "12", ("7+5=12", "12*1=12"), 2)
TARGET = render_rationale(Rationale(steps=RECORD.steps, answer=RECORD.answer))
END, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id


# Leaks.


def test_a_prompt_with_the_full_target_is_a_leak_however_it_is_spaced():
    # The released second stage hands the sampler the prompt with the full target behind it.
    honest = f"Question: {RECORD.question}\nPartial:\n- [MASK]\n- 12*1=12\nComplete:\n"
    assert guards.leak_guard([honest], [RECORD]) == ()
    for accident in (honest + TARGET, honest + TARGET.replace("\n", "\n\n  ") + "<end>"):
        for shows_steps in (False, True):
            (said,) = guards.leak_guard([accident, honest], [RECORD] * 2, shows_steps=shows_steps)
            assert said.startswith("leak guard: 1 of 2 prompts") and "r/1" in said


def test_the_released_accident_is_seen_in_tokens():
    ids = TOKENIZER.encode(f"Question: {RECORD.question}\n{TARGET}")
    assert guards.leak_guard([TOKENIZER.decode(ids)], [RECORD])


def test_all_steps_are_a_leak_unless_they_are_shown_by_design():
    prompt = f"{RECORD.question}\n- 12*1=12\n- 7+5=12"
    assert guards.leak_guard([prompt], [RECORD])
    assert guards.leak_guard([prompt], [RECORD], shows_steps=True) == ()


def test_the_answer_line_is_a_leak_and_a_longer_number_is_not():
    assert guards.leak_guard(["Question ... Answer: 12"], [RECORD])
    assert guards.leak_guard(["Question ... Answer: 120"], [RECORD]) == ()


# No signal.


def one(reward=1.0, correct=1.0, tokens=9, ended=True):
    return JudgedCompletion("", tokens, ended, reward, {"correct": correct, "well_formed": 1.0})


def test_a_batch_that_teaches_is_silent():
    assert guards.no_signal([[one(), one(-2.0, 0.0)], [one(), one(0.9)]]) == ()


@pytest.mark.parametrize(
    ("group", "words"),
    [
        # The released stop rule fires on the prompt, so every completion is one token.
        ([one(-2.0, 0.0, tokens=1)] * 2, "at most one token"),
        ([one(-2.0, 0.0, ended=False)] * 2, "every completion was cut off"),
        ([one(-2.0, 0.0), one(-2.0, 0.0)], "every completion is wrong"),
        ([one(), one()], "every reward is equal"),
    ],
)
def test_a_batch_without_signal_says_why(group, words):
    found = guards.no_signal([group] * 3)
    assert all(said.startswith("no signal: ") for said in found)
    assert any(words in said for said in found)


# Golds.


def released(text):
    """The pattern of the release."""
    found = re.search(r"####\s*(\d+)", text)
    return found[1] if found else None


def gsm8k():
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K} is not there")
    for number, line in enumerate(GSM8K.read_text("utf-8").splitlines(), 1):
        gold = json.loads(line)["answer"].split("####")[1].strip().replace(",", "")
        assert Fraction(gold).denominator >= 1
        yield Record(f"test.jsonl:{number}", "", gold, ("a step",), 1), line


def test_every_gold_of_gsm8k_is_recovered():
    records = [record for record, _ in gsm8k()]
    assert len(records) == 1319
    assert guards.gold_check(records) == ()


class Released:
    """The release's verifier."""

    def extract(self, text):
        return released(text.replace("Answer:", "####"))

    def equal(self, answer, gold):
        return answer == gold


def test_the_released_pattern_misreads_golds_and_the_check_names_it():
    golds = [dataclasses.replace(RECORD, answer=text) for text in ("1,234", "-5", "18")]
    (said,) = guards.gold_check(golds, Released())
    assert said.startswith("gold check: ") and "2 of 3" in said
    assert guards.gold_check(golds) == ()


# The end token.


def rollout(mask_by_id=False):
    """Two completions padded with the end token, which is the pad token."""
    tokens = np.array([[[5, 6, END, END], [5, 6, 7, 8]]])
    mask = np.array([[[1, 1, 1, 0], [1, 1, 1, 1]]], bool)
    if mask_by_id:
        mask = tokens != END
    zero = np.zeros(tokens.shape)
    host = tokens, mask, zero, zero, np.array([[End.EOS, End.LENGTH]])
    return Rollout(*host)  # pyright: ignore[reportArgumentType]


def test_a_mask_made_by_comparing_ids_drops_the_end_token_and_is_named():
    assert guards.end_check(rollout(), [END]) == ()
    (said,) = guards.end_check(rollout(mask_by_id=True), [END])
    assert said.startswith("EOS = pad check: in 1 of 2 completions")


def test_a_supervised_row_without_its_end_is_named():
    targets = np.array([[5, END, 6, 7, END, PAD]])
    segment = np.array([[1, 1, 2, 2, 2, 0]])
    weight = np.array([[1, 1, 0, 1, 1, 0]], float)
    assert guards.supervised_end_check(targets, weight, segment, END) == ()
    (said,) = guards.supervised_end_check(targets, weight * (targets != END), segment, END)
    assert said.startswith("EOS = pad check: 2 of 2 examples")


# Seeds.


def drawn(same, nats=9.0):
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 400, (2, 3, 12))
    if same:
        tokens[:] = tokens[:, :1]
    zero = np.zeros(tokens.shape)
    entropy = zero + nats / tokens.shape[-1]
    host = tokens, np.ones(tokens.shape, bool), zero, entropy, np.zeros((2, 3), int)
    return Rollout(*host)  # pyright: ignore[reportArgumentType]


def asked(*ids):
    tokens = np.zeros((len(ids), 2), int)
    return PromptBatch(tokens, tokens == 0, np.array(ids))  # pyright: ignore[reportArgumentType]


def test_one_key_for_all_completions_is_named():
    assert guards.repeated_seed(asked(0, 1), drawn(same=False)) == ()
    assert guards.repeated_seed(asked(0, 1), drawn(same=True, nats=1.0)) == ()  # a sure student
    (said,) = guards.repeated_seed(asked(0, 1), drawn(same=True))
    assert said.startswith("repeated seed: in 2 of 2 groups")


def test_a_filter_that_leaves_no_choice_is_no_key_of_all():
    (said,) = guards.repeated_seed(asked(0, 1), drawn(same=True), filters="rollout.top_k = 1")
    assert said.startswith("repeated text: in 2 of 2 groups") and "rollout.top_k = 1" in said
    assert guards.repeated_seed(asked(0, 1), drawn(same=False), filters="rollout.top_k = 1") == ()


def test_two_prompts_with_one_id_are_named():
    (said,) = guards.repeated_seed(asked(4, 4), drawn(same=False))
    assert said.startswith("repeated seed: 2 prompts have 1 different ids")
