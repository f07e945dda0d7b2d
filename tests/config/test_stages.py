"""Stages by name: what each says of itself is true, and a user's own class needs no more."""

import pytest

from cotjax.config import STAGES, Config, load, stage_class, stage_configs, validate
from cotjax.config.stages import EVERYWHERE, check_reads, defaults_of, fact_words, with_entries
from cotjax.config.whole import KEYS, SECTIONS
from cotjax.errors import InputError


@pytest.mark.parametrize("stage", STAGES)
def test_defaults_are_valid_and_belong_to_their_stage(stage):
    validate(defaults_of(stage))
    assert defaults_of(stage).stage == stage


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_are_keys_and_sections_that_there_are(stage):
    for name in (*EVERYWHERE, *stage_class(stage).reads):
        assert name in KEYS or name in SECTIONS, name


@pytest.mark.parametrize("stage", STAGES)
def test_the_facts_of_a_stage_are_of_settings_that_it_reads(stage):
    config, own = defaults_of(stage), stage_class(stage)
    for label, form in own.facts:
        assert label and form.format_map({name: Seen(own, name) for name in SECTIONS})
    assert isinstance(config, Config)


@pytest.mark.parametrize("stage", [name for name in STAGES if not stage_class(name).entries])
def test_a_stage_says_what_it_learns(stage):
    assert stage_class(stage).aim(defaults_of(stage))


class Seen:
    """A section whose settings may only be looked at if the stage reads them."""

    def __init__(self, own, name):
        self._own, self._name = own, name

    def __getitem__(self, setting):
        key = f"{self._name}.{setting}"
        assert key in KEYS and self._own.reads_key(key), key
        return 1


def test_a_built_in_name_is_a_class_and_an_unknown_one_names_them_all():
    assert stage_class("grpo").name == "Grpo" and callable(stage_class("sft").from_config)
    with pytest.raises(InputError, match='stage = "ppo": unknown. Did you mean "grpo"'):
        stage_class("ppo")


class Mine:
    """A user's stage, with nothing but how it is opened."""

    @classmethod
    def from_config(cls, config, mesh):
        return cls()


def test_a_user_s_class_reads_everything_and_has_the_common_defaults():
    own = stage_class(Mine)
    assert own.name == "Mine" and all(own.reads_key(key) for key in KEYS)
    config = Config.for_stage(Mine, steps=3)
    assert config.stage is Mine and config.steps == 3 and config.rollout == Config().rollout
    assert (
        list(own.check(config)) == [] and own.facts == () == own.entries and own.aim(config) == ""
    )
    validate(config)


def test_a_class_without_from_config_is_refused():
    with pytest.raises(InputError, match="without from_config"):
        stage_class(Seen)


def test_keys_that_no_stage_of_a_run_reads_are_refused():
    check_reads(["steps", "batch.size"], ["grpo", "sft"], "here")
    with pytest.raises(InputError, match="^here: batch.size: stage grpo does not read it; --"):
        check_reads(["steps", "batch.size"], ["grpo"], "here")


def test_the_bridge_is_a_list_of_three():
    assert [name for name, _ in stage_configs(load(["--stage=bridge", "--name=x"]))] == [
        *("reconstruct", "grpo", "rewrite")
    ]


def test_what_holds_for_all_is_left_out_of_entries_that_do_not_read_it():
    entries = {"stage": "sft", "steps": 3}, {"stage": "grpo"}
    below = {"rollout": {"prompts": 4}, "model": {"path": "a", "remat": "full"}}
    first, second = with_entries(entries, below, {"steps": 5})
    assert first == {"stage": "sft", "steps": 5, "model": below["model"]}
    assert second["rollout"] == {"prompts": 4} and second["model"] == {"remat": "full"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('name = ["a"]', r"\[\[stages\]\] 2: name = \['a'\]: needs a string"),
        ('model = "path"', r"\[\[stages\]\] 2: model: needs a section"),
        ("stage = 3", "int without from_config"),
    ],
)
def test_an_entry_of_wrong_types_is_named(entry, said, tmp_path):
    path = tmp_path / "run.toml"
    stage = "" if entry.startswith("stage") else 'stage = "grpo"\n'
    path.write_text(f'[[stages]]\nstage = "sft"\n[[stages]]\n{stage}{entry}\n')
    with pytest.raises(InputError, match=said):
        load(["--config", str(path)])


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("{steps:.1f} steps", {"steps": 10**400}),  # as a damaged config.toml may have
        ("{steps:>1000} steps", {"steps": 1}),
    ],
)
def test_a_fact_that_cannot_be_written_is_a_value_error(form, settings):
    with pytest.raises(ValueError, match="too"):
        fact_words(form, settings)
