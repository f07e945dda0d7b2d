"""A `Run` is what its folder holds: whole, going on, or stopped."""

import json
import shutil
import sys
import types

import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.run import Metrics, open_run


def test_metrics_are_columns_of_training_steps(trained):
    metrics = trained.metrics
    assert metrics.steps.tolist() == [1, 2] and len(metrics) == 2
    assert {"reward", "step_s", "accuracy"} <= set(metrics.columns)
    assert "step" not in metrics.columns and "kind" not in metrics.columns
    lines = (trained.folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    expected = [row["reward"] for row in rows if row["kind"] == "train"]
    np.testing.assert_array_equal(metrics["reward"], expected)


def test_evaluations_are_columns_too(trained):
    evaluations = trained.evaluations
    assert evaluations.steps.tolist() == [0, 1, 2]
    assert evaluations["accuracy"][-1] == trained.result["after"]["accuracy"]


def test_a_step_without_a_metric_is_nan():
    metrics = Metrics([{"step": 1, "kind": "train", "a": 1.0}, {"step": 2, "a": None, "b": 3}])
    np.testing.assert_array_equal(metrics["a"], [1.0, np.nan])
    np.testing.assert_array_equal(metrics["b"], [np.nan, 3.0])
    assert metrics.columns == ["a", "b"] and "b" in metrics and "c" not in metrics


def test_an_unknown_column_names_the_nearest(trained):
    with pytest.raises(InputError, match=r'metrics\["rewrd"\]: .* Did you mean "reward"\?'):
        trained.metrics["rewrd"]


def test_pandas_is_used_where_it_is(monkeypatch):
    fake = types.ModuleType("pandas")
    fake.DataFrame = lambda columns, index: (columns, index)
    fake.Index = lambda steps, name: (name, steps.tolist())
    monkeypatch.setitem(sys.modules, "pandas", fake)
    columns, index = Metrics([{"step": 3, "kind": "train", "a": 1.5}]).to_pandas()
    assert columns["a"].tolist() == [1.5] and index == ("step", [3])


def test_without_pandas_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="Install it: pip install pandas"):
        Metrics([]).to_pandas()


def test_the_config_is_the_resolved_one(trained):
    assert trained.config.stage == "grpo" and trained.config.steps == 2
    assert trained.config.policy.clip_low != "auto"


def test_result_and_completions(trained):
    assert trained.result == json.loads((trained.folder / "result.json").read_text())
    kinds = {row["kind"] for row in trained.completions}
    assert kinds == {"before", "train", "eval", "after"}


def test_a_single_stage_has_no_stages(trained):
    assert trained.stages == ()


def test_a_list_has_its_stages_and_counts_their_steps_on(listed):
    names = [run.folder.name for run in listed.stages]
    assert names == ["1-reconstruct", "2-half", "3-alone"]
    assert listed.metrics.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert np.isnan(listed.metrics["reward"][:2]).all()
    assert len(listed.completions) == sum(len(run.completions) for run in listed.stages)


def test_a_run_that_goes_on_is_opened_as_far_as_it_is(trained, tmp_path):
    folder = tmp_path / "going-on"
    folder.mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        shutil.copy(trained.folder / name, folder)
    run = open_run(str(folder))
    assert run.metrics.steps.tolist() == [1, 2] and run.completions == []
    with pytest.raises(InputError, match=r"result.json: is not there.* --resume"):
        _ = run.result


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="holds no config.toml"):
        open_run(tmp_path)


def test_the_student_is_loaded_once_for_all_questions(trained, monkeypatch):
    from cotjax.run import use

    run = open_run(trained.folder)
    first = run.generate("Why?", max_new_tokens=4, seed=1)
    monkeypatch.setattr(use, "open_to_generate", None)
    assert run.generate("Why?", max_new_tokens=4, seed=1) == first
