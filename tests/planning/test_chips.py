"""The table of chips: whole, in order, and as documented."""

import math

from cotjax.planning.chips import CHIPS, GIB


def test_every_chip_has_every_peak():
    for name, chip in CHIPS.items():
        assert chip.name == name and chip.platform in ("tpu", "gpu")
        for rate in (chip.flops, chip.hbm, chip.hbm_rate, chip.link, chip.network):
            assert math.isfinite(rate) and rate > 0, name
        assert chip.network <= chip.link, name


def test_what_a_program_may_use_is_less_than_a_chip_has():
    documented = {"v4": 32, "v5e": 16, "v5p": 96, "v6e": 32}
    for name, gib in documented.items():
        assert 0.95 * gib * GIB < CHIPS[name].hbm < gib * GIB, name


def test_the_network_is_a_chip_s_share_as_documented():
    # A pod of 256 chips of v5e has 6.4 Tbit/s, of v6e 25.6; a chip of v5p 50 Gbit/s.
    pod = {"v5e": 6.4e12 / 256, "v6e": 25.6e12 / 256, "v5p": 50e9}
    # An adapter for each GPU: ConnectX-6 at 200 Gbit/s in a DGX A100, ConnectX-7 in the others.
    pod |= {"a100": 200e9, "h100": 400e9, "h200": 400e9, "b200": 400e9}
    for name, bits in pod.items():
        assert CHIPS[name].network == bits / 8, name


def test_a_product_of_large_matrices_is_bound_by_compute_and_of_vectors_by_memory():
    for chip in CHIPS.values():
        balance = chip.flops / chip.hbm_rate  # operations per byte
        assert 100 < balance < 1000, chip.name
