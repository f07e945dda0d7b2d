"""`cotjax replay`: a step taken again is equal to the run's; whatever was changed is found."""

import contextlib
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest

from cotjax.replay import main
from cotjax.run.recompute import recompute
from cotjax.run.written import WrittenRun
from cotjax.train import main as train
from tests.tiny import flags, write_sevens, write_student, write_teachers

STEPS = 3
STAGES = {
    "grpo": ["--stage=grpo", "--eval.samples=0"],
    "sft": ["--stage=sft", "--model.init=pretrained", "--eval.samples=0"],
    "distill": [
        *("--stage=distill", "--eval.samples=0", "--curriculum.buckets=2"),
        *("--curriculum.num-monitor=4", "--curriculum.ranking-problems=0"),
        *("--optimizer.warmup-steps=0", "--rollout.prompts=4", "--distill.on-policy=0.5"),
    ],
}


class World:
    """A student, its data, and a run of each stage of which the newest checkpoints are kept."""

    def __init__(self, folder):
        self.folder = folder
        self.student = write_student(folder / "student")
        write_teachers(folder)
        self._runs = {}

    def run(self, stage):
        """The folder of a stage's run."""
        if stage not in self._runs:
            data = write_sevens(self.folder / f"{stage}.jsonl")
            own = [f"--teachers.paths={self.folder / 'weak'}"] if stage == "distill" else []
            argv = flags(self.student, data, self.folder / "runs", stage, f"--steps={STEPS}",
                         "--checkpoint.keep=2", *STAGES[stage], *own)  # fmt: skip
            with contextlib.redirect_stdout(io.StringIO()):
                assert train(argv) == 0
            self._runs[stage] = self.folder / "runs" / stage
        return self._runs[stage]

    def copy(self, stage, tmp_path):
        """A copy of a run, to change."""
        return shutil.copytree(self.run(stage), tmp_path / stage)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("replay"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def replay(capsys, run, step, *more):
    """Exit status and what is printed, one space for several."""
    capsys.readouterr()
    status = main([str(run), f"--step={step}", *more])
    return status, " ".join(capsys.readouterr().out.split())


def change(path, step, change):
    """Changes the line of a training step in a .jsonl file."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        if (row["step"], row["kind"]) == (step, "train"):
            change(row)
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), "utf-8")


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_equal_and_the_run_stays_as_it_is(world, stage, capsys):
    run = world.run(stage)
    before = contents(run)
    status, shown = replay(capsys, run, 3)
    assert status == 0, shown
    assert shown.startswith(f"{run}, step 3 of 3 ({stage}): equal, bit for bit.")
    assert "Taken again from the checkpoint of step 2: 1 step." in shown
    for name in ("batch", "loss", "gradients", "numbers", "parameters"):
        assert f" {name} equal" in shown
    sampled = "completions equal 16 of 4 prompts, every token" in shown
    assert sampled == (stage == "grpo")
    assert contents(run) == before


@pytest.mark.parametrize("stage", STAGES)
def test_without_a_checkpoint_before_it_is_taken_from_the_start(world, stage, capsys):
    status, shown = replay(capsys, world.run(stage), 2, "--show")
    assert status == 0, shown
    assert "no whole checkpoint of a step before 2 (there are those of steps 2, 3)" in shown
    assert "Taken again from the start of the run: 2 steps." in shown
    if stage == "grpo":
        assert "# reward advantage tokens end log p text" in shown
        assert "completion 4: log-probabilities, nats token sampler trainer" in shown
    else:
        assert "row 1 of 2, " in shown and "targets, mean loss" in shown
        assert ("distance" in shown) == (stage == "distill")


def test_a_changed_record_is_named(world, capsys):
    run, data = world.run("grpo"), world.folder / "grpo.jsonl"
    rows = [json.loads(line) for line in (run / "digests.jsonl").read_text().splitlines()]
    (name, _), *_ = rows[2]["records"][1:]
    whole = data.read_text()
    lines = whole.splitlines(True)
    place = int(name.partition(":")[2]) - 1
    lines[place] = lines[place].replace("Mia", "Tom")
    try:
        data.write_text("".join(lines))
        status, shown = replay(capsys, run, 3, "--show")
    finally:
        data.write_text(whole)
    assert status == 1
    assert shown.startswith(f"{run}, step 3 of 3 (grpo): different. The first difference is in its")
    told = f"the record {name} (prompt 2) has another question, solution or answer now"
    assert f"prompts: {told}." in shown and f"prompts different {told}" in shown
    assert f"note: {data}: the file of records was changed since: its digest was" in shown
    assert f"group 2 of 4, {name}: Tom has 7 pens." in shown


def test_a_changed_file_shows_which_row_differs(world, capsys):
    run, data = world.run("sft"), world.folder / "sft.jsonl"
    whole = data.read_text()
    try:
        data.write_text(whole.replace("pens", "cups"))
        status, shown = replay(capsys, run, 3)
        data.rename(data.with_suffix(".away"))
        assert main([str(run), "--step=3"]) == 2
    finally:
        data.write_text(whole)
    assert status == 1
    told = r'row 1, from token \d+ on; now it goes on behind ".*has 7" with " cups.*"; 2 of 2 rows'
    assert re.search(rf"The first difference is in its batch: {told} differ\.", shown)
    assert f'error: data.path = "{data}": no such file' in capsys.readouterr().err


def test_what_was_changed_in_the_files_of_a_run_is_found(world, tmp_path, capsys):
    run = world.copy("grpo", tmp_path)
    seen = []

    def second(row):
        seen.append(row)
        if len(seen) == 2:
            row["completion"] += "!"

    change(run / "completions.jsonl", 3, second)
    change(run / "metrics.jsonl", 3, lambda row: row.update(loss=row["loss"] + 1, reward=9.0))
    change(run / "digests.jsonl", 3, lambda row: row["rewards"][2].__setitem__(1, 5.5))
    change(run / "digests.jsonl", 3, lambda row: row.update(completions=other(row["completions"])))
    parts = json.loads((run / "parts.json").read_text())
    parts[0] |= {"version": "0.0.1", "commit": "abc"}
    (run / "parts.json").write_text(json.dumps(parts))
    status, shown = replay(capsys, run, 3)
    assert status == 1
    assert "The first difference is in its completions: completion 1 of prompt 4 (" in shown
    assert "note: step 3 was taken by cotjax 0.0.1 (commit abc, jax" in shown
    assert re.search(
        r"completions different completion 1 of prompt 4 \(.*\), from token 1 on; ", shown
    )
    assert re.search(r"rewards different completion 2 of prompt 3 .*: the run gave 5.5, now", shown)
    assert re.search(r"loss different the run wrote .*, now .* \(-1\)", shown)
    assert "gradients equal norm" in shown
    assert re.search(r"numbers different reward: the run wrote 9.0, now", shown)
    assert re.search(r'completions.jsonl different line 2 .*, completion: behind ".*" the run '
                     r'wrote "!", now ""', shown)  # fmt: skip


def other(completions):
    """The same with another first token in the first of the last group."""
    crc, stride, marks = completions[3][0].split(".")
    first = "A" if marks[0] != "A" else "B"
    completions[3][0] = f"{'0' * 8}.{stride}.{first}{marks[1:]}"
    return completions


def test_a_run_that_wrote_less_is_compared_with_what_there_is(world, tmp_path, capsys):
    run = world.copy("sft", tmp_path)
    (run / "digests.jsonl").unlink()
    shutil.rmtree(run / "checkpoints" / "3")
    shutil.copytree(run / "checkpoints" / "2", run / "checkpoints" / "3")  # of another step
    damaged = max((run / "checkpoints" / "2").rglob("*"), key=lambda path: path.stat().st_size)
    damaged.write_bytes(b"")
    status, shown = replay(capsys, run, 3)
    assert status == 1
    assert "The first difference is in its parameters:" in shown
    assert re.search(r"note: .*checkpoints/2 is damaged \(.*\), so it is not used\.", shown)
    assert "Taken again from the start of the run: 3 steps." in shown
    assert "batch not written digests.jsonl has no whole line of this step" in shown


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--step=0"], "--step 0: {run} has the steps 1 to 3. Name one of them."),
        (["--step=4"], "--step 4: {run} has the steps 1 to 3. Name one of them."),
        (["--step=x"], "--step = x: needs a whole number."),
        (["--step=3", "--group=9"], "--group 9: the step has 2 rows. Name one from 1 on."),
        ([], "cotjax replay: needs RUN and --step N, or --bundle FOLDER."),
        (["--step=3", "--bundle=x"], "--step 3: a bundle is of one step, which it knows."),
    ],
)
def test_a_wrong_input_is_one_line(world, argv, told, capsys):
    run = world.run("sft")
    assert main([str(run), *argv]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and said[0].startswith("error: " + told.format(run=run))


def test_a_folder_of_no_run_or_of_one_without_a_step(world, tmp_path, capsys):
    assert main(["nowhere", "--step=1"]) == 2
    assert "error: nowhere: there is no such folder." in capsys.readouterr().err
    run = world.copy("sft", tmp_path)
    (run / "metrics.jsonl").write_text('{"step": 1, "kind": "tr')
    (run / "digests.jsonl").write_text("\x00")
    assert main([str(run), "--step=1"]) == 2
    assert "no step is written there, in metrics.jsonl or digests.jsonl" in capsys.readouterr().err
    (run / "config.toml").write_text("[")
    assert main([str(run), "--step=1"]) == 2
    assert "error: " in capsys.readouterr().err


def test_the_step_of_a_bundle_is_taken_with_its_batch(world, tmp_path, capsys):
    bundles = pytest.importorskip("cotjax.training.bundle")
    run, taken = world.copy("sft", tmp_path), []
    written = WrittenRun(run)
    recompute(written, 3, see=lambda stage, params, work: taken.append(work) or work)
    about = {"step": 3, "checkpoint": 2, "causes": ["the loss is 9"]}
    batch, metrics = jax.tree.map(np.array, taken[0].batch), written.step(3).metrics
    folder = bundles.write_bundle(run, **about, metrics=metrics, batch=batch)
    capsys.readouterr()
    assert main([f"--bundle={folder}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"{run}, step 3 of 3 (sft): equal, bit for bit.")
    assert f"note: {folder}: the loss is 9" in shown
    assert "bundle's batch equal 5 arrays" in shown and "bundle's numbers equal" in shown
    batch[0][0].weight[0, :] = 0
    folder = bundles.write_bundle(run, **about, metrics=metrics, batch=batch)
    assert main([str(run), f"--bundle={folder}"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "batch equal tokens, targets, weight" in shown  # of the run, made again
    assert re.search(r"bundle's batch different 0.0.weight: \d+ of 96 numbers differ", shown)
    assert "loss different the run wrote" in shown  # of the update on the bundle's
