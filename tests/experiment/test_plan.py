"""An experiment's file: what it makes of each arm, and every way to be wrong."""

import pathlib

import pytest

from cotjax.errors import InputError
from cotjax.experiment.cells import cells
from cotjax.experiment.plan import read_experiment


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
        ("[settings]", "curve = [0.5, 0.25]\n[settings]", "curve = [0.5, 0.25]: needs a list of s"),
        ("[settings]", "curve = [1]\n[settings]", "curve = [1]: needs a list of shares that rise"),
        ("[settings]", "curve = 0.5\n[settings]", "curve = 0.5: needs a list of shares that rise"),
        ("tokens = 400", "tokens = 1000", "are not the common 1000"),
        ("budget = { tokens = 400 }", "", "are not the common 1000"),
        ('stage = "grpo"', 'stage = "grop"', 'Did you mean "grpo"'),
        ("prompts = 4", "promts = 4", 'unknown key "rollout.promts". Did you mean "rollout'),
        ("[settings]", "[settings]\nmining = { attempts = 2 }", "settings.mining.attempts: no arm"),
        ("[settings]", "[settings]\nlora = { alpha = 8.0 }", "lora.alpha: does nothing in any"),
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
        ('against = "sft"', 'against = ["sft"]', "against = ['sft']: needs the name of an arm, in"),
        ('against = "sft"', "against = 1", "against = 1: needs the name of an arm, in quotes."),
        ('chosen = "nothing"', "chosen = [1]", "chosen = [1]: needs a sentence"),
        ("seeds = [0, 1]", "seeds = []", "seeds = []: nothing runs."),
        ("budget = { tokens = 400 }", 'steps = "four"', "steps = four: needs a whole number >= 1"),
        ("budget = { tokens = 400 }", "steps = 0", "steps = 0: needs a whole number >= 1."),
        ("{ tokens = 1000 }", "{ steps = 9 }", "arms.list: budget.tokens = 400: the arms have a "
         "common budget of 9 steps, and tokens would end this one earlier"),
        ('stage = "sft"', 'stage = "bridge"', 'stage = "bridge" is a list of stages, each of which '
         "would have the whole budget. Write them as [[arms.sft.stages]]"),
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
