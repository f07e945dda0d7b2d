"""One step of training with the built-in student, in a folder that goes, to try a machine."""

import contextlib
import io
import json
import pathlib
import tempfile

import jax

from cotjax.config import Config, load
from cotjax.errors import InputError
from cotjax.progress import waiting
from cotjax.run.start import run


def try_one_step() -> str:
    """Samples, updates, evaluates, saves and reports once; what it took, in words.

    Raises:
      InputError: something of it failed; says what.
    """
    with tempfile.TemporaryDirectory(prefix="cotjax-doctor-") as folder:
        config = trial_config(folder)
        try:
            with waiting("training one step"), contextlib.redirect_stdout(io.StringIO()):
                done = run(config, how="quiet")
            return _told(done)
        except InputError:
            raise
        except Exception as error:  # whatever a broken environment does
            what = str(error).strip().partition("\n")[0][:300]
            raise InputError(f"{type(error).__name__}: {what}") from error


def trial_config(folder: str) -> Config:
    """The smallest run of GRPO that uses every device."""
    count = jax.device_count()  # pyright: ignore[reportUnknownMemberType]
    return load(
        [
            *("--stage=grpo", "--steps=1", f"--output={folder}", "--name=trial"),
            *(f"--rollout.prompts={count}", "--rollout.group-size=2"),
            *("--rollout.max-new-tokens=16", "--policy.micro-batch=0"),
            *("--eval.problems=2", "--eval.samples=0", "--eval.max-new-tokens=16"),
        ]
    )


def _told(folder: pathlib.Path) -> str:
    result = json.loads((folder / "result.json").read_text("utf-8"))
    rows = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    (step,) = (row for row in map(json.loads, rows) if row["kind"] == "train")
    programs = result["programs"]
    return (
        f"one step of GRPO with the built-in student took {result['seconds']:.1f} s in all: "
        f"{programs['compiled']} programs compiled and {programs['cached']} from the cache; the "
        f"step itself {step['step_s']:.1f} s with compiling"
    )
