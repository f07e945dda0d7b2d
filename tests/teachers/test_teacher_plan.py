"""A teacher before its weights are read: where they are, how large, and that they fit."""

import jax
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.models.formats import load
from cotjax.parallel.mesh import make_mesh
from cotjax.teachers import teacher_plan
from cotjax.teachers.teacher_plan import check_memory, plan_teacher
from tests.tiny import TEACHERS, make_config, write_teachers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher_plan")
    write_teachers(folder)
    return folder


def plan(folder, name, *more):
    path = str(folder / name)
    config = make_config(folder, "--stage=distill", *more, "--teachers.paths", path)
    return plan_teacher(path, config, make_mesh(1))


def test_size_and_width_are_those_of_the_weights_and_need_none(folder, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(load, "fill", None)
        weak = plan(folder, "weak")
        assert weak.width == TEACHERS["weak"].hidden_size and weak.run is None
        assert weak.source == folder / "weak"
        size = weak.size
    params, rest = weak.student.read()
    assert rest == {} and size == sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_a_teacher_computes_in_its_own_format(folder):
    half = plan(folder, "weak", "--teachers.dtype=bfloat16")
    assert half.size * 2 == plan(folder, "weak").size
    kinds = {np.dtype(leaf.dtype).name for leaf in jax.tree.leaves(half.student.shapes)}
    assert kinds == {"bfloat16"}


def test_as_many_as_are_in_use_and_the_next_one_have_to_fit(folder, monkeypatch):
    plans = [plan(folder, name) for name in TEACHERS]
    both = sum(one.size for one in plans)
    monkeypatch.setattr(teacher_plan, "free_bytes", lambda mesh: both)
    check_memory(plans, 1, make_mesh(1))
    monkeypatch.setattr(teacher_plan, "free_bytes", lambda mesh: both - 1)
    with pytest.raises(InputError, match="teachers.paths: 2 at once need"):
        check_memory(plans, 1, make_mesh(1))
    check_memory(plans, 0, make_mesh(1))
