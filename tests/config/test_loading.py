"""One config from a stage's defaults, a file and flags: what wins, and what comes out again."""

import pathlib

import pytest

from cotjax.config import STAGES, Config, change, from_table, load, stage_configs, to_toml
from cotjax.config.loading import unchecked, with_objects
from cotjax.config.stages import defaults_of
from cotjax.errors import InputError


def refused(argv):
    with pytest.raises(InputError) as error:
        load(argv)
    return str(error.value)


def test_flags_win_over_the_file_which_wins_over_the_stage_defaults(toml):
    path = toml('stage = "sft"\nsteps = 7\nseed = 5\n[batch]\nsize = 4\n')
    config = load(["--config", path, "--steps", "9", "--name=mine"])
    assert (config.stage, config.steps, config.seed) == ("sft", 9, 5)
    assert config.batch.size == 4
    assert config.optimizer == defaults_of("sft").optimizer
    assert config.name == "mine"


def test_a_stage_flag_chooses_the_defaults_under_the_file(toml):
    path = toml("[eval]\nproblems = 4\n")
    config = load([f"--config={path}", "--stage=sft"])
    assert config.stage == "sft"
    assert config.steps == defaults_of("sft").steps
    assert config.eval.problems == 4


@pytest.mark.parametrize("flag", ["--rollout.group-size", "--rollout.group_size"])
def test_hyphens_and_underscores_mean_the_same(flag):
    assert load([flag, "5"]).rollout.group_size == 5


def test_booleans_are_pairs_of_flags():
    assert load(["--reward.no-monotone"]).reward.monotone is False
    assert load(["--resume", "--name=mine"]).resume is True


def test_an_unnamed_run_is_named_after_its_stage():
    assert load(["--stage=sft"]).name.startswith("sft-")


@pytest.mark.parametrize("stage", STAGES)
def test_the_resolved_config_round_trips(stage, toml):
    config = load(["--stage", stage, "--optimizer.learning-rate=3.3e-7", "--name=élève"])
    again = load(["--config", toml(to_toml(config))])
    if config.stages:  # what holds for all is written into each
        assert stage_configs(again) == stage_configs(config)
    else:
        assert again == config


def test_a_config_written_and_read_again_loses_no_setting_of_its_stage(toml):
    flags = "--rollout.stop", "a", "b", "--policy.ddof=0", "--data.columns", "{ question = 'q' }"
    config = load(["--stage=grpo", "--name=x", "--data.source=jsonl", "--data.path=a", *flags])
    again = load(["--config", toml(to_toml(config))])
    assert again == config and again.rollout.stop == ("a", "b")
    assert again.data.columns == {"question": "q"}
    assert "[batch]" not in to_toml(config), "GRPO reads no rows"


def test_a_table_from_python_is_checked_as_a_file_is():
    config = from_table({"stage": "grpo", "steps": 3, "rollout": {"group_size": 4}}, "here")
    assert (config.steps, config.rollout.group_size) == (3, 4) and config.name.startswith("grpo-")
    for table, words in (
        ({"rollout": {"group_sise": 4}}, 'here: unknown key "rollout.group_sise"'),
        ({"rollout": {"group_size": "x"}}, "rollout.group_size"),
        ({"batch": {"size": 4}}, "here: batch.size: stage grpo does not read it"),
    ):
        with pytest.raises(InputError, match=words):
            from_table(table, "here")


# Keys of other stages.


def test_a_key_that_the_stage_does_not_read_says_who_does(toml):
    said = refused(["--stage=sft", "--rollout.prompts=4"])
    assert said.startswith("the command line: rollout.prompts: stage sft does not read it")
    assert "--stage=grpo" in said and "--stage=distill" in said and "--stage=sft" not in said
    path = toml('stage = "sft"\n[curriculum]\nbuckets = 3\n')
    assert refused(["--config", path]).startswith(f"{path}: curriculum.buckets: stage sft")
    assert "cotjax.rationales" in refused(["--rationales.questions=4"]).replace(" ", ".")


def test_a_tool_s_section_may_stand_beside_the_stage_s():
    assert (
        load(["--rationales.questions=4", "--name=x"], tool="rationales").rationales.questions == 4
    )


# Lists of stages.

LIST = """
seed = 4
eval = { problems = 8 }

[[stages]]
stage = "reconstruct"
steps = 2

[[stages]]
stage = "grpo"
name = "masked"
optimizer = { learning_rate = 0.5 }
"""


