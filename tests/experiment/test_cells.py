"""The runs of an experiment: what its file makes of each arm and seed."""

import pytest

from cotjax.errors import InputError
from cotjax.experiment.cells import UNBOUNDED, cells, config_of, part_of
from cotjax.experiment.plan import CURVE, read_experiment


def test_every_arm_has_the_budget_the_questions_and_the_seed(write):
    found = list(cells(read_experiment(write())))
    assert [cell.name for cell in found] == ["base-0", "sft-0", "list-0", "sft-1", "list-1"]
    config = config_of(found[3])
    assert (config.seed, config.budget.tokens, config.steps) == (1, 1000, UNBOUNDED)
    assert (config.eval.problems, config.eval.start, config.eval.at) == (8, 0, CURVE)
    assert config.batch.size == 4, "settings of all arms that this one reads"


def test_an_arm_leaves_out_what_of_the_common_settings_does_nothing_in_it(write):
    common = "[settings]\ncurriculum = { pacing = 'contiguous' }"
    more = '[arms.buckets]\nstage = "grpo"\ncurriculum = { buckets = 2, advance_after = 4 }\n'
    base, buckets, *_ = cells(
        read_experiment(write(a=("[settings]", common), b=("[arms.base]", f"[arms.base]\n{more}")))
    )
    assert "curriculum" not in base.table
    assert config_of(buckets).curriculum.pacing == "contiguous"


def test_a_list_shares_the_budget_and_its_stages_are_evaluated_at_shares_of_the_whole(write):
    (_, _, cell, *_) = cells(read_experiment(write()))
    first, second = cell.table["stages"]
    assert (first["budget"]["tokens"], second["budget"]["tokens"]) == (400, 600)
    assert first["eval"]["at"] == [0.625]  # 250 of 400
    assert second["eval"]["at"] == pytest.approx([1 / 6, 350 / 600], abs=1e-6)


def test_where_arms_are_evaluated_may_be_said(write):
    found = [*cells(read_experiment(write(a=("[settings]", "curve = [0.2]\n[settings]"))))]
    assert config_of(found[1]).eval.at == (0.2,)
    assert [one["eval"]["at"] for one in found[2].table["stages"]] == [[0.5], []]


def test_validation_has_other_questions_and_seeds(write):
    found = list(cells(read_experiment(write()), validation=True))
    assert {cell.seed for cell in found} == {100}
    evaluation = config_of(found[1]).eval
    assert (evaluation.start, evaluation.problems) == (8, 4)


def test_a_budget_of_steps_is_every_arms_steps(write):
    text = 'budget = { steps = 10 }\n[arms.a]\nstage = "sft"\n'
    text += '[[arms.b.stages]]\nstage = "sft"\nsteps = 4\n[[arms.b.stages]]\nstage = "grpo"\n'
    a, b, *_ = cells(read_experiment(write(text)))
    assert a.table["steps"] == 10 and [one["steps"] for one in b.table["stages"]] == [4, 6]


def test_the_fingerprint_changes_with_any_setting(write):
    first = [cell.fingerprint() for cell in cells(read_experiment(write()))]
    again = [cell.fingerprint() for cell in cells(read_experiment(write()))]
    other = read_experiment(write(a=("prompts = 4", "prompts = 8")))
    assert first == again and len({*first}) == 5
    assert [cell.fingerprint() for cell in cells(other)][2] != first[2]


def test_parts_are_all_of_it_once(write):
    found = list(cells(read_experiment(write())))
    parts = [part_of(found, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(cell.name for part in parts for cell in part) == sorted(c.name for c in found)


@pytest.mark.parametrize("part", ["5/4", "0/2", "1", "a/b", "1/0", "-1/2", "", "²/3"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(InputError, match="needs i/n with 1 <= i <= n"):
        part_of([], part)


def test_two_stages_of_one_kind_have_names_of_their_own(write):
    stages = "".join(
        f'[[arms.a.stages]]\nstage = "grpo"\nname = "{name}"\nsteps = {steps}\n'
        for name, steps in (("easy", 4), ("hard", 6))
    )
    experiment = read_experiment(write("seeds = [0]\nbudget = { steps = 10 }\n" + stages))
    (cell,) = cells(experiment)
    assert [entry["name"] for entry in cell.table["stages"]] == ["easy", "hard"]
