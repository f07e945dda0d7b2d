"""What stops a policy stage: a sampler that is not the trainer, NaN logits, and too little room."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.interfaces import End
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.grpo import Grpo
from cotjax.student import preflight
from cotjax.student.generate import rollout_sampling
from cotjax.student.load import load_policy
from cotjax.train import main as train
from tests.tiny import flags as small
from tests.tiny import make_config, write_sevens, write_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    write_student(folder / "student")
    write_sevens(folder / "sevens.jsonl")
    return folder


def open_stage(folder, *more):
    return Grpo.from_config(make_config(folder, "--steps=3", *more), make_mesh(1))


def updated(stage):
    """State and metrics of one step."""
    work = stage.next_step(stage.state.params, 0)
    state, metrics = stage.update(stage.state, work.batch)
    return state, work.metrics | {name: float(s / n) for name, (s, n) in metrics.items()}


# The sampler's gap.


@pytest.mark.parametrize(
    ("most", "flags"),
    [
        (1e-5, []),
        (preflight.SAMPLER_GAP["bfloat16"], ["--model.compute-dtype=bfloat16"]),
        (preflight.SAMPLER_GAP["bfloat16"], ["--rollout.cache-dtype=bfloat16"]),
        (preflight.SAMPLER_GAP["int8"], ["--rollout.cache-dtype=int8"]),
    ],
    ids=["float32", "bfloat16", "bfloat16 cache", "int8 cache"],
)
def test_sampler_and_trainer_agree_as_their_formats_promise(folder, most, flags):
    stage = open_stage(folder, *flags)
    _, metrics = updated(stage)
    assert metrics["sampler_gap"] < most / 5, "the limit is beyond rounding"
    if "--model.compute-dtype=bfloat16" in flags:
        assert metrics["sampler_gap"] > 1e-5, "rounding shows, so it is measured"
    else:
        cache = stage.config.rollout.cache_dtype
        assert stage.student.policy.cache_dtype == (None if cache == "auto" else jnp.dtype(cache))
    assert stage.limits["sampler_gap"].most == (most if flags else 0.01)


def test_a_gap_above_the_limit_stops_the_run_before_its_state_is_kept(folder, capsys):
    argv = small(folder / "student", folder / "sevens.jsonl", folder / "runs", "gap")
    assert train([*argv, "--steps=3", "--rollout.max-sampler-gap=1e-12"]) == 2
    said = capsys.readouterr().err
    for words in ("error: step 1: ", "nats per token from the trainer's",
                  "above rollout.max_sampler_gap = 1e-12", "0 switches this off"):  # fmt: skip
        assert words in said
    lines = (folder / "runs" / "gap" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["sampler_gap"] > 1e-12, "the line that stopped it is there"
    assert not list((folder / "runs" / "gap" / "checkpoints").iterdir())


def test_the_gap_has_no_limit_where_it_is_switched_off_or_means_nothing(folder):
    assert "sampler_gap" not in open_stage(folder, "--rollout.max-sampler-gap=0").limits
    untempered = "--policy.objective=bridge_release", "--rollout.temperature=0.7"
    assert "sampler_gap" not in open_stage(folder, *untempered).limits


# NaN logits: the token "3" leads to them.


def poisoned(stage):
    """The stage with a NaN in the embedding of a token that some completions have."""
    three = stage.student.tokenizer.convert_tokens_to_ids("3")
    embed = np.asarray(stage.state.params["embed"]["embedding"]).copy()
    embed[three] = np.nan
    params = stage.state.params | {"embed": {"embedding": jnp.asarray(embed)}}
    stage.state = dataclasses.replace(stage.state, params=params)
    return stage


def test_a_completion_that_meets_a_nan_teaches_nothing_and_harms_nothing(folder):
    stage = poisoned(open_stage(folder, "--rollout.on-nonfinite=count"))
    work, sampled = stage.sample_step(stage.state.params, 0)
    ill = sampled.rollout.end == End.NONFINITE
    assert work.metrics["nonfinite"] == ill.sum() and 0 < ill.sum() < ill.size and not work.bad
    assert ill.all(axis=1).any(), "a prompt that has the token itself is in the batch"
    for micro in work.batch:
        gradient, metrics = stage._update.gradient(stage.state.params, stage.frozen, micro)
        assert all(np.isfinite(float(total)) for total, _ in metrics.values())
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert sum(float(micro.completion_mask.sum()) for micro in work.batch), "the others teach"


def test_a_step_with_a_nan_is_a_bad_one_unless_it_is_only_counted(folder):
    stage = poisoned(open_stage(folder))
    work = stage.next_step(stage.state.params, 0)
    count = work.metrics["nonfinite"]
    assert count > 0 and work.bad.startswith(f"{count} completions met a logit that is NaN")
    assert 'rollout.on_nonfinite = "count"' in work.bad
    assert preflight.bad_completions(stage.config, 0) == ""


# Room.


def test_a_run_says_what_its_caches_take(folder):
    notes = open_stage(folder, "--eval.batch-size=20").notes
    # 2 layers, keys and values, 2 heads of 8 numbers, 4 bytes; 4 prompts of 32, 16 rows of 8.
    prompts, own = (2 * 2 * 2 * 8 * 4 * tokens for tokens in (4 * 32, 16 * 8))
    assert prompts == own == 32768
    for name in ("rollout", "evaluation"):
        (note,) = [note for note in notes if note.startswith(f"{name}: ")]
        assert "take 0.1 MiB (prompts 0.0 MiB, completions 0.0 MiB) on each device" in note


def test_a_cache_that_does_not_fit_names_what_to_lower(folder, monkeypatch):
    config = make_config(folder, "--rollout.max-concurrent=8")
    student = load_policy(config, make_mesh(1))
    use = preflight.rollout_use(config, open_stage(folder, "--rollout.max-concurrent=8").sampling)
    monkeypatch.setattr(preflight, "free_bytes", lambda mesh: 2**16 - 1)
    with pytest.raises(InputError) as error:
        preflight.check_fits(student, use)
    said = str(error.value)
    assert "rollout.prompts = 4, rollout.max_concurrent = 8, rollout.max_new_tokens = 8: " in said
    assert "copies in slots 0.0 MiB" in said and "which has 0.1 MiB left" in said
    assert 'rollout.cache_dtype = "bfloat16" or "int8"' in said


def test_fewer_completions_at_once_than_a_slot_holds_are_told(folder, monkeypatch):
    def told(*flags):
        config = make_config(folder, "--rollout.max-concurrent=2", *flags)
        student = load_policy(config, make_mesh(2))
        settings = rollout_sampling(config.rollout, student)
        (note,) = preflight.check_fits(student, preflight.rollout_use(config, settings))
        return note

    note = told()
    assert note.endswith(
        "With rollout.max_concurrent = 2, 8 completions are decoded at once: 2 groups of devices "
        "decode a slot each, which holds 4. Set rollout.completions_per_slot = 1."
    )
    assert "rollout.max_concurrent" not in told("--rollout.completions-per-slot=1")
    monkeypatch.setattr(preflight, "free_bytes", lambda mesh: 0)
    with pytest.raises(InputError, match="rollout.completions_per_slot = 4, rollout.max_new_tok"):
        told()
    with pytest.raises(InputError, match="rollout.prompts = 4, rollout.max_new_tokens = 8: "):
        told("--rollout.completions-per-slot=1")


def test_drafts_are_named_among_what_takes_memory(folder, monkeypatch):
    config = make_config(folder, "--rollout.draft-tokens=999")
    student = load_policy(config, make_mesh(1))
    use = preflight.rollout_use(config, rollout_sampling(config.rollout, student))
    monkeypatch.setattr(preflight, "free_bytes", lambda mesh: 2**16)
    with pytest.raises(InputError, match="= 8, rollout.draft_tokens = 999: keys"):
        preflight.check_fits(student, use)


def test_devices_share_a_cache(folder, monkeypatch):
    flags = "--rollout.prompts=8", "--eval.problems=8", "--eval.batch-size=40"
    config, mesh = make_config(folder, *flags), make_mesh(8)
    student = load_policy(config, mesh)
    use = preflight.evaluation_use(config, student, 8)
    assert use.prompts == 8
    need = 2 * 2 * 2 * 8 * 4 * (8 * 32 + 40 * 8)
    monkeypatch.setattr(preflight, "free_bytes", lambda mesh: need // 8)
    preflight.check_fits(student, use)
    monkeypatch.setattr(preflight, "free_bytes", lambda mesh: need // 8 - 1)
    with pytest.raises(InputError, match="eval.batch_size = 40, eval.max_new_tokens = 8"):
        preflight.check_fits(student, use)