def test_what_a_file_says_for_all_is_under_each_entry_and_flags_are_over_it(toml):
    config = load(["--config", toml(LIST), "--name=x", "--optimizer.learning-rate=0.25"])
    (first, one), (second, two) = stage_configs(config)
    assert (first, second) == ("reconstruct", "masked")
    assert one.seed == two.seed == 4 and one.eval.problems == two.eval.problems == 8
    assert (one.steps, two.steps) == (2, defaults_of("grpo").steps)
    assert one.optimizer.learning_rate == two.optimizer.learning_rate == 0.25
    assert one.optimizer.schedule == defaults_of("reconstruct").optimizer.schedule


def test_a_flag_reaches_the_stages_that_read_it(toml):
    config = load(["--config", toml(LIST), "--name=x", "--rollout.prompts=4"])
    (_, one), (_, two) = stage_configs(config)
    assert two.rollout.prompts == 4 and one.rollout.prompts == defaults_of("sft").rollout.prompts
    assert "teachers.top_k: stage reconstruct and grpo does not read it" in refused(
        ["--config", toml(LIST), "--teachers.top-k=4"]
    )


def test_a_list_round_trips(toml):
    config = load(["--config", toml(LIST), "--name=x"])
    again = load(["--config", toml(to_toml(config), "again.toml")])
    assert stage_configs(again) == stage_configs(config) and again.seed == 4


def test_a_stage_beside_a_list_is_refused(toml):
    assert "lists its own [[stages]]" in refused(["--config", toml(LIST), "--stage=sft"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("steps = 3", "[[stages]] 1: names no stage"),
        ('stage = "grpo"\nstepz = 3', 'unknown key "stepz". Did you mean "steps"'),
        ('stage = "grpo"\nsteps = "x"', 'steps = "x" (str): needs a whole number'),
        ('stage = "grpo"\nsteps = 0', "[[stages]] grpo: steps = 0: out of range"),
        ('stage = "sft"\nrollout = { prompts = 3 }', "[[stages]] sft: rollout.prompts: stage sft"),
        ('stage = "bridge"', "is a list itself"),
        ('stage = "sftt"', 'stage = "sftt"'),
    ],
)
def test_a_wrong_entry_is_named_with_its_key(toml, entry, words):
    assert words in refused(["--config", toml(f"[[stages]]\n{entry}\n"), "--name=x"])


def test_two_entries_of_one_name_and_a_second_model_are_refused(toml):
    two = '[[stages]]\nstage = "sft"\n[[stages]]\nstage = "sft"\n'
    assert 'name = "sft" is that of a stage before' in refused(["--config", toml(two)])
    named = two + 'name = "again"\n'
    assert load(["--config", toml(named), "--name=x"])
    other = named + 'model = { path = "other" }\n'
    assert "Leave model.path out" in refused(["--config", toml(other)])


def test_an_empty_list_is_refused(toml):
    assert "an empty list trains nothing" in refused(
        ["--config", toml("stages = []\n"), "--name=x"]
    )


# Objects from Python.


def my_reward(completion, record):
    return 1.0


def test_objects_take_their_places_and_are_checked():
    config = load(["--name=x"])
    assert with_objects(config) == config
    assert with_objects(config, reward=my_reward).reward.function is my_reward
    for name, value, words in (
        ("rewards", my_reward, "rewards: there is no such argument"),
        ("reward", lambda text: 1.0, "its signature is"),
        ("reward", 3, "reward.function = 3"),
    ):
        with pytest.raises(InputError, match=words):
            with_objects(config, **{name: value})


# Changed, shown unchecked, and found again by the name of a run.


def test_a_change_comes_over_a_config_which_stays():
    config = Config.for_stage("grpo", name="x", rollout={"group_size": 4})
    changed = change(config, {"rollout": {"prompts": 2}, "seed": 5}, "here")
    assert (changed.rollout.group_size, changed.rollout.prompts, changed.seed) == (4, 2, 5)
    assert config.rollout.prompts == Config().rollout.prompts
    assert change(config, {}, "here") == config


