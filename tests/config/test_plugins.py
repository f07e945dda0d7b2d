"""A user's objects behind their keys: checked early, called with care, given from Python."""

import pathlib
import pickle
import tomllib

import pytest

from cotjax.config import Config, Plugin, load, plugin, to_toml, with_objects
from cotjax.config.plugins import check_plugins, is_source, required_arguments, verifier_object
from cotjax.errors import InputError, PluginError


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("own.py").write_text(
        "import json\n"
        "def divide(a, b):\n"
        "    return a / b\n"
        "def read(a, b):\n"
        "    return json.loads(a)\n"
        "def one(a): pass\n"
        "def three(a, b, c): pass\n"
        "NUMBER = 3\n"
        "class Half:\n"
        "    def extract(self, text): return text\n"
        "class Needs(Half):\n"
        "    def __init__(self, path): pass\n"
        "class Whole(Half):\n"
        "    def equal(self, a, b): return a == b\n"
    )


DIVIDE = Plugin("reward.function", "./own.py:divide")


# Calls.


def test_what_raises_names_function_record_file_and_line():
    with pytest.raises(PluginError) as error:
        DIVIDE(1, 0, record="problems/train/3/17")
    assert str(error.value) == (
        'reward.function = "./own.py:divide" raised ZeroDivisionError: division by zero on '
        'problems/train/3/17 (own.py, line 3: "return a / b"). Fix it there.'
    )


def test_the_line_is_the_users_and_not_a_librarys():
    with pytest.raises(PluginError, match=r'own\.py, line 5: "return json\.loads\(a\)"'):
        Plugin("reward.function", "./own.py:read")("{", 0)


def test_an_error_can_be_given_its_record_and_a_further_sentence():
    error = PluginError("f raised", ". Fix it.")
    assert str(error.on("r/1").and_then("Saved.")) == "f raised on r/1. Fix it. Saved."
    assert str(error.on("r/1").on("r/2")) == "f raised on r/1. Fix it."
    assert str(pickle.loads(pickle.dumps(error.on("r/1")))) == str(error.on("r/1"))


def test_a_plugin_goes_to_another_process_by_its_name():
    assert DIVIDE.found  # what was found stays here
    sent = pickle.loads(pickle.dumps(DIVIDE))
    assert sent == DIVIDE and sent(6, 3) == 2


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "1", [1, 2], {}])
def test_what_is_no_finite_number_is_refused_with_its_value(value):
    with pytest.raises(PluginError, match="needs one") as error:
        DIVIDE.number(value, "needs one", "r/1")
    assert f'"./own.py:divide" returned {value!r} on r/1: needs one' in str(error.value)


@pytest.mark.parametrize("value", [True, 0, 1.5])
def test_numbers_are_numbers(value):
    assert DIVIDE.number(value, "") == value


# Signatures.


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("reward.function", "one", "its signature is (a), and reward.function takes (Completion,"),
        ("reward.function", "NUMBER", "is int, not a function"),
        ("reward.verifier", "Half", "is an object without the function equal"),
        ("reward.verifier", "Needs", "the class needs arguments (path)"),
        ("reward.verifier", "divide", "is an object without the function extract"),
        ("policy.term", "three", "and policy.term takes (logp, logp_old, advantage, mask, **sett"),
        ("data.source", "three", "or a function of nothing or of the [data] section"),
        ("data.source", "NUMBER", "is int, not a function"),
        ("curriculum.difficulty", "three", "takes (Record) -> float, or (student, records) -> [n]"),
        ("curriculum.schedule", "one", "takes (progress, num_teachers) -> [N]"),
    ],
)
def test_what_cannot_be_called_is_refused_before_a_run(key, name, said):
    on = ["--curriculum.buckets=2", "--distill.coefficient=0.5"]  # so that every key is read
    config = load([f"--{key}=./own.py:{name}", "--stage=grpo", *on])
    with pytest.raises(InputError) as error:
        check_plugins(config)
    assert str(error.value).startswith(f'{key} = "./own.py:{name}": ') and said in str(error.value)


def test_a_list_names_the_stage():
    settings = {"stages": [{"stage": "sft"}, {"stage": "grpo", "policy": {"term": "./own.py:one"}}]}
    with pytest.raises(InputError, match=r"\[\[stages\]\] grpo: policy\.term"):
        Config.for_stages(settings["stages"])


def test_only_keys_that_the_stage_reads_are_looked_up():
    config = load(["--stage=sft"])
    check_plugins(config)
    assert plugin(config, "reward.function") is None


@pytest.mark.parametrize(
    ("function", "count"),
    [(lambda: 0, 0), (lambda a=1: 0, 0), (lambda a, *b: 0, 1), (lambda a, b, *, c: 0, 2)],
)
def test_required_arguments(function, count):
    assert required_arguments(function) == count


