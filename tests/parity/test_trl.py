"""cotjax against TRL itself, value and gradient, on random tensors with ragged masks."""

import pytest

from tests.parity import cases

pytest.importorskip("torch", reason="live parity needs torch: pip install -e '.[parity]'")
pytest.importorskip("trl", reason="live parity needs trl: pip install -e '.[parity]'")

from tests.parity.trl_reference import reference  # noqa: E402

pytestmark = pytest.mark.parity

PAIRS = [(family, case) for family, (known, _, _) in cases.FAMILIES.items() for case in known]
IDS = [f"{family}-{cases.name_of(case)}" for family, case in PAIRS]


@pytest.mark.parametrize(("family", "case"), PAIRS, ids=IDS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_value_and_gradient_agree(family, case, seed):
    _, inputs_of, ours = cases.FAMILIES[family]
    inputs = inputs_of(seed)
    difference = cases.largest_difference(ours(case, inputs), reference(family, case, inputs))
    assert max(difference.values()) < 1e-5, difference
