"""The tables: means, paired differences, and a note for whatever a reader must know."""

import dataclasses

import pytest

from cotjax.experiment.cells import cells
from cotjax.experiment.plan import read_experiment
from cotjax.experiment.results import append, read_rows
from cotjax.experiment.table import by_arm, tables
from tests.experiment.conftest import TEXT


@pytest.fixture
def told(write):
    def told(*rows):
        return tables(read_experiment(write()), rows)

    return told


def test_arms_are_means_over_seeds_with_the_base_first(told, row):
    text = told(row("sft", 0, "11110000"), row("sft", 1, "11000000"), row("base", 0, "10000000"))
    lines = text.splitlines()
    assert lines[2].startswith("| base |  | 12.5 % | 6.2 %")
    assert (
        lines[3].startswith("| sft | 2 | 37.5 ± 158.8 % |")
        and "| 37.5 ± 0.0 % | 0.00 M | 5 |" in lines[3]
    )


def test_differences_are_paired_by_seed_and_by_question(told, row):
    text = told(
        *(row("sft", seed, "00000000", 20) for seed in (0, 1)),
        *(row("list", seed, "11111111", 15) for seed in (0, 1)),
    )
    line = next(line for line in text.splitlines() if line.startswith("| list | **"))
    assert "**+100.0 (+100.0 to +100.0)** | **+100.0 (+100.0 to +100.0)** | 0.008, 0.008" in line
    assert line.endswith("**-5.0 (-5.0 to -5.0)** | **-5.0 (-5.0 to -5.0)** |")


def test_the_base_is_paired_with_every_seed(told, row):
    text = told(row("base"), row("sft", 0), row("sft", 1))
    assert "| base | +0.0 (+0.0 to +0.0) | +0.0 (+0.0 to +0.0) | 1.000, 1.000 |" in text


def test_runs_on_other_questions_are_not_paired(told, row):
    text = told(row("sft", 0), row("list", 0, questions="other"))
    assert "| list | no seed of both on the same questions |" in text
    assert "Not all runs answered the same questions" in text


def test_what_failed_is_missing_or_mixed_is_said(told, row):
    text = told(
        row("sft", 0), row("sft", 1, commit="d"), row("list", 0, status="failed", error="x")
    )
    assert "list with seed 0 failed, and is not in the tables: x" in text
    assert "Not run yet: list with seed 1." in text
    assert "Runs of 2 commits are mixed: sft 0: c, sft 1: d, list 0: c." in text
    assert "Chosen: nothing." in text


def test_an_arm_off_the_budget_is_said(told, row):
    text = told(row("sft", 0, used_tokens={"trained": 600, "sampled": 500}))
    assert "sft used 1,100 tokens, +10% of the budget of 1,000." in text
    assert "of the budget" not in told(row("sft", 0, used_tokens={"trained": 1040}))


def test_without_the_arm_that_is_compared_with_it_says_so(told, row):
    assert "No run of sft, against which the arms are to be compared" in told(row("list", 0))


def test_only_what_ended_counts(row):
    rows = [row("a", 1), row("a", 0), row("b", 0, status="failed"), row("base")]
    assert {arm: [one.seed for one in found] for arm, found in by_arm(rows).items()} == {
        "base": [0],
        "a": [0, 1],
    }


def test_seeds_answer_the_same_questions_and_are_no_further_evidence_for_mcnemar(told, row):
    right, wrong = "1111100000000000", "0000000000000000"
    text = told(row("base", 0, right), *(row("sft", seed, wrong) for seed in (0, 1)))
    line = next(line for line in text.splitlines() if line.startswith("| base | **"))
    assert "| 0.062, 0.062 |" in line


def test_a_run_that_began_from_another_student_is_said(told, row):
    text = told(row("base", 0, began="a"), row("sft", 0, began="a"), row("sft", 1, began="b"))
    assert "sft with seed 1 began from another student than the base, or asks" in text
    assert "seed 0 began" not in text


def test_the_seeds_that_were_asked_for_are_missed(write, row):
    text = tables(read_experiment(write()), [row("sft", 100)], seeds=[100])
    assert "Not run yet: list with seed 100." in text


def test_arms_are_compared_on_the_way(told, row):
    def at(*accuracies):
        return [(share, {"accuracy": one}) for share, one in zip((0, 0.26, 0.5, 1), accuracies)]  # noqa: B905

    rows = [row("sft", seed, curve=()) for seed in (0, 1)] + [row("list", seed) for seed in (0, 1)]
    rows = [
        dataclasses.replace(
            one, curve=at(0.1, 0.2, 0.3, 0.4) if one.arm == "sft" else at(0.1, 0.3, 0.5, 0.3)
        )
        for one in rows
    ]
    line = told(*rows).splitlines()
    head = next(
        place for place, one in enumerate(line) if one == "| arm | 25% | 50% | 75% | 100% |"
    )
    assert line[head + 2] == (
        "| list | **+10.0 (+10.0 to +10.0)** | **+20.0 (+20.0 to +20.0)** |  "
        "| **-10.0 (-10.0 to -10.0)** |"
    )


def test_one_seed_is_compared_by_question_on_the_way(told, row):
    curve = [(0.5, {"accuracy": 0.5})]
    sheets = {"sft": "11110000", "list": "11111111"}
    rows = [
        dataclasses.replace(row(arm), curve=curve, curve_right=[sheet])
        for arm, sheet in sheets.items()
    ]
    rows[1].curve[0] = (0.5, {"accuracy": 1.0})
    assert "| list |  | **+50.0 (+12.5 to +87.5)** |  |  |" in told(*rows)