def test_a_source_is_records_and_no_class_of_them():
    assert is_source([]) and not is_source(list) and not is_source(lambda: [])


def test_a_verifier_is_an_object_a_class_or_a_module():
    found = Plugin("reward.verifier", "./own.py:Whole").found
    for value in (found, found()):
        assert verifier_object(Plugin("reward.verifier", value)).equal("1", "1")
    with pytest.raises(InputError, match="is a module without the function extract"):
        Config.for_stage("grpo", reward={"verifier": pickle})


# Settings beside them.


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--policy.term-settings={ cap = 2.0 }"], 'keywords of your own policy.term, which is "a'),
        (["--policy.term=./own.py:three", "--policy.objective=bridge_release"], "KL lies in the"),
        (["--data.columns={ question = 'q' }"], "only the rows of a file have columns"),
        (["--data.columns={ quest = 'q' }", "--data.source=jsonl", "--data.path=x"],
         'no layout has a "quest"'),
        (["--data.source=./own.py:one", "--data.mixture=problems=1"],
         "a mixture is of built-in sources"),
    ],
)  # fmt: skip
def test_settings_that_would_do_nothing_are_refused(flags, said):
    with pytest.raises(InputError) as error:
        load(flags)
    assert said in str(error.value)


@pytest.mark.parametrize("flag", ["--policy.term-settings=3", "--policy.term-settings={ cap = "])
def test_a_flag_that_is_no_table_is_refused(flag):
    with pytest.raises(InputError, match=r"policy\.term_settings = .*: needs a table"):
        load([flag])


def test_a_built_in_name_that_is_mistyped_gets_the_nearest():
    with pytest.raises(
        InputError, match=r'needs one of "numeric".*, or a ref.*Did you mean "numer'
    ):
        load(["--reward.verifier=numerical"])


# From Python.


def reward(completion, record):
    return 1.0


def test_objects_take_their_places():
    config = with_objects(
        Config.for_stage("grpo", name="r", curriculum={"buckets": 2}),
        reward=reward,
        difficulty=len,
    )
    assert config.reward.function is reward and config.curriculum.difficulty is len
    assert with_objects(config) is config


def test_objects_go_to_each_stage_of_a_list_that_reads_them():
    config = Config.for_stages(
        [{"stage": "sft"}, {"stage": "grpo", "curriculum": {"buckets": 2}}], name="r"
    )
    config = with_objects(config, difficulty=len)
    assert ["curriculum" in entry for entry in config.stages] == [False, True]


def test_objects_are_checked_as_names_are():
    config = Config.for_stage("grpo", name="r")
    with pytest.raises(InputError, match=r"its signature is \(only\)"):
        with_objects(config, reward=lambda only: 0)
    with pytest.raises(InputError, match="rewrd: there is no such argument. It takes reward, ver"):
        with_objects(config, rewrd=reward)
    with pytest.raises(InputError, match="policy.term: stage sft does not read it"):
        with_objects(Config.for_stage("sft", name="r"), term=lambda a, b, c, d: a)
    with pytest.raises(InputError, match=r"its signature is \(\)"):
        Config.for_stage("grpo", reward={"function": lambda: 0})


class Unlike:
    """A source that no == and no copy may touch."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise AssertionError

    def __eq__(self, other):
        raise AssertionError

    def __deepcopy__(self, memo):
        raise AssertionError


def test_an_object_is_neither_compared_nor_copied_and_written_by_its_name():
    config = Config.for_stage("grpo", name="r", data={"source": Unlike()})
    text = to_toml(config)
    assert tomllib.loads(text)["data"]["source"] == "python:Unlike"
    pathlib.Path("config.toml").write_text(text)
    again = load(["--config=config.toml"])  # a run that only reads it needs no object
    check_plugins(again, given=False)
    with pytest.raises(InputError, match=r"cotjax\.train\(config, source=…\)"):
        check_plugins(again)


def test_a_list_of_records_is_one_name_in_a_file():
    entries = [{"stage": "grpo", "data": {"source": [1, 2]}}]
    config = Config.for_stages(entries, name="r")
    (entry,) = tomllib.loads(to_toml(config))["stages"]
    assert entry["data"]["source"] == "python:list"


def test_a_table_of_settings_goes_through_a_file():
    flags = ["--policy.term=./own.py:term", "--policy.term-settings={ cap = 2.0, kind = 'a' }"]
    config = load([*flags, "--name=r"])
    pathlib.Path("config.toml").write_text(to_toml(config))
    assert load(["--config=config.toml"]) == config
    assert config.policy.term_settings == {"cap": 2.0, "kind": "a"}
