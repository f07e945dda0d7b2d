"""What several stages declare alike."""

import subprocess
import sys

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.stages import settings
from cotjax.stages.distill import Distill
from cotjax.stages.grpo import Grpo


def config(*flags):
    return load(["--stage=distill", "--name=x", "--teachers.paths", "weak", "strong", *flags])


@pytest.mark.parametrize(
    ("flags", "names", "needed"),
    [
        ([], ("cot_steps",), False),
        (["--curriculum.difficulty=pass_rate"], ("pass_rate",), True),
        (["--curriculum.difficulty=rank_fusion"], ("cot_steps", "student_loss"), True),
        (["--curriculum.difficulty=./own.py:hard"], ("./own.py:hard",), True),
    ],
)
def test_a_difficulty_is_made_of_signals_some_of_which_need_the_student(flags, names, needed):
    assert settings.measured(config(*flags)) == names
    assert settings.needs_student(config(*flags)) is needed


def test_teachers_weights_are_checked_alike_in_both_stages_that_have_some():
    fixed = ["--curriculum.schedule=fixed", "--curriculum.teacher-weights", "0.5", "0.5"]
    assert list(settings.teacher_mistakes(config(*fixed))) == []
    assert set(settings.TEACHERS) <= {
        key for key in settings.TEACHERS if any(key.startswith(one) for one in Distill.reads)
    }
    assert set(settings.TEACHERS) <= set(Grpo.reads)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["target", "--reward.target-min=50", "--reward.target-max=40"],
         "reward.target_min = 50: above reward.target_max = 40. Set reward.target_min <= 40."),
        (["target", "--reward.target-max=300"],
         "reward.target_max = 300: no completion is longer than rollout.max_new_tokens = 256."),
        (["budget", "--reward.limit-start=300"],
         "reward.limit_start = 300: no completion is longer than rollout.max_new_tokens = 256."),
        (["budget", "--reward.limit-end=256"],
         "reward.limit_end = 256: the limit begins at 256 and has to fall."),
        (["budget", "--reward.limit-start=50", "--reward.limit-end=60"],
         "reward.limit_end = 60: the limit begins at 50 and has to fall."),
    ],
)  # fmt: skip
def test_lengths_that_do_not_agree_are_refused(flags, said):
    with pytest.raises(InputError) as error:
        load(["--stage=grpo", f"--reward.length={flags[0]}", *flags[1:]])
    assert str(error.value).startswith(said)


def test_a_stages_own_file_imports_no_jax():
    names = ("sft", "grpo", "rft", "reconstruct", "rewrite", "distill", "bridge", "settings")
    text = "import sys\n" + "".join(f"import cotjax.stages.{name}\n" for name in names)
    done = subprocess.run([sys.executable, "-c", text + "print('jax' in sys.modules)"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "False"
