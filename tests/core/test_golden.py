"""cotjax against numbers that TRL computed; `about` in the file gives its version and recipe."""

import json
import pathlib

import numpy as np
import pytest

from tests.parity import cases

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "trl.npz")
PAIRS = [(family, case) for family, (known, _, _) in cases.FAMILIES.items() for case in known]
IDS = [f"{family}-{cases.name_of(case)}" for family, case in PAIRS]


def part(prefix):
    return {key.removeprefix(prefix): GOLDEN[key] for key in GOLDEN if key.startswith(prefix)}


@pytest.mark.parametrize(("family", "case"), PAIRS, ids=IDS)
def test_value_and_gradient_equal_those_of_trl(family, case):
    _, _, ours = cases.FAMILIES[family]
    theirs = part(f"{family}/{cases.name_of(case)}/")
    difference = cases.largest_difference(ours(case, part(f"{family}/inputs/")), theirs)
    assert max(difference.values()) < 1e-5, difference


def test_the_file_says_where_it_comes_from():
    about = json.loads(str(GOLDEN["about"]))
    assert about["versions"]["trl"] and about["recipe"] == "python -m tests.parity.make_golden"
