"""What takes the place of programs of the system that tests cannot run for real."""

from pathlib import Path

SSH = """#!/bin/bash
[ -e {gone} ] && exit 255
while [ "$1" != {host} ]; do shift; done
shift
while [ "${{1:0:1}}" = - ]; do shift 2; done
exec {runs} bash -c "$*; exit"
"""


def write_ssh(folder: Path, host: str, runs: str = "") -> Path:
    """A stand-in for ssh to one host, in `folder`: skips the options before and after the host's
    name, and runs the command here, behind the command `runs`. It runs as a child of a shell,
    because the first of a space of processes takes no signal. Once the file that is returned is
    there, the host does not answer."""
    gone, ssh = folder / "gone", folder / "ssh"
    folder.mkdir(exist_ok=True)
    ssh.write_text(SSH.format(gone=gone, host=host, runs=runs), encoding="utf-8")
    ssh.chmod(0o755)
    return gone
