# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees of Debian's packages, by mmdebstrap, from where this machine's own apt takes its packages.

Hard facts
* `apt-get indextargets` says what apt makes of every form in which sources can be written.
* Both releases are on the same mirrors: the archive is `bookworm` or `trixie`, and so are the names before
  `-updates` and `-security`.
* mmdebstrap looks at none of this machine's apt.conf: proxies and the like are handed on.
* Without root it makes a user namespace of its own, with the numbers of /etc/subuid and newuidmap. As root
  it mounts proc, sys and dev where it is, so it is started in mount and process namespaces of its own:
  whatever ends it, they are gone with it.
"""

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hafw_lab.cache import hold_cache
from hafw_lab.errors import LabError
from hafw_lab.lab_directory import find_room
from hafw_lab.long_command import run_shown
from hafw_lab.process import run
from hafw_lab.programs import of_images, require_programs
from hafw_lab.progress import Progress
from hafw_lab.room import require_room

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TIMEOUT_S = 3600.0
_APART = (
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
_BRANCHES = ("", "-updates", "-security")
_HANDED_ON = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::ForceIPv4",
    "Acquire::Languages",
)
_TARGETS = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(CODENAME)"


class Release(Enum):
    BOOKWORM = "bookworm"
    TRIXIE = "trixie"

    @property
    def version(self) -> int:
        return {Release.BOOKWORM: 12, Release.TRIXIE: 13}[self]

    def __str__(self) -> str:
        return f"Debian {self.version} ({self.value})"

    @staticmethod
    def parse(text: str) -> "Release":
        """Raises LabError with what can be written instead."""
        for release in Release:
            if text in (release.value, str(release.version)):
                return release
        raise LabError(
            f"there is no release {text!r} here", f"choose {', '.join(one.value for one in Release)}"
        )


@dataclass(frozen=True, slots=True)
class Source:
    """One line of sources.list; `suite` is a name of some release."""

    uri: str
    suite: str
    component: str

    def __str__(self) -> str:
        return f"deb {self.uri} {self.suite} {self.component}"


def cached_tree(
    release: Release,
    packages: Iterable[str],
    say: Progress,
    *,
    options: Sequence[str] = (),
    fresh: bool = False,
    megabytes: int = 600,
) -> Path:
    """A tar of a Debian with these packages, kept in the cache until a `fresh` one is requested.
    `options` are further ones for mmdebstrap, `megabytes` its size at most. Raises LabError."""
    wanted = sorted(set(packages))
    key = hashlib.sha256("\n".join((release.value, _architecture(), *wanted, "--", *options)).encode())
    with hold_cache("debian", say) as directory:
        found = directory / f"{release.value}-{key.hexdigest()[:12]}.tar"
        if fresh or not found.exists():
            _clear_half(directory)
            require_room(f"{release} from packages", _plan_room(directory, megabytes))
            half = found.with_suffix(".half")
            try:
                make_tree(release, wanted, half, say, options=options)
                half.with_suffix(".half.log").replace(found.with_suffix(".log"))
                half.replace(found)
            finally:
                half.unlink(missing_ok=True)
        os.utime(found)  # so that `image prune` sees what is in use
        return found


def _plan_room(directory: Path, megabytes: int) -> Iterator[tuple[Path, int]]:
    yield directory, megabytes * 1_000_000
    yield find_room(), megabytes * 1_500_000  # with the packages that it is unpacked from


def _clear_half(directory: Path) -> None:
    """What is left of a tree whose making was broken off too hard to clear it away, or failed."""
    for path in (*directory.glob("*.half"), *directory.glob("*.half.log")):
        path.unlink()


def make_tree(
    release: Release, packages: Iterable[str], target: Path, say: Progress, *, options: Sequence[str] = ()
) -> None:
    """Make `target`, a tar, from the network; the output of mmdebstrap is beside it. Raises LabError."""
    require_programs("images", of_images())
    sources = find_sources(release)
    argv = [
        *(_APART if os.geteuid() == 0 else ()),
        "mmdebstrap",
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--variant=minbase",
        "--format=tar",
        "--verbose",
        *(f"--keyring={KEYRING}" for _ in range(KEYRING.exists())),
        "--aptopt=Acquire::Retries 3",
        *(f"--aptopt={line}" for line in _find_apt_options()),
        f"--include={','.join(packages)}",
        *options,
        release.value,
        str(target),
        *(str(source) for source in sources),
    ]
    what = f"{release} from packages"
    say(what)
    log = target.with_suffix(f"{target.suffix}.log")
    run_shown(argv, say, what, log=log, timeout_s=_TIMEOUT_S, left=(target, log))


def find_sources(release: Release) -> tuple[Source, ...]:
    """Where this machine takes Debian from, for another release as well. Raises LabError."""
    listing = run(["apt-get", "indextargets", "--format", _TARGETS, "Created-By: Packages"])
    found = sources_from(listing, release)
    if not any(source.suite == release.value for source in found):
        raise LabError(
            "this machine's apt has no source of Debian 12 or 13",
            "name one in /etc/apt/sources.list.d and run apt-get update",
        )
    return found


def sources_from(listing: str, release: Release) -> tuple[Source, ...]:
    """The sources of Debian in a listing of indextargets, with `release` in the place of theirs. Pure."""
    found = []
    for line in listing.splitlines():
        uri, suite, component, codename = line.split("|")
        for name in (codename, suite):  # the codename is not known before the first update
            branch = _find_branch(name)
            if branch is not None and component == "main":
                found.append(Source(uri, release.value + branch, component))
                break
    return tuple(dict.fromkeys(found))


def _find_branch(suite: str) -> str | None:
    for release in Release:
        if suite.startswith(release.value) and suite.removeprefix(release.value) in _BRANCHES:
            return suite.removeprefix(release.value)
    return None


def _find_apt_options() -> list[str]:
    dump = run(["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"])
    return [line for line in dump.splitlines() if line.startswith(_HANDED_ON)]


def _architecture() -> str:
    return platform.machine()
