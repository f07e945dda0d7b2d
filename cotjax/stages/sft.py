"""Supervised fine-tuning: cross-entropy on the rationale and answer, given the question."""

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.stages import common
from cotjax.stages.supervised import SupervisedStage, open_solution


def open_stage(config: Config, mesh: Mesh) -> SupervisedStage:
    """Questions as prompts, whole solutions as targets."""
    student = common.open_student(config, mesh)
    train, held_out = common.open_records(config, student)
    encode = open_solution(student, config)
    return SupervisedStage(config, mesh, student, train, held_out, encode)
