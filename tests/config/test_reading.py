"""TOML tables into dataclasses: every unknown key and wrong type is named, with the fix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.config import load, to_toml
from cotjax.config.reading import keys_of, likely, nearest, overlay
from cotjax.config.whole import KEYS
from cotjax.errors import InputError


def refused(argv):
    with pytest.raises(InputError) as error:
        load(argv)
    return str(error.value)


def test_a_whole_number_may_stand_for_a_float(toml):
    value = load(["--config", toml("[optimizer]\nlearning_rate = 1\n")]).optimizer.learning_rate
    assert isinstance(value, float)


# Files that cannot be used.


def test_a_missing_file():
    message = refused(["--config", "nowhere.toml"])
    assert message.startswith("--config nowhere.toml: No such file") and "Name a TOML" in message


def test_a_folder_for_a_file(tmp_path):
    assert "Is a directory" in refused(["--config", str(tmp_path)])


def test_broken_toml_names_file_and_line(toml):
    path = toml("steps = 3\nseed = = 4\n")
    message = refused(["--config", path])
    assert path in message and "line 2" in message


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refused(["--config", str(path)])


@pytest.mark.parametrize(
    "text",
    ["steps = " + "9" * 30, "steps = 0x" + "f" * 9000, "steps = " + "9" * 9000, "x = " + "[" * 5000]
    + ["[optimizer]\nlearning_rate = " + "9" * 400, "[data]\ncolumns = { a = " + "9" * 20 + " }"],
)
def test_what_no_toml_may_hold_is_one_short_sentence(text, toml):
    message = refused(["--config", toml(text)])
    assert "not valid TOML" in message and len(message) < 300


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("[rollout]\ntemprature = 1.0", "rollout.temprature", "rollout.temperature"),
        ("group_size = 8", "group_size", "rollout.group_size"),
        ("[policy]\ngroup_size = 8", "policy.group_size", "rollout.group_size"),
        ("[rolout]\ngroup_size = 8", "rolout", "rollout"),
        ("step = 8", "step", "steps"),
        ("[optimizer]\nlr-rate = 8", "optimizer.lr-rate", "optimizer.learning_rate"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(text, unknown, nearest, toml):
    path = toml(text)
    assert refused(["--config", path]) == (
        f'{path}: unknown key "{unknown}". Did you mean "{nearest}"?'
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('steps = "ten"', 'steps = "ten" (str): needs a whole number.'),
        ("steps = 10.0", "steps = 10.0 (float): needs a whole number."),
        ("steps = true", "steps = true (bool): needs a whole number."),
        ("resume = 1", "resume = 1 (int): needs true or false."),
        ("name = 3", "name = 3 (int): needs a string."),
        ("[data]\npath = ['a']", 'data.path = ["a"] (list): needs a string.'),
        ("seed = 2026-01-01", 'seed = "2026-01-01" (date): needs a whole number.'),
        ("[optimizer]\nlearning_rate = '1e-5'", '= "1e-5" (str): needs a number.'),
        ("[optimizer]\nlearning_rate = true", "= true (bool): needs a number."),
        ("[policy]\nddof = 2", 'policy.ddof = 2 (int): needs one of "auto", 0, 1.'),
        ("[policy]\neps = 'x'", 'policy.eps = "x" (str): needs a number or "auto".'),
        ("[policy]\nddof = true", 'policy.ddof = true (bool): needs one of "auto", 0, 1.'),
        ("rollout = 8", "rollout = 8: needs a section [rollout]."),
    ],
)
def test_a_wrong_type_names_key_value_and_type(text, complaint, toml):
    path = toml(text)
    message = refused(["--config", path])
    assert message.startswith(path) and message.endswith(complaint)


def test_stop_strings_are_a_list(toml):
    path = toml('[rollout]\nstop = ["\\n\\n", "Question:"]\n')
    config = load(["--config", path])
    assert config.rollout.stop == ("\n\n", "Question:")
    assert load(["--config", toml(to_toml(config))]).rollout.stop == config.rollout.stop
    assert load(["--rollout.stop", "a", "b"]).rollout.stop == ("a", "b")


@pytest.mark.parametrize(
    ("value", "needs"),
    [('"Question:"', '"Question:": needs a list'), ("[1]", r"1 \(int\): needs a string")],
)
def test_stop_strings_that_are_no_list_of_strings(toml, value, needs):
    with pytest.raises(InputError, match=f"rollout.stop = {needs}"):
        load(["--config", toml(f"[rollout]\nstop = {value}\n")])


# Tables.


@pytest.mark.parametrize("key", ["steps", "rollout.group_size", "optimizer.learning_rate"])
def test_a_letter_too_few_or_too_many_leads_to_the_key(key):
    assert nearest(key[:-1], KEYS) == nearest(f"{key}s", KEYS) == key


def test_only_what_is_alike_is_suggested():
    assert likely("trian", ("train", "plan")) == ' Did you mean "train"?'
    assert likely("dtyp", ("dtype", "out"), "--{}") == ' Did you mean "--dtype"?'
    assert likely("wrong", ("train", "version")) == likely("", ("train",)) == ""


def test_the_keys_of_a_table_are_dotted_down_to_settings():
    table = {"steps": 3, "rollout": {"stop": ["a"]}, "data": {"columns": {"question": "q"}}}
    assert list(keys_of(table)) == ["steps", "rollout.stop", "data.columns"]
    assert set(keys_of(table)) <= set(KEYS)


tables = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8
)
nested = st.dictionaries(st.sampled_from("abc"), tables)


@given(nested, nested)
def test_a_table_over_another_keeps_what_it_does_not_name(base, over):
    both = overlay(base, over)
    assert both.keys() == base.keys() | over.keys()
    for name, value in both.items():
        if name not in over:
            assert value == base[name]
        elif not isinstance(value, dict):
            assert value == over[name]
    assert overlay(both, over) == both and overlay(base, {}) == base