def test_the_base_stands_still_on_the_way(write, row):
    path = write(TEXT, a=('against = "sft"', 'against = "base"'))
    text = tables(
        read_experiment(path), [row("base", right="10000000"), row("sft", curve=(0.1, 0.5))]
    )
    assert "| sft |  |  |  | +37.5 |" in text


def test_rows_that_the_file_would_not_give_are_said(write, row):
    experiment = read_experiment(write())
    marks = {(cell.arm, cell.seed): cell.fingerprint() for cell in cells(experiment)}
    same = row("sft", 0, fingerprint=marks["sft", 0])
    assert "than compare.toml has now" not in tables(experiment, [row("base"), same])
    text = tables(experiment, [same, row("sft", 1), row("sft", 7), row("gone", 0)])
    assert "Run with other settings than compare.toml has now: sft with seed 1." in text
    assert "no arm and seed of compare.toml: sft with seed 7, gone with seed 0." in text


def test_the_validation_runs_are_no_strangers_among_themselves(write, row):
    experiment = read_experiment(write())
    (cell,) = [one for one in cells(experiment, validation=True) if one.arm == "sft"]
    rows = [row("sft", 100, fingerprint=cell.fingerprint())]
    text = tables(experiment, rows, seeds=experiment.validation_seeds)
    assert "compare.toml" not in text
    assert "no arm and seed of compare.toml: sft with seed 100." in tables(experiment, rows)


def test_a_run_that_went_on_with_other_code_is_a_mixture_by_itself(told, row):
    text = told(row("sft", 0, commit="c, d"), row("sft", 1, commit="c, d"))
    assert "Runs of 2 commits are mixed: sft 0: c, d, sft 1: c, d." in text


def test_a_single_run_off_the_budget_is_said(told, row):
    used = [1000, 1000, 880]
    rows = [row("sft", seed, used_tokens={"trained": one}) for seed, one in enumerate(used)]
    text = told(*rows)
    assert "sft with seed 2 used 880 tokens, -12% of the budget of 1,000." in text
    assert text.count("of the budget of") == 1


def test_a_run_without_a_counterpart_is_said(told, row):
    text = told(row("sft", 0), row("list", 0), row("list", 1), row("base"))
    assert "list with seed 1 is not compared: sft has no such run." in text
    assert text.count("is not compared") == 1


def test_fewer_seeds_on_the_way_are_said(told, row):
    whole = [(share, {"accuracy": 0.5}) for share in (0, 0.25, 0.5, 0.75, 1)]
    rows = [row(arm, seed) for seed in (0, 1) for arm in ("sft", "list")]
    rows = [dataclasses.replace(one, curve=whole[: 5 - (one.arm == "list")]) for one in rows]
    rows[3] = dataclasses.replace(rows[3], curve=whole)
    assert "+0.0, 1 of 2 seeds |" in told(*rows)


def test_arms_that_were_evaluated_elsewhere_on_the_way_say_so(told, row):
    def at(*shares):
        return [(share, {"accuracy": 0.5}) for share in shares]

    sft = dataclasses.replace(row("sft"), curve=at(0, 0.25, 0.5, 0.75, 1))
    near = dataclasses.replace(row("list"), curve=at(0, 0.26, 0.51, 0.75, 1))
    assert "was evaluated at" not in told(row("base"), sft, near)
    far = dataclasses.replace(row("list"), curve=at(0, 0.21, 0.46, 0.73, 1))
    assert (
        "list was evaluated at 21%, 46%, 73% of the budget on the way, sft at 25%, 50%, 75%"
        in told(row("base"), sft, far)
    )


def test_a_stage_that_was_left_out_is_said(told, row):
    text = told(row("sft", 0), row("list", 0, left_out=["2-rewrite"]))
    assert "list with seed 0 left out 2-rewrite, which found nothing to do." in text


def test_a_run_whose_answers_are_lost_is_not_paired_and_stops_nothing(told, row, tmp_path):
    """A kill between an evaluation's line and its answers leaves numbers without answers."""
    lost = row("list", 0, lengths=[], questions="none")
    append(tmp_path / "a.jsonl", row("sft", 0), dataclasses.replace(lost, right=""))
    text = told(*read_rows(tmp_path / "a.jsonl"))
    assert "| list | no seed of both on the same questions |" in text


def test_a_budget_smaller_than_a_step_is_explained(told, row):
    text = told(row("sft", 0, steps=1, used_tokens={"trained": 9000}))
    assert "of the budget of 1,000. One step uses more: lower batch.size" in text
    assert "One step" not in told(row("sft", 0, steps=2, used_tokens={"trained": 9000}))
    assert "One step" in told(row("list", 0, steps=2, used_tokens={"trained": 9000}))
    assert "One step" not in told(row("sft", 0, steps=1, used_tokens={"trained": 100}))


def test_questions_of_one_id_and_other_words_are_not_paired(told, row):
    """As built-in problems of another `data.max_steps` are, or with new words in one arm alone."""
    rows = [row("sft", 0, texts="short"), row("list", 0, texts="long")]
    text = told(*rows)
    assert "| list | no seed of both on the same questions |" in text
    assert "Not all runs answered the same questions" in text
    earlier = told(rows[0], row("list", 0))
    assert "no seed of both" not in earlier and "Not all runs" not in earlier
