"""Takes a step of a run again, from the checkpoint before it, and writes nothing into the run."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax

from cotjax import __version__, hub
from cotjax.checksums import damage, steps_in
from cotjax.config import Config, check_plugins
from cotjax.config.plugins import open_stage
from cotjax.config.reading import merge
from cotjax.config.resuming import differences, shaping
from cotjax.interfaces import Step
from cotjax.parallel.mesh import run_mesh, use_cpu_cores
from cotjax.progress import Progress
from cotjax.run.commit import commit_of
from cotjax.run.compare import Compared, compare, first_of
from cotjax.run.data_files import changed_files, data_digests
from cotjax.run.early import check_data, check_model, check_teachers
from cotjax.run.parts import machine, xla_flags
from cotjax.run.token_tables import texts_of
from cotjax.run.written import StepRecord, WrittenRun
from cotjax.startup import check_platforms
from cotjax.student.load import model_bytes
from cotjax.training.checkpoint import Checkpoints, differing_params
from cotjax.training.loop import Look, one_step
from cotjax.training.used import UsedTokens

NOT_COPIED = (
    *("checkpoints", "damaged", "metrics.jsonl", "digests.jsonl", "completions.jsonl"),
    *("report.html", "result.json", ".lock", "owner.json", "error.txt", "*.tmp", "bad_step-*"),
)
# The stage, the parameters before a step's update, and the step, to what the update is made on.
See = Callable[[Any, Any, Step], Step]


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A step that was taken again.

    Attributes:
      step: which, from 1.
      start: the step of the checkpoint before; 0 is the start of the run.
      earlier: the first step behind that whose result differs, and how; None if all are equal.
      findings: about the step itself.
      notes: sentences about what is otherwise than in the run.
      metrics: of the step.
    """

    step: int
    start: int
    earlier: tuple[int, Compared] | None
    findings: list[Compared]
    notes: tuple[str, ...]
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def difference(self) -> Compared | None:
        """The first thing of the step that is not equal."""
        return first_of(self.findings)

    @property
    def equal(self) -> bool:
        """Whether the step, and those before it, are equal in all that the run wrote."""
        return self.difference is None and self.earlier is None


def start_before(written: WrittenRun, step: int) -> tuple[int, tuple[str, ...]]:
    """The newest whole checkpoint before a step, and sentences about those that are not used.

    Args:
      written: the run.
      step: that is to be taken again, from 1.

    Returns:
      the steps that were done then; 0 if the run is taken again from its start.
    """
    folder = written.folder / "checkpoints"
    kept, notes = steps_in(folder), list[str]()
    for found in (one for one in kept if one < step):
        if not (wrong := damage(folder / str(found))):
            return found, tuple(notes)
        notes.append(f"{folder / str(found)} is damaged ({wrong}), so it is not used.")
    there = f"there are those of steps {', '.join(map(str, sorted(kept)))}" if kept else "none is"
    notes.append(
        f"{folder}: no whole checkpoint of a step before {step} ({there}), so the run is taken "
        f"again from its start: {step} step{'s' * (step > 1)}. checkpoint.keep says how many stay."
    )
    return 0, tuple(notes)


def recompute(
    written: WrittenRun, step: int, *, see: See = lambda stage, params, work: work
) -> Replayed:
    """Takes a step again and compares it, and those between, with what the run wrote.

    Args:
      written: the run.
      step: which, from 1.
      see: is shown the stage, the parameters before the step's update and the step, and gives that
        on which the update is made.

    Raises:
      InputError: the run has no such step; or a model or file that it reads is not there.
    """
    written.check_step(step)
    hub.pin(written.folder, "model", "dataset")
    start, notes = start_before(written, step)
    config = written.config_at(step)
    check_plugins(config)
    check_platforms()
    check_model(config.model.path)
    check_data(config)
    check_teachers(config)
    use_cpu_cores(model_bytes(config.model.path))  # before anything asks for the devices
    notes += tuple(_circumstances(written, step, start, config))
    with _copy(written.folder, start) as folder, contextlib.ExitStack() as ending:
        return _recompute(written, folder, config, (start, step), notes, see, ending)


