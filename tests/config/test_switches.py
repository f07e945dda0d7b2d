"""Settings that do nothing: refused where they were given, or switched off by what came later."""

import pytest

from cotjax.config import Config, load, stage_configs, to_toml
from cotjax.config.stages import idle_settings
from cotjax.config.switches import Switch, reset, value_of, without
from cotjax.errors import InputError

# (stage, a setting, its value, what switches it on); without that it does nothing.
CASES = [
    ("grpo", "lora.alpha", "4", ["--lora.rank=2"]),
    ("sft", "lora.dropout", "0.5", ["--lora.rank=2"]),
    ("grpo", "data.filter_teacher", "false", ["--data.source=jsonl", "--data.path=x"]),
    ("sft", "data.on_duplicate", "drop", ["--data.source=jsonl", "--data.path=x"]),
    ("grpo", "data.split", "test", ["--data.source=tfds", "--data.path=x"]),
    ("grpo", "data.size", "7", ["--data.source=reasoning_gym", "--data.path=x"]),
    ("grpo", "reward.tolerance", "0.5", []),
    ("sft", "data.concise_share", "0.5", []),
    ("sft", "deliberate.check", "0.25", ["--data.style=deliberate"]),
    ("grpo", "curriculum.pacing", "contiguous", ["--curriculum.buckets=2"]),
    ("grpo", "curriculum.examples", "64", ["--curriculum.buckets=2"]),
    ("grpo", "curriculum.difficulty", "cot_tokens", ["--curriculum.buckets=2"]),
    ("rewrite", "curriculum.replay", "0.5", ["--curriculum.buckets=2"]),
    ("rft", "curriculum.replay", "0.5", ["--curriculum.buckets=2"]),
    ("rewrite", "curriculum.advance_after", "3", ["--curriculum.buckets=2"]),
    ("grpo", "curriculum.samples", "2",
     ["--curriculum.buckets=2", "--curriculum.difficulty=pass_rate"]),
    ("grpo", "curriculum.signals", "cot_steps",
     ["--curriculum.buckets=2", "--curriculum.difficulty=rank_fusion"]),
    ("distill", "curriculum.rescore", "true", ["--curriculum.difficulty=student_loss"]),
    ("grpo", "policy.kl_estimator", "k3", ["--policy.kl_coefficient=0.1"]),
    ("grpo", "mask.share_start", "0.25", ["--mask.rule=share"]),
    ("grpo", "mask.granularity", "number", ["--mask.rule=bridge"]),
    ("grpo", "mask.keep_first", "true", ["--mask.rule=bridge"]),
    ("reconstruct", "mask.token", "[GAP]", []),
    ("reconstruct", "reconstruct.mask_count", "2", []),
    ("grpo", "teachers.paths", "tiny", ["--distill.coefficient=0.1"]),
    ("grpo", "curriculum.schedule", "linear", ["--distill.coefficient=0.1"]),
    ("grpo", "curriculum.ranking_problems", "8", ["--distill.coefficient=0.1"]),
    ("grpo", "distill.divergence", "reverse_kl",
     ["--distill.coefficient=0.1", "--distill.on-policy-loss=divergence"]),
    ("distill", "distill.beta", "0.25", ["--distill.divergence=jensen_shannon"]),
    ("distill", "distill.skew", "0.25", ["--distill.divergence=skew_reverse_kl"]),
    ("distill", "distill.temperature_end", "2.0", ["--distill.temperature-schedule=linear"]),
    ("distill", "distill.alpha_end", "0.5", ["--distill.alpha-schedule=cosine"]),
    ("distill", "distill.on_policy_loss", "policy_gradient", ["--distill.on-policy=0.5"]),
    ("distill", "distill.filter_texts", "false", ["--distill.target=text"]),
    ("distill", "rollout.prompts", "4", ["--distill.target=text"]),
    ("distill", "rollout.temperature", "0.5", ["--curriculum.difficulty=pass_rate"]),
    ("distill", "curriculum.patience", "2", ["--curriculum.schedule=adaptive"]),
    ("rewrite", "batch.size", "4", []),
    ("rewrite", "rewrite.equations", "require", []),
    ("rewrite", "rewrite.min_right", "2", []),
    ("rewrite", "rewrite.updates", "2", []),
    ("rewrite", "supervised.kl_coefficient", "0.5", []),
    ("sft", "supervised.patience", "2", ["--eval.every=5"]),
    ("reconstruct", "supervised.patience", "2", ["--eval.at", "0.5"]),
    ("grpo", "reward.length_per_step", "20", []),
    ("grpo", "reward.target_weight", "0.01", ["--reward.length=target"]),
    ("grpo", "reward.relative_weight", "0.5", ["--reward.length=group_relative"]),
    ("grpo", "reward.limit_end", "32", ["--reward.length=budget"]),
    ("grpo", "reward.limit_rounds", "4", ["--reward.length=budget"]),
    ("rewrite", "mining.attempts", "2", []),
]  # fmt: skip
# Switches that are on by default, and how to switch them off.
OFF = {
    "reward.tolerance": ["--reward.verifier=exact"],
    "data.concise_share": ["--data.style=concise"],
    "reconstruct": ["--reconstruct.mask-probability=0"],
    "batch.size": ["--rewrite.no-internalize"],
    "rewrite.equations": ["--rewrite.no-internalize"],
    "rewrite.min_right": ["--rewrite.no-internalize"],
    "rewrite.updates": ["--rewrite.no-internalize"],
    "supervised.kl_coefficient": ["--rewrite.no-internalize"],
    "policy.kl_estimator": ["--policy.kl-coefficient=0"],
    "mining.attempts": ["--mining.questions=0"],
    "reward.length_per_step": ["--reward.length=none"],
}


