"""What a launch file is filled in from."""

import dataclasses
import os
import pathlib
import re
import shlex

from cotjax.errors import InputError
from cotjax.launching.bucket import Bucket
from cotjax.planning.machines import Machines
from cotjax.planning.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, and where it is to be.

    Attributes:
      config: path of its TOML file.
      text: what the file holds.
      name: of the run folder.
      flags: further words of `cotjax train`.
      topology: its devices; None where the target has its own.
      machines: the hosts of that topology.
      bucket: where it is kept; None for a folder.
      image: of the container, "" for none.
      zone: of Google Cloud, "" for none.
      spot: whether it may be ended at any time, for less.
      queued: whether it waits in the queue of TPU VMs.
    """

    config: str
    text: str
    name: str
    flags: tuple[str, ...] = ()
    topology: Topology | None = None
    machines: Machines | None = None
    bucket: Bucket | None = None
    image: str = ""
    zone: str = ""
    spot: bool = False
    queued: bool = False

    @property
    def slug(self) -> str:
        """The name as Kubernetes and Google Cloud take it.

        Example:
          >>> Job("a.toml", "", "Qwen2.5_GRPO").slug
          'qwen2-5-grpo'
        """
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].strip("-")
        return plain if plain[:1].isalpha() else f"run-{plain}".strip("-")

    @property
    def devices(self) -> Topology:
        """The topology of a target that needs one."""
        assert self.topology is not None
        return self.topology

    @property
    def hosts(self) -> Machines:
        """The hosts of a target that needs a topology."""
        assert self.machines is not None
        return self.machines

    @property
    def backend(self) -> str:
        """cpu, cuda or tpu: the extra of cotjax that it needs."""
        return {"gpu": "cuda"}.get(self.devices.platform, self.devices.platform)

    @property
    def about(self) -> str:
        """One line: what was filled in."""
        if self.topology is None or self.machines is None:
            return f"{self.config} as {self.name}"
        hosts = self.machines
        memory = f", {hosts.memory} GB" if hosts.memory else ""
        machine = f", {hosts.machine}" if hosts.machine else ""
        each = f"{hosts.chips} devices{memory}{machine}"
        count = f"{hosts.all_hosts} host{'s' if hosts.all_hosts > 1 else ''}"
        return f"{self.config} as {self.name} on {self.topology.name}: {count} ({each}, each)"

    @property
    def sent_config(self) -> str:
        """The config's path in this folder, where this folder is what goes to the machines.

        Raises:
          InputError: it lies elsewhere.
        """
        path, here = pathlib.Path(os.path.abspath(self.config)), pathlib.Path.cwd()
        if here not in path.parents:
            raise InputError(
                f"--config {self.config}: lies outside of this folder, which is what goes to the "
                "machines. Put it here."
            )
        return path.relative_to(here).as_posix()

    def arguments(self, config: str, output: str) -> list[str]:
        """The words of `cotjax train`.

        Args:
          config: where the file is on the hosts.
          output: the folder of all runs there.
        """
        return ["--config", config, f"--output={output}", f"--name={self.name}", *self.flags]


def words(text: list[str] | tuple[str, ...]) -> str:
    """An array of bash: `(--steps=3 --name='a b')`."""
    return f"({shlex.join(text)})"
