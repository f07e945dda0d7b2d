"""Writes tests/golden/trl.npz: TRL's values and gradients, for where torch is not installed.

    python -m tests.parity.make_golden      (with the [parity] extra; from the root of the sources)

The file holds, for each family and case of `cases.py`, the inputs and TRL's outputs, and under
`about` a JSON text with the versions and the recipe. It also prints the table of differences.
"""

import importlib.metadata
import json
import pathlib

import numpy as np

from tests.parity import cases
from tests.parity.trl_reference import REFERENCES, reference

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "trl.npz"
SEED = 0


def main():
    about = {
        "recipe": "python -m tests.parity.make_golden",
        "seed": SEED,
        "dtype": "TRL computes in float64, except `head`, which is float32 inside TRL",
        "versions": {name: importlib.metadata.version(name) for name in ("trl", "torch", "numpy")},
        "functions": {name: f.__doc__.split("\n")[0] for name, f in REFERENCES.items()},
    }
    arrays = {"about": np.array(json.dumps(about))}
    for family, (known, inputs_of, ours) in cases.FAMILIES.items():
        inputs = inputs_of(SEED)
        arrays |= {f"{family}/inputs/{key}": value for key, value in inputs.items()}
        worst = {}
        for case in known:
            theirs = reference(family, case, inputs)
            for key, value in theirs.items():
                arrays[f"{family}/{cases.name_of(case)}/{key}"] = value
            for key, value in cases.largest_difference(ours(case, inputs), theirs).items():
                worst[key] = max(value, worst.get(key, 0.0))
        print(
            f"{family:16}{len(known):4} cases  ",
            "  ".join(f"{k} {v:.1e}" for k, v in worst.items()),
        )
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
