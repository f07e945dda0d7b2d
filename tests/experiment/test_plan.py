"""An experiment's file: what it makes of each arm, and every way to be wrong."""

import pathlib

import pytest

from cotjax.errors import InputError
from cotjax.experiment.plan import CURVE, UNBOUNDED, cells, config_of, part_of, read_experiment


def test_every_arm_has_the_budget_the_questions_and_the_seed(write):
    found = list(cells(read_experiment(write())))
    assert [cell.name for cell in found] == ["base-0", "sft-0", "list-0", "sft-1", "list-1"]
    config = config_of(found[3])
    assert (config.seed, config.budget.tokens, config.steps) == (1, 1000, UNBOUNDED)
    assert (config.eval.problems, config.eval.start, config.eval.at) == (8, 0, CURVE)
    assert config.batch.size == 4, "settings of all arms that this one reads"


def test_a_list_shares_the_budget_and_its_stages_are_evaluated_at_shares_of_the_whole(write):
    (_, _, cell, *_) = cells(read_experiment(write()))
    first, second = cell.table["stages"]
    assert (first["budget"]["tokens"], second["budget"]["tokens"]) == (400, 600)
    assert first["eval"]["at"] == [0.625]  # 250 of 400
    assert second["eval"]["at"] == pytest.approx([1 / 6, 350 / 600], abs=1e-6)


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


@pytest.mark.parametrize("part", ["5/4", "0/2", "1", "a/b", "1/0", "-1/2", ""])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(InputError, match="needs i/n with 1 <= i <= n"):
        part_of([], part)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = [0, 1]", "seds = [0, 1]", 'unknown key "seds". Did you mean "seeds"'),
        ("seeds = [0, 1]", "seeds = [0, 0]", "one seed stands there twice"),
        ("seeds = [0, 1]", 'seeds = "0"', "needs a list of whole numbers"),
        ("seeds = [100]", "seeds = [1]", "validation_seeds: 1 is one of seeds too"),
        ('against = "sft"', 'against = "sfd"', 'there is no such arm. Did you mean "sft"'),
        ("{ tokens = 1000 }", "{ tokens = 0 }", "budget.tokens = 0: needs a whole number >= 1"),
        ("{ tokens = 1000 }", "{ tokens = 9, steps = 9 }", "budget: needs"),
        ("{ tokens = 1000 }", "{ hours = 9 }", "budget: needs"),
        ("test = 8", "test = 0", "questions.test = 0"),
        ("tokens = 400", "tokens = 1000", "are not the common 1000"),
        ("budget = { tokens = 400 }", "", "are not the common 1000"),
        ('stage = "grpo"', 'stage = "grop"', 'Did you mean "grpo"'),
        ("prompts = 4", "promts = 4", 'unknown key "rollout.promts". Did you mean "rollout'),
        ("[settings]", "[settings]\nmining = { attempts = 2 }", "settings.mining.attempts: no arm"),
        ('stage = "sft"\noptimizer = { schedule = "constant" }', 'stage = "sft"',
         'arms.sft: optimizer.schedule = "cosine" needs to know how many steps'),
        ('stage = "sft"', 'stage = "sft"\nsteps = 0', "steps = 0"),
        ("test = 8", "tset = 8", "questions = {'tset': 8, 'validation': 4}: needs"),
        ("validation = 4", "validation = -3", "questions.validation = -3: needs a whole number"),
        ("{ test = 8, validation = 4 }", "4", "questions = 4: needs"),
        ("{ tokens = 1000 }", '{ tokens = "many" }', "budget.tokens = many: needs a whole number"),
        ("[settings]", "[settings]\nseed = 7", "settings: seed is the experiment's own"),
        ("[settings]", "[settings]\neval = { every = 1 }", "settings: eval.every is the experim"),
        ('stage = "sft"', 'stage = "sft"\nseed = 7', "arms.sft: seed is the experiment's own"),
        ('stage = "sft"', 'stage = "sft"\nbudget = { tokens = 9 }', "a common budget of 1000"),
        ('stage = "sft"', 'stage = "sft"\ndistill = 5', "arms.sft: distill: needs a table"),
        ("[settings]", "[settings]\nreward = 5", "settings: reward: needs a table"),
        ("[arms.base]", '[arms.base]\nstage = "sft"', "takes no settings. Only arms.base"),
        ("[arms.base]", "[arms.start]", "arms.start: is empty. Only arms.base is empty."),
        ("[arms.base]", '[arms."s ft"]\nstage = "sft"\n[arms."s-ft"]\nstage = "sft"\n[arms.base]',
         'arms "s ft" and "s-ft" have one folder'),
        ('stage = "grpo"', 'stage = "grpo"\nreward = { length = "budget" }',
         "arms.list: reward.limit_steps = 0: the limit falls over the steps of the run"),
        ('stage = "sft"', 'stage = "distill"', "the weights of teachers follow the steps"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(write, old, new, words):
    path = write(a=(old, new))
    with pytest.raises(InputError) as error:
        read_experiment(path)
    told = str(error.value)
    assert words in told and told.startswith(f"{path}: ") and told.count(path) == 1
    assert "--config" not in told


@pytest.mark.parametrize("old, new", [
    ('stage = "grpo"', 'stage = "grpo"\nrollout = { top_p = 2.0 }'),
    ('stage = "grpo"', 'stage = "grpo"\npolicy = { dual_clip = 0.5 }'),
    ('stage = "grpo"', 'stage = "grpo"\nreward = { limit_end = 9 }'),
    ('stage = "grpo"', 'stage = "grpo"\nteachers = 3'),
])  # fmt: skip
def test_a_broken_arm_is_named_behind_its_file(write, old, new):
    path = write(a=(old, new))
    with pytest.raises(InputError) as error:
        read_experiment(path)
    assert str(error.value).startswith(f"{path}: arms.list: ")


def test_a_file_that_is_not_there_is_named_as_it_was_given(tmp_path):
    with pytest.raises(InputError) as error:
        read_experiment(str(tmp_path / "none.toml"))
    assert str(error.value).startswith(f"{tmp_path}/none.toml: No such file")


def test_an_experiment_without_arms_compares_nothing(write):
    with pytest.raises(InputError, match="arms: nothing is compared"):
        read_experiment(write("budget = { tokens = 5 }\n"))


def test_steps_beside_a_budget_of_steps_are_refused(write):
    with pytest.raises(InputError, match="steps = 3: the arms have a common budget of 10 steps"):
        read_experiment(write('budget = { steps = 10 }\n[arms.a]\nstage = "sft"\nsteps = 3\n'))


FILES = sorted(pathlib.Path(__file__).parents[2].glob("configs/experiments/*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_experiment_of_the_repository_is_taken(path):
    text = path.read_text("utf-8")
    assert text.startswith("#") and len(text.splitlines()) <= 40
    experiment = read_experiment(str(path))
    names = [cell.name for cell in cells(experiment)]
    assert len({*names}) == len(names) and experiment.chosen and experiment.validation_seeds


def test_two_stages_of_one_kind_have_names_of_their_own(write):
    stages = "".join(
        f'[[arms.a.stages]]\nstage = "grpo"\nname = "{name}"\nsteps = {steps}\n'
        for name, steps in (("easy", 4), ("hard", 6))
    )
    experiment = read_experiment(write("seeds = [0]\nbudget = { steps = 10 }\n" + stages))
    (cell,) = cells(experiment)
    assert [entry["name"] for entry in cell.table["stages"]] == ["easy", "hard"]
