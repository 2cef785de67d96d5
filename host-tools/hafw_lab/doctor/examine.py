# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab doctor`: can this machine run the lab, what will be missing, and what to do about it."""

import asyncio
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from hafw_lab import programs
from hafw_lab.client import registry
from hafw_lab.compose import lab
from hafw_lab.doctor.desktop import examine_desktops
from hafw_lab.doctor.finding import Finding, Level
from hafw_lab.errors import LabError
from hafw_lab.image import store
from hafw_lab.kernel.taps import require_taps
from hafw_lab.process import run
from hafw_lab.source_paths import SEARCH_PATH
from hafw_lab.vm import accelerator

_MODULES = {
    "yaml": "python3-yaml",
    "pyroute2": "python3-pyroute2",
    "nftables": "python3-nftables",
    "dbus_next": "python3-dbus-next",
    "structlog": "python3-structlog",
}
_NEEDED = (
    "namespaces",
    "mounts",
    "bridge and veth",
    "connection tracking",
    "nftables",
    "net.ipv4.ip_forward",
)


def examine() -> list[Finding]:
    """Everything that can be looked at without starting a lab."""
    return [
        *_programs(),
        *_protocols(),
        *_modules(),
        *_stock(),
        *_kernel(),
        *_machines(),
        *examine_desktops(),
        *_labs(),
    ]


def _programs() -> list[Finding]:
    missing = programs.find_missing(programs.OF_NAMESPACES)
    if not missing:
        return [Finding(Level.OK, f"programs: {', '.join(programs.OF_NAMESPACES)}")]
    install = programs.write_install(missing)
    return [Finding(Level.BAD, f"programs not found: {', '.join(missing)}", install)]


def _protocols() -> list[Finding]:
    """conntrackd looks protocols up by name, and does not replicate one that it does not find, without an
    error."""
    if Path("/etc/protocols").exists():
        return [Finding(Level.OK, "names of protocols")]
    hint = "apt-get install --no-install-recommends netbase"
    return [Finding(Level.BAD, "/etc/protocols is not there: conntrackd replicates nothing", hint)]


def _modules() -> list[Finding]:
    missing = {name: package for name, package in _MODULES.items() if find_spec(name) is None}
    if not missing:
        return [
            Finding(Level.OK, f"Python {sys.version_info.major}.{sys.version_info.minor} and its modules")
        ]
    install = f"apt-get install --no-install-recommends {' '.join(missing.values())}"
    return [Finding(Level.BAD, f"Python modules not found: {', '.join(missing)}", install)]


def _stock() -> list[Finding]:
    if lab.STOCK_SCRIPT.exists():
        return [Finding(Level.OK, "Debian's primary-backup.sh, for comparisons")]
    hint = "reinstall conntrackd without dpkg's path-exclude for documentation"
    return [Finding(Level.NOTE, "Debian's primary-backup.sh is not there: no --agent stock", hint)]


def _kernel() -> list[Finding]:
    argv = ["env", f"PYTHONPATH={SEARCH_PATH}", "PYTHONDONTWRITEBYTECODE=1", sys.executable]
    try:
        results: dict[str, str | None] = json.loads(run([*argv, "-P", "-S", "-m", "hafw_lab.doctor.probe"]))
    except LabError as error:
        return [Finding(Level.BAD, f"testing the kernel failed: {error}")]
    who = "as root" if os.geteuid() == 0 else "as an ordinary user"
    found = []
    for name, problem in results.items():
        if problem is None:
            found.append(Finding(Level.OK, f"{name}, {who}"))
        elif name in _NEEDED:
            found.append(Finding(Level.BAD, f"{name}, {who}: {problem}", "run it as root"))
        else:
            text = f"{name} cannot be set {who}: the lab keeps the machine's value"
            found.append(Finding(Level.NOTE, text, "as root, sysctl -w outside of the lab changes it"))
    if os.geteuid() != 0:
        text = "as an ordinary user the daemons run without real-time priority and locked memory"
        found.append(Finding(Level.NOTE, text, "measure as root"))
    return found


def _machines() -> list[Finding]:
    """What only virtual machines need; without it the lab of namespaces still runs."""
    needed = {**programs.OF_MACHINES, **programs.of_images()}
    missing = programs.find_missing(needed)
    if missing:
        text = f"no virtual machines: {', '.join(missing)} not found"
        return [Finding(Level.NOTE, text, programs.write_install(missing))]
    names = ", ".join(Path(name).name for name in needed)
    found = [Finding(Level.OK, f"programs for virtual machines: {names}")]
    try:
        require_taps()
    except LabError as error:  # what `up` would say
        found.append(Finding(Level.NOTE, f"no virtual machines: {error.message}", error.hint))
    return [*found, _accelerator()]


def _accelerator() -> Finding:
    """A device file proves nothing: a kernel has to boot on it."""
    images = store.find_images()
    problem = accelerator.find_obstacle()
    if problem is None and images:
        with tempfile.TemporaryDirectory(prefix="hafw-lab-", dir="/var/tmp") as directory:
            Path(directory).chmod(0o711)
            problem = asyncio.run(accelerator.try_kernel(str(images[0].kernel), Path(directory)))
    if problem is not None:
        return Finding(Level.NOTE, f"virtual machines run without KVM, ten times slower: {problem}")
    if not images:
        return Finding(Level.OK, "KVM can be opened; whether a guest boots on it shows with the first image")
    return Finding(Level.OK, "KVM: the kernel of an image boots on it")


def _labs() -> list[Finding]:
    found = []
    for name in registry.find_names():
        doing = registry.find_change(name)
        if doing is not None:
            found.append(Finding(Level.OK, f"lab {name!r} is {doing}"))
            continue
        try:
            registry.attach(name).close()
            found.append(Finding(Level.OK, f"lab {name!r} is up"))
        except LabError:
            hint = f"hafw-lab down --name {name}"
            found.append(Finding(Level.NOTE, f"lab {name!r} has crashed and left its socket", hint))
    return found


__all__ = ["Finding", "Level", "examine"]
