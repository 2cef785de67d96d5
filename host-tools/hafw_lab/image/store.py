# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk that guests boot from: a Debian with our package, one for each release, kept in the cache.

    image = require_image("bookworm", print)

Everything in it comes from packages; what belongs to one node only comes by its seed (seed.py).
"""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from agent.installation import is_by_pip
from hafw_lab import process
from hafw_lab.cache import cache_dir, hold_cache
from hafw_lab.errors import LabError
from hafw_lab.image.build import (
    DESKTOP_PACKAGES,
    DESKTOP_TREE_OPTIONS,
    PACKAGES,
    TREE_OPTIONS,
    build_image,
    compute_key,
)
from hafw_lab.image.debian import Release, cached_tree
from hafw_lab.image.installed_package import repack
from hafw_lab.long_command import run_shown
from hafw_lab.programs import of_images, require_programs
from hafw_lab.progress import Progress
from hafw_lab.source_paths import CHECKOUT

_DEB_TIMEOUT_S = 1800.0
_DEB = "hafw-agent"
_DESKTOP = "desktop"
_KEEP, _KEEP_S = 3, 3600.0


@dataclass(frozen=True, slots=True)
class Image:
    """`disk` is a base that is never written to. `ssh_key` is the private key that is let in as root. `key`
    changes with the content. `append` belongs on the kernel's command line. `desktop`: it has an X
    session."""

    release: str
    disk: Path
    format: str
    kernel: Path
    initrd: Path
    ssh_key: Path
    key: str
    append: str = ""
    desktop: bool = False

    @property
    def kind(self) -> str:
        """What replaces what in the cache: the release, and whether it has a desktop."""
        return compose_kind(self.release, desktop=self.desktop)

    def to_json(self) -> dict[str, object]:
        return {
            "release": self.release,
            "desktop": self.desktop,
            "key": self.key,
            "disk": str(self.disk),
            "kernel": str(self.kernel),
            "initrd": str(self.initrd),
            "ssh_key": str(self.ssh_key),
            "megabytes": _size(self.disk.parent) // 1_000_000,
            "built": time.strftime("%Y-%m-%d %H:%M", time.localtime(self.disk.stat().st_mtime)),
        }


def compose_kind(release: str, *, desktop: bool) -> str:
    return f"{release}-{_DESKTOP}" if desktop else release


def require_image(
    release: str, say: Progress, *, package: Path | None = None, fresh: bool = False, desktop: bool = False
) -> Image:
    """The image of a release with `package`, by default the one of this checkout; built if it is not in the
    cache. Raises LabError."""
    chosen = Release.parse(release)
    if not any(one.kind == compose_kind(chosen.value, desktop=desktop) for one in find_images()):
        require_programs("images", of_images())  # before a package is built for one
    packages = (package or find_package(say),)
    depends = [name for one in packages for name in read_depends(one)]
    wanted = (*(DESKTOP_PACKAGES if desktop else PACKAGES), *depends)
    options = DESKTOP_TREE_OPTIONS if desktop else TREE_OPTIONS
    tree = cached_tree(chosen, wanted, say, options=options, fresh=fresh)
    with hold_cache("images", say) as directory:
        key = compute_key(tree, packages)
        kind = compose_kind(chosen.value, desktop=desktop)
        home = directory / f"{kind}-{key}"
        if not (home / "image.json").exists():
            _clear_half(directory)
            build_image(chosen, tree, packages, home, say)
            _remove_old(kind, say)
        os.utime(home)
        return _image(home)


def find_images() -> list[Image]:
    """What is in the cache, the one that was used last first."""
    homes = [path.parent for path in (cache_dir() / "images").glob("*/image.json")]
    return [_image(home) for home in sorted(homes, key=lambda home: -home.stat().st_mtime)]


def prune_images(say: Progress, *, every: bool = False) -> int:
    """Remove what was used last of no release, and trees that no image of the last build came from; with
    `every` all of it. Returns the number of bytes."""
    freed = 0
    with hold_cache("images", say) as directory, hold_cache("debian", say) as trees:
        seen: set[str] = set()
        for image in find_images():
            if image.kind in seen or every:
                freed += _remove(image.disk.parent)
            seen.add(image.kind)
        freed += _clear_half(directory)
        used = {json.loads(path.read_text())["tree"] for path in directory.glob("*/image.json")}
        for path in trees.glob("*.tar"):
            if path.name not in used:
                freed += _remove(path)
    return freed


def find_package(say: Progress) -> Path:
    """Our own package: built from this checkout, or, where this is none, from what is installed. Raises
    LabError."""
    if (CHECKOUT / "packaging" / "debian").is_dir():
        return _build_package(say)
    if is_by_pip():
        raise LabError(
            "pip has installed this hafw-lab, and images hold the Debian package of hafw-agent",
            "use ./run lab in a checkout, or install the package hafw-host-tools",
        )
    say(f"{_DEB} as it is installed here")
    with hold_cache("deb", say) as directory:
        target = directory / f"{_DEB}_installed.deb"
        repack(_DEB, target)
        return target


def _build_package(say: Progress) -> Path:
    builder = CHECKOUT / "run"
    out = cache_dir() / "deb"
    out.mkdir(parents=True, exist_ok=True)
    say("hafw-agent from this checkout")
    environment = {**os.environ, "HAFW_CACHE": str(cache_dir())}
    run_shown(
        [str(builder), "deb", str(out)],
        say,
        "hafw-agent from this checkout",
        log=out / "run-deb.log",
        timeout_s=_DEB_TIMEOUT_S,
        environment=environment,
    )
    found = sorted(out.glob(f"{_DEB}_*_all.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise LabError(f"./run deb has left no {_DEB} in {out}")
    return found[-1]


def read_depends(package: Path) -> list[str]:
    """The packages that it needs, the first of each choice. Raises LabError."""
    text = process.run(["dpkg-deb", "--field", str(package), "Pre-Depends", "Depends"])
    fields = ", ".join(line.partition(": ")[2] or line for line in text.splitlines())
    names = (part.split("|")[0].split("(")[0].strip().partition(":")[0] for part in fields.split(","))
    return [name for name in names if name]


def _clear_half(directory: Path) -> int:
    """Remove images whose making failed, or was broken off too hard to clear them away. Returns the number
    of bytes."""
    paths = [one for one in directory.iterdir() if one.is_dir() and not (one / "image.json").exists()]
    return sum(map(_remove, paths))


def _remove_old(kind: str, say: Progress) -> None:
    """A checkout that is worked on makes an image a day or more; labs that are up may still use the last
    ones."""
    old = [image for image in find_images() if image.kind == kind][_KEEP:]
    for image in old:
        if time.time() - image.disk.parent.stat().st_mtime > _KEEP_S:
            say(f"removing the image {image.kind}-{image.key}, which was not used lately")
            _remove(image.disk.parent)


def _image(home: Path) -> Image:
    kind, key = home.name.rsplit("-", 1)
    release, _, variant = kind.partition("-")
    return Image(
        release=release,
        disk=home / "disk.raw",
        format="raw",
        kernel=home / "vmlinuz",
        initrd=home / "initrd",
        ssh_key=home / "id_ed25519",
        key=key,
        desktop=variant == _DESKTOP,
    )


def _size(path: Path) -> int:
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return sum(one.stat().st_blocks * 512 for one in files)


def _remove(path: Path) -> int:
    size = _size(path)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return size