def _recompute(
    written: WrittenRun,
    folder: pathlib.Path,
    config: Config,
    span: tuple[int, int],
    notes: tuple[str, ...],
    see: See,
    ending: contextlib.ExitStack,
) -> Replayed:
    mesh = run_mesh(config.mesh)
    stage = open_stage(config, mesh)
    ending.callback(getattr(stage, "close", lambda: None))
    config = merge(config, {name: dict(own) for name, own in stage.resolved.items()}, "resolved")
    stage.prepare(folder)
    start, step = span
    state, used = stage.state, UsedTokens()
    if start:
        state, used, told = _restored(folder, start, stage, config)
        notes += told
    earlier, findings, now = None, list[Compared](), StepRecord({}, None, [])
    with Progress("taking steps again", step - start, "steps") as progress:
        for done in range(start + 1, step + 1):
            look: Look = functools.partial(see, stage) if done == step else _as_it_is
            state, metrics, work = one_step(stage, state, done - 1, look)
            used = used.plus(metrics)
            now = StepRecord.of(metrics | {"used_tokens": used.total}, work)
            findings = compare(written.step(done), now, texts_of(stage, work))
            if done < step and earlier is None and (found := first_of(findings)):
                earlier = done, found
            progress.advance()
    if (kept := _parameters(written.folder, step, state.params)) is not None:
        findings.append(kept)
    return Replayed(step, start, earlier, findings, notes, now.metrics or {})


def _as_it_is(params: Any, work: Step) -> Step:
    del params
    return work


@contextlib.contextmanager
def _copy(folder: pathlib.Path, start: int) -> Generator[pathlib.Path]:
    """A folder with what a stage kept in the run's, and the checkpoint, which stays where it is."""
    with tempfile.TemporaryDirectory(prefix="cotjax-replay-") as temporary:
        copy = pathlib.Path(temporary) / folder.resolve().name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        (copy / "checkpoints").mkdir()
        if start:
            (copy / "checkpoints" / str(start)).symlink_to(
                (folder / "checkpoints" / str(start)).resolve()
            )
        yield copy


def _restored(
    folder: pathlib.Path, start: int, stage: Any, config: Config
) -> tuple[Any, UsedTokens, tuple[str, ...]]:
    """The state after a checkpoint's step; the stage's data goes on from there."""
    checkpoints = Checkpoints(folder, keep=1)
    state, position = checkpoints.restore(start, stage.state)
    stage.data.set_state(position)
    used, stamped = checkpoints.used(start) or UsedTokens(), checkpoints.settings(start)
    checkpoints.close()
    told = tuple(
        f"config.toml has {key} = {new}, and the checkpoint of step {start} was made with {old}."
        for key, (old, new) in differences(stamped, shaping(config)).items()
    )
    return state, used, told


def _circumstances(written: WrittenRun, step: int, start: int, config: Config) -> Iterator[str]:
    """Sentences about what is otherwise than when the run took the step."""
    part = written.part(step)
    here = {"version": __version__, "commit": commit_of(), "jax": jax.__version__}
    if _those(part, here) != here and part:
        yield (
            f"step {step} was taken by cotjax {_code(_those(part, here))}, and this is "
            f"{_code(here)}; another code may compute other bits."
        )
    for name, now in {"machine": machine(), "xla_flags": xla_flags()}.items():
        if name in part and part[name] != now:
            what = f'{_WORDS[name]} was "{part[name]}" and is "{now}"'
            yield f"step {step}: {what}, which may change bits."
    yield from changed_files(part.get("data", {}), data_digests(config))
    if start + 1 < step and written.part(start + 1).get("first_step") != part.get("first_step"):
        yield (
            f"the run was resumed between step {start} and {step}; all of them are taken again "
            f"with the settings of step {step}."
        )


_WORDS = {"machine": "the machine", "xla_flags": "XLA_FLAGS"}


def _those(part: Mapping[str, Any], here: Mapping[str, str]) -> dict[str, str]:
    return {name: str(part.get(name, now)) for name, now in here.items()}


def _code(words: Mapping[str, str]) -> str:
    return f"{words['version']} (commit {words['commit']}, jax {words['jax']})"


def _parameters(folder: pathlib.Path, step: int, params: Any) -> Compared | None:
    """Whether parameters are those of a step's checkpoint; None if there is none that is whole."""
    kept = folder / "checkpoints" / str(step)
    if not kept.is_dir() or damage(kept):
        return None
    differing, count = differing_params(kept, params), len(jax.tree.leaves(params))
    if not differing:
        return Compared("parameters", "equal", f"all {count}, those of checkpoint {step}")
    told = f"{len(differing)} of {count} from checkpoint {step}, the first {differing[0]}"
    return Compared("parameters", "different", told)
