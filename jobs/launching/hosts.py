"""The hosts that ranks run on."""

import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=10")


class HostsError(Exception):
    """A list of hosts that cannot be read, or of which none is left."""


@dataclass(frozen=True)
class Host:
    """A machine and how many ranks it takes."""

    name: str
    slots: int

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"

    @property
    def here(self) -> bool:
        """Whether it is this machine."""
        addresses = {
            address.address for found in psutil.net_if_addrs().values() for address in found
        }
        try:
            return socket.gethostbyname(self.name) in addresses
        except OSError:
            return False

    def answers(self) -> bool:
        """Whether a command can be run there."""
        return (
            self.here
            or subprocess.run(
                [*SSH, self.name, "true"], capture_output=True, check=False
            ).returncode
            == 0
        )


def parse_hosts(text: str) -> list[Host]:
    """`name:slots,name:slots,...`; nothing: this machine, a slot for each core. Raises HostsError
    naming the part."""
    if not text:
        return [Host("localhost", len(os.sched_getaffinity(0)))]
    found = []
    for part in text.split(","):
        name, _, slots = part.strip().rpartition(":")
        if not name or not slots.isdecimal() or int(slots) < 1:
            raise HostsError(f"--hosts: '{part}' is not name:ranks, such as node1:16")
        found.append(Host(name, int(slots)))
    names = [host.name for host in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise HostsError(f"--hosts names {', '.join(sorted(twice))} twice; add up its ranks")
    return found


def placed(hosts: Sequence[Host], ranks: int) -> list[Host]:
    """Of the hosts' slots those that `ranks` ranks take, in order. Raises HostsError where there
    are too few."""
    found, left = [], ranks
    for host in hosts:
        if taken := min(left, host.slots):
            found.append(replace(host, slots=taken))
            left -= taken
    if left:
        raise HostsError(
            f"{ranks} ranks are more than {ranks - left}, what {', '.join(map(str, hosts))} "
            "take; lower --ranks or name more hosts"
        )
    return found
