"""The words come first, then a line for each thing."""

import io
import types

import pytest
from rich.console import Console

from cotjax.run.compare import Compared
from cotjax.run.recompute import Replayed
from cotjax.run.verdict import print_replayed

WRITTEN = types.SimpleNamespace(folder="runs/x", last=9, stage="sft")
LOSS, BATCH = Compared("loss", "equal", "0.5"), Compared("batch", "different", "row 1\x1b[31m")


def said(findings, earlier=None, start=2, notes=()):
    out = io.StringIO()
    replayed = Replayed(3, start, earlier, findings, notes)
    print_replayed(Console(file=out, width=200), WRITTEN, replayed)
    return replayed.equal, out.getvalue().splitlines()


def test_equal():
    equal, lines = said([LOSS])
    assert equal and lines == [
        "runs/x, step 3 of 9 (sft): equal, bit for bit.",
        "Taken again from the checkpoint of step 2: 1 step.",
        "",
        "  loss  equal        0.5",
    ]


@pytest.mark.parametrize(
    ("findings", "earlier", "told"),
    [
        ([BATCH, LOSS], None, "different. The first difference is in its batch: row 1\\x1b[31m."),
        ([LOSS, Compared("batch", "not written")], None,
         "equal in what the run wrote, which is not all."),
        ([LOSS], (2, BATCH), "equal, but a step before it is not."),
    ],
)  # fmt: skip
def test_not_so_equal(findings, earlier, told):
    equal, lines = said(findings, earlier, start=0, notes=("the file \x07 changed",))
    assert " ".join(lines).startswith(f"runs/x, step 3 of 9 (sft): {told}")
    assert equal == (earlier is None and BATCH not in findings)
    assert "Taken again from the start of the run: 3 steps." in lines
    assert "note: the file \\x07 changed" in lines
    assert bool(earlier) == any("Step 2, on the way, differs already" in line for line in lines)
