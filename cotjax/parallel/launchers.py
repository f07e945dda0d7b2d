"""Whether a launcher started several processes, which of them this is, and whether they agree.

JAX finds the address of the first by itself where a launcher says it; what is read here says who
started the processes and how many there are, so that a count that was asked for can be held against
it. This module uses no JAX.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping

from cotjax import metadata
from cotjax.errors import InputError

_ADDRESS, _COUNT, _NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_SLICES = "MEGASCALE_NUM_SLICES"
_PATIENCE = 5.0  # seconds for the metadata of a TPU VM, which answers in milliseconds


@dataclasses.dataclass(frozen=True)
class Launch:
    """Processes that are to meet.

    Attributes:
      by: who started them, for people.
      count: of the processes.
      number: of this one; None where JAX finds it.
      address: host:port of the first; None where JAX finds it.
    """

    by: str
    count: int
    number: int | None = None
    address: str | None = None


def find_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Who started this process beside others; None if it is alone.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` come first; what they leave
    out a launcher says: Slurm, Open MPI, a TPU slice on GKE (JobSet), or the metadata of a slice of
    TPU VMs; the index of a Kubernetes Job says the number alone.

    Args:
      environment: of the process.

    Raises:
      InputError: a variable is no number or out of range, JAX_NUM_PROCESSES is another count than
        the launcher's, or something is missing.
    """
    asked, number = _number(environment, _COUNT, least=1), _number(environment, _NUMBER)
    address = environment.get(_ADDRESS) or None
    found = _launcher(environment)
    if found is not None and asked not in (None, found.count):
        raise InputError(
            f"{_COUNT} = {asked}: {found.by} says that there are {found.count}. Unset {_COUNT}, or "
            f"start {asked} processes."
        )
    if address is None:
        if found is not None:
            return found if found.count > 1 else None
        if asked in (None, 1):
            return None
        raise InputError(
            f"{_COUNT} = {asked}: nothing says where the other processes are. Set {_ADDRESS} "
            "(host:port of the first), or start them by Slurm, Open MPI, GKE or a TPU slice."
        )
    if number is None:
        number = found.number if found else _number(environment, "JOB_COMPLETION_INDEX")
    count = asked or (found.count if found else None)
    if count is None or number is None:
        missing = _COUNT if count is None else _NUMBER
        raise InputError(f"{_ADDRESS} = {address}: needs {missing} too, in every process.")
    if number >= count:
        raise InputError(f"{_NUMBER} = {number}: needs a number below {_COUNT} = {count}.")
    return Launch(found.by if found else _ADDRESS, count, number, address)


def _launcher(environment: Mapping[str, str]) -> Launch | None:
    """What a launcher's own variables, or a TPU VM's metadata, say; None if there is neither."""
    count = _number(environment, "SLURM_STEP_NUM_TASKS", least=1)
    if count is not None:
        return Launch("Slurm", count, _number(environment, "SLURM_PROCID"))
    count = _number(environment, "OMPI_COMM_WORLD_SIZE", least=1)
    if count is not None:
        lost = "OMPI_MCA_orte_hnp_uri" not in environment and not environment.get(_ADDRESS)
        if count > 1 and lost:
            raise InputError(
                f"OMPI_COMM_WORLD_SIZE = {count}: this Open MPI does not say where the first "
                f"process is. Set it: mpirun -x {_ADDRESS}=HOST:8476 …"
            )
        return Launch("Open MPI", count, _number(environment, "OMPI_COMM_WORLD_RANK"))
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts:
        slices = _number(environment, _SLICES, least=1) or 1
        return Launch("GKE", len(hosts.split(",")) * slices)
    return _tpu_vms(environment)


def _tpu_vms(environment: Mapping[str, str]) -> Launch | None:
    """A slice of TPU VMs, whose hosts know each other by Google Cloud's metadata.

    JAX sets TPU_SKIP_MDS_QUERY where there is no TPU.
    """
    wanted = environment.get("JAX_PLATFORMS", "") in ("", "tpu", "tpu,cpu")
    if "TPU_SKIP_MDS_QUERY" in environment or not wanted:
        return None
    endpoints = _metadata(environment, "worker-network-endpoints")
    if not endpoints:
        return None
    told = (line.partition(":") for line in _metadata(environment, "tpu-env").splitlines())
    known = {name.strip(): value.strip().strip("'") for name, _, value in told} | dict(environment)
    count = len(endpoints.split(",")) * (_number(known, _SLICES, least=1) or 1)
    if count > 1 and not ("TPU_LIBRARY_PATH" in environment or importlib.util.find_spec("libtpu")):
        raise InputError(
            f"this TPU slice has {count} hosts, and libtpu is not installed. Run "
            'pip install "cotjax[tpu]" on each, or set JAX_PLATFORMS=cpu.'
        )
    return Launch("TPU metadata", count)


def _metadata(environment: Mapping[str, str], key: str) -> str:
    """An attribute of this machine; "" where there is none, as outside of Google Cloud."""
    try:
        return metadata.ask(f"attributes/{key}", patience=_PATIENCE, environment=environment)[0]
    except OSError:
        return ""


def _number(environment: Mapping[str, str], name: str, least: int = 0) -> int | None:
    """A variable's whole number; None if it is not set."""
    text = environment.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise InputError(
            f"{name} = {text}: needs a whole number from {least}. Unset it, or set it."
        )
    return int(text)
