"""Reconstruction: shuffled, partly masked steps as prompts, the whole rationale as target."""

import functools

import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.reconstruct import Reconstruct, Reconstruction
from cotjax.stages.supervised import solution_encoder
from cotjax.student import guards
from tests.tiny import STUDENT, make_config

STEPS = tuple(f"{i}0+1={i}1" for i in range(2, 8))
RECORD = Record("r/1", "How many?", "71", STEPS, 6)
SOLVE = STUDENT.prompts.solve(RECORD.question)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("masked")


@functools.cache
def encoder(folder, *flags):
    config = make_config(folder, "--stage=reconstruct", "--reconstruct.solve-share=0",
                         "--batch.sequence-length=256", *flags)  # fmt: skip
    solution = solution_encoder(STUDENT, config)
    return Reconstruction(solution, config.reconstruct, config.mask, STUDENT.tokenizer)


def row(folder, *flags, record=RECORD, seed=0):
    """(prompt, target, the target's weights) of an encoded record."""
    encoded = encoder(folder, *flags)(record, np.random.default_rng(seed))
    counted = encoded["weight"] > 0
    decode = STUDENT.tokenizer.decode
    shown = decode(encoded["tokens"][: np.argmax(counted) + 1])
    return shown, decode(encoded["targets"][counted][:-1]), encoded["weight"][counted]


def test_the_target_is_the_whole_rationale_in_order(folder):
    shown, target, weight = row(folder)
    expected = "\n".join([*(f"Step {k}: {s}" for k, s in enumerate(STEPS, 1)), "Answer: 71"])
    assert target == expected and (weight == 1).all()
    assert guards.leak_guard([shown], [RECORD], shows_steps=True) == ()


def test_one_step_is_masked_with_probability_seven_tenths_then_all_are_shuffled(folder):
    texts = [row(folder, seed=seed)[0] for seed in range(200)]
    masked = [text.count("[MASK]") for text in texts]
    assert set(masked) == {0, 1} and 0.6 < np.mean(masked) < 0.8
    orders = {tuple(sorted((s for s in STEPS if s in text), key=text.index)) for text in texts}
    assert len(orders) > 150


def test_options_of_masking_and_shuffling(folder):
    text, *_ = row(
        folder,
        *("--reconstruct.mask-count=2", "--reconstruct.mask-probability=1"),
        *("--reconstruct.shuffle-probability=0", "--mask.token=?"),
    )
    shown = [step for step in STEPS if step in text]
    assert text.count("- ?") == 2 and len(shown) == 4
    assert shown == sorted(shown, key=text.index)
    text, *_ = row(folder, "--reconstruct.solve-share=1")
    assert text == SOLVE


def test_tokens_of_masked_steps_may_weigh_more(folder):
    flags = "--reconstruct.mask-probability=1", "--reconstruct.masked-weight=3"
    shown, target, weight = row(folder, *flags)
    (hidden,) = (number for number, step in enumerate(STEPS, 1) if step not in shown)
    line = f"Step {hidden}: {STEPS[hidden - 1]}"
    offsets = STUDENT.tokenizer(target, return_offsets_mapping=True)["offset_mapping"]
    begin = target.index(line)
    inside = [begin <= start and end <= begin + len(line) for start, end in offsets]
    np.testing.assert_array_equal(weight[:-1][inside], 3)
    assert weight[-1] == 1 and set(weight) == {1, 3}
    assert (weight == 3).sum() <= sum(inside) + 1  # the line end before it, at most


def test_records_without_a_step_are_left_out_and_counted(folder):
    path = folder / "steps.jsonl"
    rows = ['{"question": "?", "answer": "7*1=7\\n#### 7"}'] * 3
    path.write_text("\n".join([*rows, '{"question": "?", "answer": "#### 7"}', rows[0]]))
    flags = "--stage=reconstruct", f"--data.path={path}", "--eval.problems=1"
    stage = Reconstruct.from_config(make_config(folder, *flags), make_mesh(1))
    assert "Left out 1 records without a step." in stage.notes
    path.write_text('{"question": "?", "answer": "#### 7"}\n' * 3)
    with pytest.raises(InputError, match="no record has a step to reconstruct"):
        Reconstruct.from_config(make_config(folder, *flags), make_mesh(1))


@pytest.mark.parametrize("share", [0, 1])
def test_no_row_is_longer_than_the_longest(folder, share):
    flags = f"--reconstruct.solve-share={share}", "--reconstruct.mask-probability=0.2"
    encode = encoder(folder, *flags)
    sizes = {len(encode(RECORD, np.random.default_rng(seed))["tokens"]) for seed in range(50)}
    assert max(sizes) == encode.longest(RECORD)
