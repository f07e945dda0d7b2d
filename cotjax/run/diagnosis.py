"""What `python -m cotjax.doctor` looks at: a config, its files, its models and its teachers.

Every check is a function that gives words, or raises the `InputError` with which a run would stop;
those that a run cannot afford (weights, forward passes) are here alone.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from cotjax.config import Config, check_plugins, name_of, stage_class, stage_configs
from cotjax.config.plugins import open_stage
from cotjax.errors import InputError
from cotjax.findings import Examination, Finding
from cotjax.parallel.mesh import run_mesh, use_cpu_cores
from cotjax.remote.place import folder_of, is_url, joined
from cotjax.run import early
from cotjax.run.folder import check_folder
from cotjax.run.mirrored import check_bucket
from cotjax.startup import check_platforms
from cotjax.student import guards, health
from cotjax.student.load import LoadedPolicy, load_policy, model_bytes
from cotjax.student.records import load_records, solution

LEAST_MASS = {"bucket": 0.5, "renormalise": 0.9, "drop": 0.9}  # of a teacher's probability
NUM_TEXTS = 64  # solutions of so many records are scored, at most


def examine(config: Config) -> Iterator[Finding]:
    """Everything that can be known of a run before it, one finding at a time.

    Args:
      config: of a stage, or of a list, whose later stages are checked with the first one's model.
    """
    folder, look = folder_of(joined(config.output, config.name)), Examination()
    stages = [own for _, own in stage_configs(config)] if config.stages else [config]
    yield from look.check("settings", _settings, config)
    yield from look.check("device", check_platforms)
    for own in stages:
        label = f"{own.name}: " if config.stages else ""
        yield from look.check(f"{label}files", _files, own, folder)
    first = stages[0]
    yield from look.check("model", early.check_model, first.model.path)
    if look.failed:
        return
    yield from look.check("output", _output, config, folder, stages)
    yield from _taken(config, folder)
    yield from look.check("device", _device, first)
    if look.failed:
        return
    mesh = run_mesh(first.mesh)
    for own in stages:
        label = f"{own.name}: " if config.stages else ""
        init = own.model.init if own is first else "pretrained"  # it begins from the one before
        model = dataclasses.replace(own.model, path=first.model.path, init=init)
        whole = dataclasses.replace(own, model=model, resume=False)
        yield from _examine_stage(whole, mesh, label, numbers=own is first)


def _settings(config: Config) -> str:
    check_plugins(config)
    stages = [own for _, own in stage_configs(config)] if config.stages else [config]
    told = ", ".join(f"{name_of(own.stage)} ({own.steps} steps)" for own in stages)
    return f"{told}; every key is read by its stage"


def _output(config: Config, folder: pathlib.Path, stages: Sequence[Config]) -> str:
    early.check_output(config.output, folder, early.least_bytes(stages))
    return check_bucket(config) if is_url(config.output) else f"{folder} can be written"


def _taken(config: Config, folder: pathlib.Path) -> Iterator[Finding]:
    try:
        check_folder(folder, config.resume)
    except InputError as error:
        yield Finding("NOTE", "output", str(error))


def _device(config: Config) -> str:
    use_cpu_cores(model_bytes(config.model.path))
    mesh = run_mesh(config.mesh)
    kind = mesh.devices.flat[0].device_kind
    return f"{mesh.size} × {kind}, " + ", ".join(f"{k} {n}" for k, n in mesh.shape.items())


def _files(config: Config, folder: pathlib.Path) -> str:
    early.check_data(config)
    early.check_teachers(config, made_here=folder)
    data = config.data
    return f"{data.mixture or data.path or name_of(data.source)} is there"


def _examine_stage(config: Config, mesh: Any, label: str, *, numbers: bool) -> Iterator[Finding]:
    """One stage: text first, then what it needs of the devices, then numbers."""
    look, path = Examination(), config.model.path
    yield from look.check(f"{label}student", load_policy, config, mesh)
    if look.failed:
        return
    student: Any = look.got
    yield Finding("OK", f"{label}student", _described(student, path))
    yield from look.notes(f"{label}student", student.notes)
    name = f'model.path = "{path}"'
    args = student.tokenizer, student.prompts, name
    yield from look.check(f"{label}template", health.check_template, *args)
    yield from look.check(f"{label}data", load_records, config, student.tokenizer, student.prompts)
    if look.failed:
        return
    found: Any = look.got
    train, held_out = found
    told = f"{len(train):,} records to train on, {len(held_out):,} held out"
    yield Finding("OK", f"{label}data", told)
    yield from look.check(f"{label}golds", guards.gold_checks, config, held_out)
    if look.failed:
        return
    golds: Any = look.got
    yield from look.notes(f"{label}golds", golds)
    yield from look.check(f"{label}stage", open_stage, config, mesh)
    if look.failed:
        return
    stage: Any = look.got
    programs = len({program.name for program in stage.programs()})
    yield Finding("OK", f"{label}stage", f"opened; {programs} programs to compile")
    records = [*held_out, *(train[i] for i in range(min(len(train), NUM_TEXTS)))][:NUM_TEXTS]
    if numbers:
        score = functools.partial(_score, student, config, mesh, records, name)
        yield from look.check(f"{label}numbers", lambda: str(score()))
    yield from _examine_teachers(config, mesh, student, records, label)


def _described(student: LoadedPolicy, path: str) -> str:
    shape, sizes = student.architecture, jax.tree.leaves(student.all_shapes)
    end = student.tokenizer.convert_ids_to_tokens(student.eos_id)
    count = sum(leaf.size for leaf in sizes)
    return (
        f"{path}: {shape.family}, {count / 1e6:,.1f} million parameters, {sizes[0].dtype}, context "
        f"{shape.max_positions}, ends with {end!r} ({student.eos_id})"
    )


def _score(
    student: LoadedPolicy, config: Config, mesh: Any, records: Sequence[Any], name: str, **more: Any
) -> health.Scored:
    texts = [(student.prompts.solve(one.question), solution(one)) for one in records]
    dtype = config.model.compute_dtype
    params = student.all_params(student.params)
    return health.score(student, params, mesh, texts, name=name, compute_dtype=dtype, **more)


def _examine_teachers(
    config: Config, mesh: Any, student: LoadedPolicy, records: Sequence[Any], label: str
) -> Iterator[Finding]:
    """The models among the teachers, which the stage has found to fit the student already."""
    from cotjax.teachers.teacher_plan import plan_teacher

    distill, teachers = config.distill, config.teachers
    by_logits = not (stage_class(config.stage).reads_key("distill.target")
                     and distill.target == "text")  # fmt: skip
    for teacher in early.used_teachers(config):
        if teacher.is_file:
            continue
        path = teacher.path
        look, name = Examination(), f"teacher {path}"
        where = f"{label}{name}"
        yield from look.check(where, plan_teacher, path, config, mesh)
        if look.failed:
            continue
        plan: Any = look.got
        yield Finding("OK", where, _described(plan.student, path))
        if by_logits:
            yield from look.check(where, _compared, plan, student, config.model.path)
        own = dataclasses.replace(config.model, compute_dtype=teachers.dtype)
        own_config = dataclasses.replace(config, model=own)
        more = {"top_k": teachers.top_k, "temperature": distill.temperature}
        score = functools.partial(_score, plan.student, own_config, mesh, records, name, **more)
        yield from look.check(where, score)
        scored: Any = look.got
        if scored is None:
            continue
        yield Finding("OK", where, str(scored))
        if by_logits and stage_class(config.stage).reads_key("teachers.top_k"):
            yield from _examine_mass(config, scored, name, where)


def _compared(plan: Any, student: LoadedPolicy, path: str) -> str:
    from cotjax.teachers.pool import compared

    count = compared(plan, student.tokenizer, path, student.eos_id)
    return f"{count:,} tokens in common, same ids, same end token"


def _examine_mass(
    config: Config, scored: health.Scored, name: str, where: str
) -> Iterator[Finding]:
    """What a store of top logits keeps: a failure where one is used, else a note."""
    teachers, look = config.teachers, Examination()
    least = LEAST_MASS[teachers.tail]
    check = functools.partial(
        health.check_mass, scored.mass, top_k=teachers.top_k, name=name, least=least
    )
    for found in look.check(where, check):
        unused = found.verdict == "FAIL" and not teachers.cache
        yield dataclasses.replace(found, verdict="NOTE") if unused else found
