"""The accelerators a run may be planned for: peaks as their makers document them.

Sources, read in November 2026:
  TPU v4, v5e, v5p, v6e   https://docs.cloud.google.com/tpu/docs/v4 (v5e, v5p, v6e): operations,
                          bandwidth, links. A link's one-way rate is the documented rate of a chip
                          over its ports (v6e: both directions together, so half of it).
  network of TPUs         the same pages: 25 Gbit/s for a chip of v5e (a pod's 6.4 Tbit/s), 50 for
                          v5p, 100 for v6e (25.6 Tbit/s); v4's is not there, and counts as v5p's.
  usable HBM of TPUs      what libtpu 0.0.42 names when a program does not fit.
  GPUs                    NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM, B200, L4: dense
                          bfloat16, NVLink in one direction. 8 share a host, but for the L4.
  network of GPUs         NVIDIA's DGX A100, H100, H200 and B200: an adapter for each GPU, of 200
                          Gbit/s, from H100 on 400. An L4 has a part of its host's.
"""

import dataclasses

GB, GIB, TERA = 10**9, 2**30, 10**12


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of JAX.

    Attributes:
      name: as in `--topology`.
      label: for people.
      platform: of JAX.
      flops: bfloat16 operations of matrix products per second.
      hbm: bytes of memory that a program may use.
      hbm_rate: bytes per second from and to that memory.
      link: bytes per second that a device sends to the others of its slice or host.
      network: bytes per second that it sends beyond.
      island: devices that `link` joins; 0 = those of a slice.
      overlaps: whether it computes, reads and sends at the same time.
    """

    name: str
    label: str
    platform: str
    flops: float
    hbm: int
    hbm_rate: float
    link: float
    network: float
    island: int = 0
    overlaps: bool = True


_GBIT = GB / 8


def _tpu(
    name: str, label: str, tera: float, gib: float, rate: float, link: float, gbit: float
) -> Chip:
    # A collective over an axis of the torus sends in both of its directions.
    rates = rate * GB, 2 * link * GB, gbit * _GBIT
    return Chip(name, label, "tpu", tera * TERA, int(gib * GIB), *rates)


def _gpu(
    name: str, label: str, tera: float, gb: float, rate: float, link: float, gbit: float
) -> Chip:
    # A twentieth of the memory is the driver's and the libraries'.
    usable, rates = int(0.95 * gb * GB), (rate * GB, link * GB, gbit * _GBIT)
    island = 1 if name == "l4" else 8
    return Chip(name, label, "gpu", tera * TERA, usable, *rates, island=island)


CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", "TPU v4", 275, 30.75, 1200, 50, 50),
        _tpu("v5e", "TPU v5e", 197, 15.75, 819, 50, 25),
        _tpu("v5p", "TPU v5p", 459, 95.74, 2765, 100, 50),
        _tpu("v6e", "TPU v6e", 918, 31.25, 1638, 100, 100),
        _gpu("a100", "A100 80GB", 312, 80, 2039, 300, 200),
        _gpu("h100", "H100 80GB", 989, 80, 3350, 450, 400),
        _gpu("h200", "H200 141GB", 989, 141, 4800, 450, 400),
        _gpu("b200", "B200 180GB", 2250, 180, 7700, 900, 400),
        _gpu("l4", "L4 24GB", 121, 24, 300, 32, 24),
    )
}
CPU = "cpu"  # whose peaks are measured, see `measured`
