"""What a stage lists is what its run compiles; the list needs no weights."""

import jax
import pytest
from rich.console import Console

from cotjax.config import stage_class
from cotjax.models.formats import load
from cotjax.parallel.mesh import make_mesh
from cotjax.startup import counted
from cotjax.training.loop import LoopSettings, fit
from cotjax.training.printer import Printer
from tests.tiny import TEACHERS, make_config, write_teachers

# What JAX compiles of its own, or Orbax to write a checkpoint: copies, casts, keys, pieces.
HOUSEKEEPING = {
    *("copy", "convert_element_type", "broadcast_in_dim", "slice", "_multi_slice", "_identity_fn"),
    *("_threefry_seed", "_threefry_fold_in", "_threefry_split", "stage", "_uniform"),
}
TAUGHT = ["--distill.coefficient=0.1", "--curriculum.ranking-problems=4"]
ORDERED = ["--curriculum.num-monitor=4", "--curriculum.examples=12", "--curriculum.buckets=2"]
LONG = ["--batch.sequence-length=96"]
CASES = {
    "sft": ["--stage=sft"],
    "sft, an adapter on a mesh": [
        *("--stage=sft", "--lora.rank=2", "--mesh.fsdp=2", "--mesh.data=2", "--batch.size=4"),
    ],
    "reconstruct near its start": [
        *("--stage=reconstruct", "--supervised.kl-coefficient=0.1", *LONG),
    ],
    "grpo": ["--stage=grpo"],
    "grpo, several updates and a reference": [
        *("--stage=grpo", "--policy.inner-updates=2", "--policy.kl-coefficient=0.1"),
        "--policy.micro-batch=2",
    ],
    "grpo, several lengths and widths": [
        *("--stage=grpo", "--rollout.max-new-tokens=65", "--policy.micro-batch=2"),
        *("--data.prompt-widths=2", "--policy.overlong=mask", "--policy.overlong-buffer=4"),
    ],
    "grpo on a mesh, half precision": [
        *("--stage=grpo", "--mesh.fsdp=2", "--mesh.tensor=2", "--policy.kl-coefficient=0.1"),
        *("--model.compute-dtype=bfloat16", "--policy.refill=1", "--rollout.stop", "Tom"),
    ],
    "masked grpo in buckets": [
        *("--stage=grpo", "--mask.rule=share", "--rollout.max-prompt-tokens=96"),
        *("--curriculum.buckets=2", "--curriculum.difficulty=rank_fusion"),
        *("--curriculum.signals", "student_loss", "pass_rate"),
    ],
    "grpo with teachers": ["--stage=grpo", *TAUGHT],
    "grpo with teachers, a divergence": [
        *("--stage=grpo", "--distill.on-policy-loss=divergence", "--curriculum.schedule=linear"),
        *("--policy.micro-batch=2", *TAUGHT),
    ],
    "rewrite": [
        *(
            "--stage=rewrite",
            "--supervised.kl-coefficient=0.1",
            "--mining.questions=8",
            "--mining.max-new-tokens=8",
            *LONG,
        ),
        "--rollout.max-prompt-tokens=96",
    ],
    "rft near its start, in buckets": [
        *("--stage=rft", "--supervised.kl-coefficient=0.1", "--curriculum.buckets=2"),
        *("--curriculum.difficulty=pass_rate", "--data.prompt-widths=2"),
    ],
    "distill": ["--stage=distill", "--curriculum.schedule=linear", *ORDERED],
    "distill, the student's own text": [
        *("--stage=distill", "--distill.on-policy=0.5", "--distill.alpha=0.2", "--mesh.data=2"),
        *("--curriculum.difficulty=student_loss", *ORDERED),
    ],
    "distill, teachers that are shown steps": [
        *("--stage=distill", "--distill.on-policy=0.5", "--curriculum.schedule=linear", *ORDERED),
        *("--curriculum.ranking-problems=4", "shown"),
    ],
    "distill until teachers hand over": [
        *("--stage=distill", "--curriculum.schedule=adaptive", "--curriculum.check-every=1"),
        *("--curriculum.pass-rate=0.9", *ORDERED),
    ],
    "distill from texts": [
        *("--stage=distill", "--distill.target=text", "--distill.no-filter-texts", *LONG),
        *("--curriculum.schedule=adaptive", "--curriculum.check-every=1", *ORDERED),
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    write_teachers(folder)
    return folder


def open_stage(folder, case):
    """The stage of a case; nothing that an earlier one compiled is in memory."""
    flags = CASES[case]
    if "distill" in " ".join(flags):
        names = ["weak@0", "weak@1", "strong@0.5", "self@1"] if "shown" in flags else TEACHERS
        paths = [name if name[:4] == "self" else str(folder / name) for name in names]
        flags = [*(flag for flag in flags if flag != "shown"), "--teachers.paths", *paths]
    config = make_config(folder, "--steps=2", *flags)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    jax.clear_caches()
    return stage_class(config.stage).from_config(config, mesh)


def compiled(programs):
    for program in programs:
        program.function.lower(*program.args, **program.kwargs).compile()


def run_and_count(stage, folder):
    """The names of what a run of two steps compiles."""
    quiet = Console(quiet=True)
    settings = LoopSettings(steps=2, eval_every=0, checkpoint_every=0, keep=1, resume=False)
    with counted() as asked:
        stage.prepare(folder)
        fit(stage, folder, settings, Printer(quiet))
    return asked.names.keys() - HOUSEKEEPING


@pytest.mark.parametrize("case", CASES)
def test_a_run_compiles_nothing_that_its_stage_does_not_list(folder, case, tmp_path):
    stage = open_stage(folder, case)
    compiled(stage.programs())
    assert not run_and_count(stage, tmp_path)


def test_a_program_that_the_list_does_not_have_is_found(folder, tmp_path):
    stage = open_stage(folder, "grpo")
    listed = stage.programs()
    names = {program.function.__name__ for program in listed}
    assert names == {
        *("generate", "init_fn", "_informative_groups", "advantage", "update", "copied")
    }  # fmt: skip
    compiled(one for one in listed if one.name not in ("rollout", "update"))
    assert run_and_count(stage, tmp_path) == {"generate", "update"}


@pytest.mark.parametrize("case", ["sft, an adapter on a mesh", "grpo", "grpo with teachers"])
def test_the_list_needs_no_weights(folder, case, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights are read")

    monkeypatch.setattr(load, "fill", refuse)
    stage = open_stage(folder, case)
    compiled(stage.programs())
    with pytest.raises(AssertionError, match="weights are read"):
        assert stage.state
