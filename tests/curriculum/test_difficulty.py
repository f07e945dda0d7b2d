"""How hard examples are: by their solutions, by the student's loss, by its samples, by ranks."""

import json

import jax
import numpy as np
import pytest

from cotjax.core.curriculum import rank_fusion
from cotjax.curriculum.difficulty import Difficulty
from cotjax.data.packing import pack_in_order
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.progress import Progress
from cotjax.student.load import load_policy
from tests.tiny import TOKENIZER, make_config, with_section

RECORDS = [
    Record("r/0", "Mia has 7 pens.", "7", ("7*1=7",), 1),
    Record("r/1", "Tom has 3.", "3", ("2+1=3", "3*1=3", "so 3"), 3),
    Record("r/2", "She buys 2 more.", "9", ("7+2=9", "9"), 2),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    config = make_config(tmp_path_factory.mktemp("difficulty"))
    return config, load_policy(config, make_mesh(1))


def difficulty(opened, name, signals=(), rows=2, length=64, **kept):
    config, student = opened
    config = with_section(config, "curriculum", difficulty=name, signals=tuple(signals), samples=4)
    measure = Difficulty(config, make_mesh(1), student, rows=rows, length=length)
    return measure(student.params, RECORDS, **kept)


def test_of_a_text_are_counted_its_steps_its_tokens_or_its_operations(opened):
    assert difficulty(opened, "cot_steps").tolist() == [1, 3, 2]
    assert difficulty(opened, "cot_operations").tolist() == [1, 2, 1]
    tokens = difficulty(opened, "cot_tokens")
    assert tokens.argsort().tolist() == [0, 2, 1]
    assert tokens[0] >= len(TOKENIZER.encode("7*1=7"))


def dense_loss(opened, record):
    """The mean −log q of the target's tokens, from all logits of one example alone."""
    config, student = opened
    measure = Difficulty(config, make_mesh(1), student)
    example = measure._solutions.encode(record)  # pyright: ignore[reportPrivateUsage]
    batch, _ = pack_in_order([(0, example)], 1, len(example["tokens"]))
    hidden = student.policy.rows(student.params, batch)
    logp = jax.nn.log_softmax(student.policy.head(student.params)(hidden))
    own = np.take_along_axis(np.asarray(logp), batch.targets[..., None], axis=-1)[..., 0]
    return -own[batch.weight > 0].mean()


@pytest.mark.parametrize(("rows", "length"), [(2, 64), (1, 48), (16, 0)])
def test_the_students_loss_is_that_of_each_example_alone_however_rows_are_packed(
    opened, rows, length
):
    expected = [dense_loss(opened, record) for record in RECORDS]
    found = difficulty(opened, "student_loss", rows=rows, length=length)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_pass_rate_is_the_share_of_samples_that_are_wrong(opened):
    wrong = difficulty(opened, "pass_rate")
    assert wrong[2] == 1, "the student says 7 or 3, and never 9"
    assert set(wrong[:2].tolist()) <= {0, 0.25, 0.5, 0.75, 1} and wrong[:2].min() < 1


def test_pass_rates_are_kept_and_a_stopped_run_goes_on_where_it_was(opened, tmp_path, monkeypatch):
    whole = difficulty(opened, "pass_rate")
    np.testing.assert_array_equal(difficulty(opened, "pass_rate", kept_in=tmp_path), whole)
    path = tmp_path / "pass_rate.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["r/0", "r/1", "r/2"]
    path.write_text(lines[0] + lines[1][:9])  # killed while it wrote
    np.testing.assert_array_equal(difficulty(opened, "pass_rate", kept_in=tmp_path), whole)
    assert path.read_text() == "".join(lines)
    monkeypatch.setattr("cotjax.student.generate.generate", None)  # nothing is sampled any more
    np.testing.assert_array_equal(difficulty(opened, "pass_rate", kept_in=tmp_path), whole)


@pytest.mark.parametrize(
    ("name", "what", "at_once"),
    [("student_loss", "measuring the student's loss", 1), ("pass_rate", "measuring pass rates", 4)],
)
def test_what_takes_long_says_how_far_it_is(opened, monkeypatch, name, what, at_once):
    made = []

    class Kept(Progress):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr("cotjax.curriculum.difficulty.Progress", Kept)
    difficulty(opened, name)
    (told,) = made
    assert (told._what, told._done, told._total, told._at_once) == (what, 3, 3, at_once)


def test_signals_are_fused_by_their_ranks(opened):
    signals = "cot_steps", "student_loss"
    parts = [difficulty(opened, name) for name in signals]
    np.testing.assert_array_equal(difficulty(opened, "rank_fusion", signals), rank_fusion(*parts))


def test_the_tokens_of_samples_are_counted_with_their_prompts_and_those_that_are_kept_again(
    opened, tmp_path
):
    config, student = opened
    config = with_section(config, "curriculum", difficulty="pass_rate", samples=4)

    def measured(records):
        measure = Difficulty(config, make_mesh(1), student)
        measure(student.params, records, kept_in=tmp_path)
        return measure.take_tokens(), measure.take_tokens()

    first = measured(RECORDS)
    lines = [json.loads(line) for line in (tmp_path / "pass_rate.jsonl").read_text().splitlines()]
    assert first == (sum(line["tokens"] for line in lines), 0)
    for line, record in zip(lines, RECORDS, strict=True):
        asked = len(TOKENIZER.encode(student.prompts.solve(record.question)))
        assert 4 <= line["tokens"] - asked <= 4 * config.rollout.max_new_tokens
    assert measured(RECORDS) == first, "what an earlier part sampled"
    measure = Difficulty(with_section(config, "curriculum", difficulty="cot_steps"), make_mesh(1),
                         student)  # fmt: skip
    measure(student.params, RECORDS)
    assert measure.take_tokens() == 0