def flag(key, value):
    return [f"--{key}={value}"]


@pytest.mark.parametrize("stage, key, value, on", CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_setting_whose_switch_is_off_is_refused(stage, key, value, on):
    off = OFF.get(stage, []) or OFF.get(key, [])
    with pytest.raises(InputError) as refused:
        load([f"--stage={stage}", *off, *flag(key, value)])
    said = str(refused.value)
    assert said.startswith(f"the command line: {key} = ") and "does nothing while" in said
    assert said.endswith(f"or leave {key} out.")


@pytest.mark.parametrize("stage, key, value, on", CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_the_same_setting_is_taken_where_its_switch_is_on(stage, key, value, on):
    config = load([f"--stage={stage}", *on, *flag(key, value)])
    assert value_of(config, key) != value_of(load([f"--stage={stage}"]), key)


def test_the_error_says_which_switch_and_how():
    with pytest.raises(InputError) as refused:
        load(["--stage=grpo", "--curriculum.pacing=contiguous"])
    assert str(refused.value) == (
        'the command line: curriculum.pacing = "contiguous": does nothing while '
        "curriculum.buckets = 1. Set curriculum.buckets > 1, or leave curriculum.pacing out."
    )


def test_a_default_written_out_is_no_mistake():
    assert load(["--stage=grpo", "--curriculum.pacing=cumulative"]).curriculum.buckets == 1


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'stage = "grpo"\n[distill]\ncoefficient = 0.5\n[teachers]\npaths = ["tiny"]\n'
        '[curriculum]\nbuckets = 3\npacing = "contiguous"\n'
    )
    return str(path)


def test_a_flag_may_switch_off_what_a_file_sets(file):
    config = load(["--config", file, "--distill.coefficient=0"])
    assert config.teachers.paths == () and config.curriculum.pacing == "contiguous"


def test_what_a_flag_switched_off_comes_back_from_config_toml(file, tmp_path):
    config = load(["--config", file, "--curriculum.buckets=1", "--name=a"])
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert load(["--config", str(tmp_path / "again.toml")]) == config


def test_a_flag_that_does_nothing_beside_a_file_is_refused(file):
    with pytest.raises(InputError, match=r"the command line: distill\.beta = 0\.25: does nothing"):
        load(["--config", file, "--distill.beta=0.25", "--distill.on-policy-loss=divergence"])


def test_in_python_the_same_holds():
    with pytest.raises(InputError, match=r"Config\.for_stage: mask\.share_end = 0\.75: does noth"):
        Config.for_stage("grpo", mask={"share_end": 0.75})


def test_an_entry_of_a_list_is_held_to_its_own():
    with pytest.raises(InputError, match=r"\[\[stages\]\] grpo: mask\.share_end = 0\.75: does"):
        Config.for_stages([{"stage": "sft"}, {"stage": "grpo", "mask": {"share_end": 0.75}}])


def test_a_setting_for_all_is_left_out_where_it_does_nothing(tmp_path):
    config = load(["--stage=bridge", "--curriculum.pacing=contiguous", "--name=a"])
    _, grpo, rewrite = [own for _, own in stage_configs(config)]
    assert grpo.curriculum.pacing == "contiguous" and rewrite.curriculum.pacing == "cumulative"
    (tmp_path / "again.toml").write_text(to_toml(config))
    again = stage_configs(load(["--config", str(tmp_path / "again.toml")]))
    assert again == stage_configs(config)


def test_a_setting_for_all_that_does_nothing_anywhere_is_refused():
    with pytest.raises(InputError, match=r"lora\.alpha = 4\.0: does nothing while lora\.rank = 0"):
        load(["--stage=bridge", "--lora.alpha=4"])
    with pytest.raises(InputError, match=r"for_stages: lora\.alpha = 4\.0: does nothing"):
        Config.for_stages([{"stage": "sft"}, {"stage": "grpo"}], lora={"alpha": 4.0})


def test_a_mixture_draws_from_the_sources_that_it_names():
    config = load(["--data.mixture", "problems=1, jsonl:a.jsonl=3", "--data.eval-path=b.jsonl",
                   "--data.max-steps=4"])  # fmt: skip
    assert config.data.max_steps == 4


class SwitchedStage:
    """A user's stage that reads its batch only in long runs."""

    reads = ("batch",)
    switches = (Switch("steps", ">= 10", lambda config: config.steps >= 10, ("batch",)),)

    @classmethod
    def from_config(cls, config, mesh):
        raise NotImplementedError


def test_a_mixture_that_cannot_be_read_is_refused_with_the_config():
    with pytest.raises(InputError, match='data.mixture = "problems": "problems" needs a source'):
        load(["--data.mixture=problems"])


def test_a_stage_of_ones_own_has_switches_too():
    with pytest.raises(InputError, match=r"batch\.size = 3: does nothing while steps = 9\. Set st"):
        Config.for_stage(SwitchedStage, batch={"size": 3}, steps=9)
    assert Config.for_stage(SwitchedStage, batch={"size": 3}, steps=10).batch.size == 3


def test_a_length_that_is_rewarded_beside_a_reward_of_ones_own_is_refused(tmp_path):
    (tmp_path / "own.py").write_text("def reward(completion, record):\n    return 1.0\n")
    flags = [f"--reward.function={tmp_path}/own.py:reward", "--reward.length=none"]
    with pytest.raises(InputError, match='reward.length = "none": does nothing while reward.funct'):
        load(["--stage=grpo", *flags])


@pytest.mark.parametrize("stage", ["sft", "reconstruct", "rft", "rewrite", "distill"])
def test_only_grpo_takes_another_length(stage):
    with pytest.raises(InputError, match=f"reward.length: stage {stage} does not read it; --stage"):
        load([f"--stage={stage}", "--reward.length=none"])


def test_no_built_in_default_does_nothing():
    for stage in ("sft", "grpo", "rft", "reconstruct", "rewrite", "distill"):
        assert idle_settings(load([f"--stage={stage}"])) == {}


def test_reset_takes_keys_of_the_top_and_of_sections():
    config, defaults = load(["--steps=3", "--rollout.prompts=4", "--rollout.top-k=2"]), load([])
    back = reset(config, {"steps", "rollout.top_k"}, defaults)
    assert (back.steps, back.rollout.top_k, back.rollout.prompts) == (60, 0, 4)


def test_without_leaves_no_empty_section_behind():
    table = {"a": {"b": 1}, "c": {"d": 1, "e": {}}, "f": 2}
    assert without(table, {"a.b", "c.d"}) == {"c": {"e": {}}, "f": 2}
