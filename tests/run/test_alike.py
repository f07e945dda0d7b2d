"""Models measured alike: the settings of each, and a refusal where they differ."""

import pytest

from cotjax.errors import InputError
from cotjax.run.alike import configs_of
from tests.tiny import write_student


def test_a_model_is_measured_with_the_settings_of_the_run(trained, tmp_path):
    base = write_student(tmp_path / "base")
    model, run = configs_of([base, str(trained.folder)], ["--eval.samples=2"])
    assert model.model.path == base and run.model.path != base
    assert model.data == run.data and model.eval == run.eval and run.eval.samples == 2


def test_models_that_are_measured_otherwise_are_refused(trained, listed):
    names = [str(trained.folder), str(listed.folder)]
    for flags in ([], ["--eval.max-new-tokens=8", "--rollout.max-prompt-tokens=32"]):
        configs_of(names, flags)
    file = trained.folder / "config.toml"
    text = file.read_text()
    try:
        file.write_text(text.replace("[eval]", '[eval]\nverifier = "exact"').replace(
            'verifier = "auto"\n', ""))  # fmt: skip
        with pytest.raises(InputError, match='eval.verifier is "exact" in one and "auto" in the'):
            configs_of(names, [])
        configs_of(names, ["--eval.verifier=exact"])
    finally:
        file.write_text(text)
