"""`cotjax train --help`: one screen first, then sections, with the values of stage and file."""

import pytest

from cotjax.config.command_help import asks_for_help, train_help
from cotjax.config.field_help import texts
from cotjax.config.ranges import STAGES
from cotjax.config.whole import KEYS, SECTIONS
from cotjax.errors import InputError


@pytest.mark.parametrize("stage", STAGES)
def test_the_first_page_fits_a_terminal(stage):
    lines = train_help(["--help", f"--stage={stage}"]).splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert sum(line.startswith("  --") for line in lines) == 10
    assert "--help SECTION" in " ".join(lines) and f"--stage {stage} " in "\n".join(lines)


@pytest.mark.parametrize("columns", [60, 40])
def test_it_is_no_wider_than_a_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = train_help(["--help", "--stage=grpo"])
    assert max(map(len, train_help(["--help", "mesh"]).splitlines())) <= columns
    assert max(map(len, shown.splitlines())) <= max(columns, 58)  # a key, and 20 columns of words
    assert "Peak learning rate." in " ".join(shown.split())


def test_it_fits_also_with_long_values():
    long = "a" * 200
    lines = train_help(["--help", f"--model.path={long}", f"--data.path={long}"]).splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_lists_its_keys_with_type_value_and_text(section):
    shown = train_help(["--help", section, "--stage=distill"])
    plain = " ".join(shown.split())
    assert plain.startswith(f"[{section}] {texts()[section]}")
    assert max(map(len, shown.splitlines())) <= 80
    for key in KEYS:
        if key.startswith(f"{section}.") and f"--{key.replace('_', '-')} " in shown:
            assert texts()[key] in plain


def test_the_values_are_those_of_the_stage_the_file_and_the_flags(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('stage = "sft"\n[optimizer]\nb1 = 0.5\n')
    shown = train_help(["--help", "optimizer", f"--config={path}", "--optimizer.b2=0.25"])
    for line in ("learning-rate 0.002", "b1 0.5", "b2 0.25"):
        assert f"--optimizer.{line}\n" in shown


def test_what_a_stage_does_not_read_is_named():
    shown = " ".join(train_help(["--stage=sft", "--help", "rollout"]).split())
    assert "--rollout.group-size" not in shown
    assert "--stage=sft does not read prompts, group_size," in shown


def test_all_shows_every_key_that_some_stage_reads():
    shown = "\n".join(train_help(["--help", "all", f"--stage={stage}"]) for stage in STAGES)
    for key in KEYS:
        if key != "stages" and not key.startswith("rationales."):
            assert f"--{key.replace('_', '-')} " in shown, key


def test_a_wrong_section_names_the_nearest():
    with pytest.raises(InputError, match='no section "rolout". Try --help rollout'):
        train_help(["--help", "rolout"])


def test_several_sections_and_both_spellings():
    assert train_help(["--help=mesh"]) == train_help(["-h", "mesh"])
    both = train_help(["--help", "mesh", "lora"])
    assert both.index("[mesh]") < both.index("[lora]")


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--stage=sft", "--help=eval"]])
def test_it_is_asked_for(argv):
    assert asks_for_help(argv)
    assert not asks_for_help(["--stage=sft", "--name", "help"])