def test_a_change_of_a_list_reaches_every_stage_that_reads_it():
    config = Config.for_stages([{"stage": "sft"}, {"stage": "grpo"}], name="x")
    changed = change(config, {"steps": 3, "rollout": {"prompts": 2}}, "here")
    assert [entry["steps"] for entry in changed.stages] == [3, 3]
    assert changed.stages[1]["rollout"] == {"prompts": 2} and "rollout" not in changed.stages[0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"stepz": 3}, '^here: unknown key "stepz". Did you mean "steps"'),
        ({"steps": "x"}, '^here: steps = "x" .str.: needs a whole number'),
        ({"batch": {"size": 3}}, "^here: batch.size: stage grpo does not read it"),
        ({"steps": 0}, "^steps = 0: out of range"),
    ],
)
def test_a_change_is_checked_and_says_where_it_came_from(table, says):
    with pytest.raises(InputError, match=says):
        change(Config.for_stage("grpo"), table, "here")


def test_help_shows_settings_that_no_run_could_take():
    assert unchecked(["--stage=grpo", "--steps=0", "--data.source=jsonl"]).steps == 0
    with pytest.raises(InputError):
        unchecked(["--stepz=0"])


def test_a_list_is_shown_with_what_holds_for_all_in_each_entry():
    entries = unchecked(["--stage=bridge", "--steps=3"]).stages
    assert [entry["steps"] for entry in entries] == [3, 3, 3]


def test_a_table_and_the_file_that_holds_it_are_one_config(tmp_path):
    table = {"stage": "grpo", "name": "x", "rollout": {"stop": ["a"]}, "policy": {"ddof": 0}}
    config = from_table(table, "here")
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load(["--config", str(path)]) == config


def test_a_run_is_resumed_by_its_name_from_its_own_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.toml").write_text('stage = "sft"\nsteps = 7\n')
    argv = [f"--output={tmp_path}", "--name=mine", "--resume"]
    config = load(argv)
    assert (config.stage, config.steps, config.resume) == ("sft", 7, True)
    assert load([*argv, "--steps=9"]).steps == 9  # flags come over it
    with pytest.raises(InputError, match='--resume: stage = "grpo": .* has "sft"'):
        load([*argv, "--stage=grpo"])


def test_a_file_and_flags_come_over_the_settings_of_a_resumed_run(tmp_path, toml):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.toml").write_text('stage = "sft"\nsteps = 7\nseed = 5\nbatch.size = 4\n')
    argv = [f"--output={tmp_path}", "--name=mine", "--resume", "--config", toml("steps = 8\n")]
    config = load([*argv, "--batch.size=2"])
    assert (config.stage, config.steps, config.seed, config.batch.size) == ("sft", 8, 5, 2)
    (folder / "config.toml").unlink()  # a run that was not begun has none, as `cotjax.run` says
    assert load([*argv, "--stage=sft"]).seed == 0


def test_a_list_of_ones_own_stages_takes_nothing_from_the_bridge(toml):
    own = Config.for_stages([{"stage": "grpo"}, {"stage": "rewrite"}], name="mine")
    assert own.stage == "list"
    again = load(["--config", toml(to_toml(own))])
    assert stage_configs(again) == stage_configs(own)
    for _, stage in stage_configs(own):
        assert stage.eval.max_prompt_tokens == 0
    with pytest.raises(InputError, match="an empty list trains nothing"):
        load(["--stage=list"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('stage = "grpo"\n[[stages]]\nstage = "sft"\n', "lists its own [[stages]]"),
        ('[[stages]]\nstage = "sft"\noutput = "x"\n', "[[stages]] 1: output: is the whole list's"),
        ('[[stages]]\nstage = "grop"\n', '[[stages]] 1: stage = "grop": unknown. Did you mean'),
        ('stage = "grop"\n', 'Did you mean "grpo"?'),
    ],
)
def test_what_a_list_cannot_hold_is_named(toml, text, words):
    assert words in refused([f"--config={toml(text)}", "--name=x"])


def test_a_section_without_its_key_is_called_a_section():
    assert "rollout is a section: set rollout.KEY" in refused(["--rollout", "3"])


CONFIGS = sorted(pathlib.Path(__file__).parents[2].glob("configs/*.toml"))
PROMPTS = "prompts_"  # a file of prompts, which data.templates names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_is_taken_and_at_most_40_lines_long(path):
    text = path.read_text("utf-8")
    assert text.startswith("#") and len(text.splitlines()) <= 40
    if path.name.startswith(PROMPTS):
        assert load([f"--data.templates={path}"]).data.templates == str(path)
        return
    missing = ["--data.path=train.jsonl"] if 'path = "train.jsonl"' not in text else []
    missing = missing if 'source = "jsonl"' in text else []
    assert load(["--config", str(path), *missing]).steps > 0
