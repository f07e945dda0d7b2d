"""What one does with a run or a model from Python: evaluate it, ask it, draw it."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from cotjax.config import Config
from cotjax.errors import InputError
from cotjax.run.handle import Run, open_run
from cotjax.run.measure import measure, measure_files
from cotjax.run.opened import OpenedModel, config_from_settings, open_model
from cotjax.run.sample import SampleSettings, stream_texts
from cotjax.startup import set_up

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Trained = str | pathlib.Path | Run


def evaluate(
    checkpoint: Trained,
    *,
    config: Config | None = None,
    files: Sequence[str | pathlib.Path] = (),
    allow_nonfinite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Greedy and sampled accuracy on held-out problems, with intervals and lengths.

    Ctrl-C ends it with the numbers of the problems that are done; `problems_left` says how many
    are not.

    Args:
      checkpoint: a run, its folder, one of its `checkpoints/<step>`, or a model as `model.path`
        takes it, so that the base is measured like its student.
      config: what to measure with; None is the run's own, or the defaults for a model.
      files: of questions and answers, to measure on these instead: all records of each, unless
        `settings` has `eval={"problems": …}`.
      allow_nonfinite: measure weights that hold a NaN or an infinity too.
      **settings: over it: top-level keys, and sections as dicts (`eval={"problems": 64}`).

    Returns:
      the numbers of `cotjax.training.evaluation.summarize`, and the checkpoint's `step`; for files
      a dict of these by the file's name.

    Raises:
      NotFinite: the weights hold a NaN or an infinity.
      InputError: no such checkpoint or model, or a wrong setting.
    """
    opened = _open(checkpoint, config, settings, "cotjax.evaluate", allow_nonfinite=allow_nonfinite)
    if not files:
        return measure(opened)
    problems = settings.get("eval", {}).get("problems", 0)
    return measure_files(opened, [str(file) for file in files], problems=problems)


def generate(
    checkpoint: Trained, question: str, *, allow_nonfinite: bool = False, **settings: Any
) -> str | list[str]:
    """What a run or a model answers to a question.

    Args:
      checkpoint: as `cotjax.evaluate` takes it.
      question: asked as in training, unless `layout` says otherwise.
      allow_nonfinite: use weights that hold a NaN or an infinity too.
      **settings: n, max_new_tokens, temperature, top_k, top_p, min_p, seed, stop, layout; see
        `cotjax.run.sample.SampleSettings`.

    Returns:
      the text; for n > 1 a list of them.

    Raises:
      NotFinite: the weights hold a NaN or an infinity.
      InputError: a value out of range, no such checkpoint or model, or a prompt that is too long.
    """
    _sample_settings(settings)  # before weights are read
    opened = open_to_generate(checkpoint, allow_nonfinite=allow_nonfinite)
    return completions_of(opened, question, settings)


def open_to_generate(checkpoint: Trained, *, allow_nonfinite: bool = False) -> OpenedModel:
    """A run or a model on one device, as one prompt needs it."""
    settings, where = {"mesh": {"data": 1}}, "cotjax.generate"
    return _open(checkpoint, None, settings, where, allow_nonfinite=allow_nonfinite)


def completions_of(opened: OpenedModel, question: str, settings: dict[str, Any]) -> str | list[str]:
    """See `generate`."""
    *_, texts = stream_texts(opened, question, _sample_settings(settings))
    return texts[0] if len(texts) == 1 else texts


def _sample_settings(given: dict[str, Any]) -> SampleSettings:
    names = SampleSettings.__dataclass_fields__
    for name in given:
        if name not in names:
            raise InputError(f"cotjax.generate: no setting {name}. There are {', '.join(names)}.")
    stop = given.get("stop", ())
    several = hasattr(stop, "__iter__") and not isinstance(stop, str)
    stop = tuple(stop) if several else (stop,)
    whole: dict[str, Any] = {**given, "stop": stop}
    settings = SampleSettings(**whole)
    settings.check()
    return settings


def _open(
    checkpoint: Trained,
    config: Config | None,
    settings: dict[str, Any],
    where: str,
    *,
    allow_nonfinite: bool,
) -> OpenedModel:
    set_up()
    if isinstance(checkpoint, Run):
        run = checkpoint.stages[-1] if checkpoint.stages else checkpoint
        checkpoint, config = run.folder, run.config if config is None else config
    name = str(checkpoint)
    config = config_from_settings(name, settings, config, where)
    return open_model(name, config, allow_nonfinite=allow_nonfinite)


def plot(
    *runs: Trained, labels: Sequence[str] | None = None, path: str | pathlib.Path | None = None
) -> "Figure":
    """Accuracy against length before and after, and the curves of reward or loss and of length.

    Args:
      *runs: runs or their folders, also of lists and of runs that go on.
      labels: a name for each in the legend; None takes the folders' names.
      path: where to save the picture; its ending says how.

    Returns:
      a matplotlib figure, which a notebook shows.

    Raises:
      InputError: no run is given, or a folder is none of a run.
    """
    from cotjax.report.picture import RunDrawing, draw

    opened = [run if isinstance(run, Run) else open_run(run, weights=False) for run in runs]
    names = [run.folder.name for run in opened] if labels is None else list(labels)
    if not opened or len(names) != len(opened):
        raise InputError(
            f"cotjax.plot: {len(opened)} runs and {len(names)} labels. Give a run at least, and a "
            "label for each or none."
        )
    figure = draw(
        [
            RunDrawing(name, _points(run), run.metrics, run.evaluations)
            for name, run in zip(names, opened, strict=True)
        ]
    )
    if path is not None:
        cast(Any, figure).savefig(path, dpi=150)  # matplotlib does not type all of it
    return figure


def _points(run: Run) -> list[dict[str, Any]]:
    """The evaluations that the picture's arrows go through: before, and after each stage."""
    points: list[dict[str, Any]] = []
    for stage in run.stages or (run,):
        rows = [row for row in stage.files.metrics if row["kind"] == "eval"]
        points += [rows[0], rows[-1]] if rows and not points else rows[-1:]
    return points
