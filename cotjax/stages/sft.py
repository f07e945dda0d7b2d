"""Supervised fine-tuning: cross-entropy on the rationale and answer, given the question."""

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Record
from cotjax.stages import common
from cotjax.stages.supervised import SupervisedStage, encode_solution


def open_stage(config: Config, mesh: Mesh) -> SupervisedStage:
    """Questions as prompts, whole solutions as targets."""
    student = common.open_student(config, mesh)
    train, held_out = common.open_records(config, student)

    def encode(record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        del rng
        return encode_solution(student, config, record, common.solve_prompt(student, record))

    return SupervisedStage(config, mesh, student, train, held_out, encode)
