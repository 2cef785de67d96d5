# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw setup` would change on this machine: the plan, compared with what is there. Writes nothing.

A file of another package (keepalived.conf, conntrackd.conf) that was made by hand is not ours to
replace: it becomes a `Kept`, unless the administrator names it.
"""

import difflib
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import HafwError
from agent.file_cures import cure_of
from agent.model.pair import TUNNEL
from agent.paths import Paths
from agent.render.networkd import file_name, tunnel_key_file, tunnel_of
from agent.setup.key_rights import has_wrong_rights
from agent.setup.plan import MADE_BY_HAFW, PlannedFile
from agent.streams import harmless

_DPKG_STATUS = Path("/var/lib/dpkg/status")


@dataclass(frozen=True, slots=True)
class FileChange:
    """`target` is the file itself, where `path` may lead to it over a link. `old` is None for a new file,
    `new` is None for one that goes."""

    path: Path
    target: Path
    old: bytes | None
    new: bytes | None
    mode: int
    secret: bool = False
    """See PlannedFile."""

    @property
    def kind(self) -> str:
        if self.old is None:
            return "create"
        return "remove" if self.new is None else "change"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that was made by hand, and that stays as it is; `rendered` is how we would have it."""

    path: Path
    text: str
    rendered: str


def find_changes(
    plan: Collection[PlannedFile], paths: Paths, root: Path, replace: Collection[str] = ()
) -> tuple[tuple[FileChange, ...], tuple[Kept, ...]]:
    """In the order of the plan, leftovers last. `replace` has the names of hand-made files that may go.

    Raises HafwError for what cannot be read, is no regular file, or lies outside of `root`.
    """
    changes: list[FileChange] = []
    kept: list[Kept] = []
    foreign = (paths.keepalived_config, paths.conntrackd_config)
    for file in plan:
        target = find_target(file.path, root)
        old, new = read_file(target), file.text.encode()
        if old == new and not (file.secret and has_wrong_rights(target)):
            continue
        if old and file.path in foreign and _stays(old, file.path, root, replace):
            kept.append(Kept(file.path, old.decode(errors="replace"), file.text))
        else:
            changes.append(FileChange(file.path, target, old, new, file.mode, file.secret))
    return (*changes, *_leftovers(plan, paths, root)), tuple(kept)


def find_target(path: Path, root: Path) -> Path:
    """Where `path` really is, below `root`. Links are followed, so that one stays what it is."""
    top = Path(os.path.realpath(root))
    target = Path(os.path.realpath(top / path.relative_to("/")))
    if not target.is_relative_to(top):
        raise HafwError(f"{path} is a link that leads out of {root}", "make it a file of its own")
    return target


def read_file(path: Path) -> bytes | None:
    """The content of a regular file, None when there is nothing. Raises HafwError."""
    try:
        # a FIFO must not keep us waiting
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HafwError(f"cannot read {path}: {error.strerror}", cure_of(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HafwError(f"{path} is not a regular file", "look at what leads there, and correct it")
    with open(descriptor, "rb") as file:
        return file.read()


def is_made_by_hafw(content: bytes) -> bool:
    return content.startswith(MADE_BY_HAFW.encode())


def _stays(content: bytes, path: Path, root: Path, replace: Collection[str]) -> bool:
    """Made by hand: neither ours, nor as its Debian package has brought it."""
    if path.name in replace or is_made_by_hafw(content):
        return False
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    try:
        status = (root / _DPKG_STATUS.relative_to("/")).read_text(errors="replace")
    except OSError:
        return True  # no Debian below this root, so nothing of a package's either
    return f"\n {path} {checksum}" not in status


def _leftovers(plan: Collection[PlannedFile], paths: Paths, root: Path) -> Iterator[FileChange]:
    """Our own files for interfaces and tunnels that the pair file no longer has. What makes a tunnel that it
    has is none, also where the plan has not got it, because the key of the pair is not here."""
    planned = {file.path for file in plan}
    directory = find_target(paths.network_dir, root)
    for there in sorted((*directory.glob("60-hafw-*.network"), *directory.glob("60-hafw-*.netdev"))):
        path = paths.network_dir / there.name
        tunnel = tunnel_of(path)
        if path in planned or there.is_symlink() or (tunnel and _has_tunnel(planned, paths, tunnel)):
            continue
        content = read_file(there)
        if content is not None and is_made_by_hafw(content):
            yield FileChange(path, there, content, None, 0)
    keys = tunnel_key_file(paths, f"{TUNNEL}*")
    for there in sorted(find_target(keys.parent, root).glob(keys.name)):
        path = keys.with_name(there.name)
        wanted = path in planned or _has_tunnel(planned, paths, there.stem)
        if not wanted and not there.is_symlink():
            yield FileChange(path, there, read_file(there), None, 0, secret=True)


def _has_tunnel(planned: Collection[Path], paths: Paths, name: str) -> bool:
    """Its .network file needs no key."""
    return paths.network_dir / file_name(name, "network") in planned


def diff_of(change: FileChange) -> str:
    """A unified diff, as diff and git write it. Of a secret only that it changes."""
    if change.secret:
        same = (
            ", and has other rights than root and systemd-networkd need" if change.old == change.new else ""
        )
        return f"{change.path}: a private key, which is not shown{same}\n"
    old_name = str(change.path) if change.old is not None else "/dev/null"
    new_name = str(change.path) if change.new is not None else "/dev/null"
    lines = difflib.unified_diff(_lines_of(change.old), _lines_of(change.new), old_name, new_name)
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _lines_of(content: bytes | None) -> list[str]:
    """Without characters that would move a terminal's cursor."""
    text = (content or b"").decode(errors="backslashreplace")
    return harmless(text).splitlines(keepends=True)
