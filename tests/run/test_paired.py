"""Models on the same questions: paired numbers, and a refusal where the questions are others."""

import pytest

from cotjax.errors import InputError
from cotjax.report.statistics import bootstrap_interval, mcnemar
from cotjax.run.paired import configs_of, paired, sentences
from tests.tiny import write_student


def rows(marks, tokens, questions=None):
    questions = questions or [f"What is {place}?" for place in range(len(marks))]
    return [
        {
            "id": f"q/{place}",
            "question": question,
            "parts": {"correct": float(mark)},
            "tokens": size,
        }
        for place, (mark, size, question) in enumerate(zip(marks, tokens, questions, strict=True))
    ]


A, B = rows([1, 0, 0, 0, 0, 0, 0], [9] * 7), rows([1, 1, 1, 1, 1, 1, 1], [5, 7, 5, 7, 5, 7, 5])


def test_the_numbers_are_those_of_the_statistics():
    found = paired(A, B[::-1], "A B")  # the order is the first's
    assert (found.questions, found.only_first, found.only_second) == (7, 0, 6)
    assert found.p == mcnemar([True] * 6, [False] * 6)
    assert found.accuracy == bootstrap_interval([0, 1, 1, 1, 1, 1, 1])
    assert found.tokens == bootstrap_interval([-4, -2, -4, -2, -4, -2, -4])


def test_it_is_told_in_lines_that_fit():
    told = sentences("runs/a", "runs/b", paired(A, B, "A B"))
    assert "more right answers, by more than chance (McNemar p = 0.031)" in told
    assert "right alone     6, the other 0" in told
    assert max(map(len, told.splitlines())) <= 62
    equal = sentences("a", "b", paired(A[:1], B[:1], "A B"))
    assert "no more right answers than chance explains" in equal and "nan" not in equal


@pytest.mark.parametrize(
    "other", [A[:6], rows([1] * 7, [1] * 7, ["Why?"] * 7), [{**row, "id": "x"} for row in A]]
)
def test_other_questions_are_refused(other):
    with pytest.raises(InputError, match="A B: . of . questions were asked of one of them alone"):
        paired(A, other, "A B")


def test_nothing_at_all_is_refused():
    with pytest.raises(InputError, match="Measure both on the same problems"):
        paired([], [], "A B")


def test_a_model_is_measured_with_the_settings_of_the_run(trained, tmp_path):
    base = write_student(tmp_path / "base")
    model, run = configs_of([base, str(trained.folder)], ["--eval.samples=2"])
    assert model.model.path == base and run.model.path != base
    assert model.data == run.data and model.eval == run.eval and run.eval.samples == 2


def test_models_that_are_measured_otherwise_are_refused(trained, listed):
    names = [str(trained.folder), str(listed.folder)]
    for flags in ([], ["--eval.max-new-tokens=8", "--rollout.max-prompt-tokens=32"]):
        configs_of(names, flags)
    file = trained.folder / "config.toml"
    text = file.read_text()
    try:
        file.write_text(text.replace("[eval]", '[eval]\nverifier = "exact"').replace(
            'verifier = "auto"\n', ""))  # fmt: skip
        with pytest.raises(InputError, match='eval.verifier is "exact" in one and "auto" in the'):
            configs_of(names, [])
        configs_of(names, ["--eval.verifier=exact"])
    finally:
        file.write_text(text)
