"""`cotjax.evaluate`, `cotjax.generate`, `cotjax.plot`: of runs, folders and models alike."""

import pytest

import cotjax
from cotjax.errors import InputError
from cotjax.evaluate import evaluate as from_flags
from cotjax.generate import main as generate_command


def test_a_run_measures_as_its_result_says(trained):
    expected = {"step": 2} | trained.result["after"]
    assert trained.evaluate() == cotjax.evaluate(trained) == expected
    assert cotjax.evaluate(trained.folder) == from_flags(str(trained.folder)) == expected


def test_settings_come_over_the_run_s(trained):
    assert trained.evaluate(eval={"problems": 2})["problems"] == 2


def test_the_base_is_measured_like_its_student(world, trained):
    before = cotjax.evaluate(world.student, config=trained.config)
    assert before == {"step": 0} | trained.result["before"]


def test_a_list_is_measured_and_asked_at_its_end(listed):
    after = {k: v for k, v in listed.result["after"].items() if k != "name"}
    assert listed.evaluate() == {"step": 2} | after
    assert listed.generate("Why?", max_new_tokens=4).startswith("Answer")


def test_one_answer_is_a_text_and_several_a_list(world, trained):
    one = cotjax.generate(world.student, "Why?", max_new_tokens=6, seed=1)
    assert isinstance(one, str) and one.startswith("Answer")
    two = cotjax.generate(world.student, "Why?", n=2, max_new_tokens=6, seed=1)
    assert isinstance(two, list) and two[0] == one
    assert trained.generate("Why?", max_new_tokens=4, stop="swer") == "Answer"


def test_the_command_writes_what_python_gets(world, capsys):
    asked = {"max_new_tokens": 6, "seed": 1}
    flags = ["--max-new-tokens=6", "--seed=1", f"--checkpoint={world.student}"]
    assert generate_command(["Why?", *flags]) == 0
    assert capsys.readouterr().out == cotjax.generate(world.student, "Why?", **asked) + "\n"


def test_an_unknown_setting_lists_what_there_is(trained):
    with pytest.raises(InputError, match="no setting top. There are n, max_new_tokens, temp"):
        trained.generate("Why?", top=1)


def test_a_stop_that_is_no_text_is_named():
    with pytest.raises(InputError, match="stop = None: not a text"):
        cotjax.generate("nowhere", "Why?", stop=None)


def test_a_value_out_of_range_stops_before_weights_are_read():
    with pytest.raises(InputError, match="n = 0: out of range"):
        cotjax.generate("no such model", "Why?", n=0)


def test_a_picture_of_one_run_of_several_and_of_a_list(trained, listed, tmp_path):
    path = tmp_path / "runs.png"
    figure = cotjax.plot(trained, str(listed.folder), labels=["one", "many"], path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    left, middle, right = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "many"]
    dots = [line for line in left.lines if line.get_label() == "many"]
    assert len(dots[0].get_xdata()) == 3  # after each stage
    assert middle.get_title(loc="left") == "Reward"
    assert trained.plot().axes[0].lines


def test_a_picture_needs_runs_and_a_label_for_each(trained):
    with pytest.raises(InputError, match="0 runs"):
        cotjax.plot()
    with pytest.raises(InputError, match="1 runs and 2 labels"):
        cotjax.plot(trained, labels=["a", "b"])
