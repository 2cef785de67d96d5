# SPDX-License-Identifier: GPL-2.0-or-later
"""Building an image: packages and the guest's own files -> disk, kernel, first file system.

Root is not needed where an ordinary user may map user ids (newuidmap and /etc/subuid).
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.image import boot
from hafw_lab.image.boot import extract_boot
from hafw_lab.image.debian import Release
from hafw_lab.lab_directory import remove_tree
from hafw_lab.long_command import run_shown
from hafw_lab.process import run
from hafw_lab.progress import Progress
from hafw_lab.room import explain_full, is_full, require_room
from hafw_lab.source_paths import GUEST

SIZE = "2G"
_TIMEOUT_S = 1800.0
_LOG = "build.log"

_CLOUD_KERNEL = "linux-image-cloud-amd64"
"""It knows no screens and no USB."""
PACKAGES = (
    "apparmor",
    "busybox-static",  # for the first file system
    "conntrack",
    "conntrackd",
    "dbus",
    "iproute2",
    "iputils-ping",
    "keepalived",
    "kmod",
    _CLOUD_KERNEL,
    "netbase",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "qemu-guest-agent",
    "systemd",
    "systemd-sysv",
    "tcpdump",
    "udev",
)
DESKTOP_PACKAGES = (
    *(name for name in PACKAGES if name != _CLOUD_KERNEL),
    "curl",
    "fonts-dejavu-core",
    "libpam-systemd",  # the session on the seat, without which X gets no devices
    "linux-image-amd64",
    "links2",
    "mtr-tiny",
    "netcat-openbsd",
    "openbox",
    "spice-vdagent",
    "sudo",
    "usbredirect",  # in a machine whose own USB devices are handed to another one
    "x11-xserver-utils",
    "xclip",
    "xinit",
    "xserver-xorg-core",
    "xserver-xorg-input-libinput",
    "xserver-xorg-video-qxl",
    "xterm",
)
_LEFT_OUT = (
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/doc/*",
    # there is a first file system of our own
    "/etc/kernel/postinst.d/initramfs-tools",
    # of programs that no machine has; Debian 13 has ninety, and each costs time at boot without KVM
    "/etc/apparmor.d/*",
)
_KEPT = (
    "/usr/share/doc/conntrackd/*",
    "/usr/share/doc/*/copyright",
    *(f"/etc/apparmor.d/{name}" for name in ("abi/*", "abstractions/*", "tunables/*", "hafw-*")),
)
TREE_OPTIONS = (
    *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
    *(f"--dpkgopt=path-include={path}" for path in _KEPT),
)
_NO_SUCH_DEVICES = (
    *(f"drivers/gpu/drm/{name}" for name in ("amd", "i915", "nouveau", "radeon", "xe")),
    *("drivers/infiniband", "drivers/isdn", "drivers/media", "drivers/net/ethernet", "drivers/net/wireless"),
    *("drivers/iio", "drivers/staging", "sound"),
)
"""Drivers of the whole kernel for what no machine of the lab has; most of its size."""
DESKTOP_TREE_OPTIONS = (
    *TREE_OPTIONS,
    "--dpkgopt=path-exclude=/usr/share/icons/*",  # thousands of them, for toolkits that nothing here uses
    "--dpkgopt=path-include=/usr/share/icons/*.theme",  # the package's own script asks for it
    *(f"--dpkgopt=path-exclude=*/modules/*/kernel/{path}/*" for path in _NO_SUCH_DEVICES),
)


def compute_key(tree: Path, packages: tuple[Path, ...]) -> str:
    """Changes with everything that goes into an image."""
    digest = hashlib.sha256(f"{tree.name} {tree.stat().st_size} {_tree_time(tree)} {SIZE}".encode())
    files = sorted(path for path in GUEST.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in (*packages, *files, Path(__file__), Path(boot.__file__)):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _tree_time(tree: Path) -> str:
    """When it was made; its own time says when it was used."""
    log = tree.with_suffix(".log")
    return str(log.stat().st_mtime_ns) if log.exists() else ""


def plan_room(tree: Path, home: Path) -> Iterator[tuple[Path, int]]:
    """The bytes that building an image takes, and where."""
    size = tree.stat().st_size
    yield home, size + size // 4


def build_image(release: Release, tree: Path, packages: tuple[Path, ...], home: Path, say: Progress) -> None:
    """Fill `home`; image.json in it comes last. Raises LabError."""
    what = f"image of {release}"
    require_room(what, plan_room(tree, home))
    say(what)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        _fill(release, tree, packages, home, say, what)
    except LabError:
        _remove_but_log(home)
        raise
    except OSError as error:
        _remove_but_log(home)
        if is_full(error):
            raise explain_full(what, (home.parent,)) from error
        raise LabError(f"{what}: {error.strerror}: {error.filename}") from error
    except BaseException:  # broken off
        remove_tree(home)
        raise
    say(f"{what} is ready: {home}")


def _remove_but_log(home: Path) -> None:
    """Half an image is of no use and large; what its making said tells why."""
    for path in home.iterdir() if home.is_dir() else ():
        if path.name != _LOG:
            remove_tree(path)


def _fill(
    release: Release, tree: Path, packages: tuple[Path, ...], home: Path, say: Progress, what: str
) -> None:
    _make_key(home)
    extract_boot(tree, GUEST / "init", home / "vmlinuz", home / "initrd")
    with _as_root_of(home) as (prefix, work):
        shutil.copy(home / "authorized_keys", work / "authorized_keys")
        # The script is handed to sh: a file of the package need not be executable.
        argv = [*prefix, "sh", str(GUEST / "make-disk"), str(tree), str(GUEST), str(work), SIZE]
        argv += map(str, packages)
        run_shown(argv, say, what, log=home / _LOG, timeout_s=_TIMEOUT_S, left=(home,))
        (work / "disk.raw").replace(home / "disk.raw")
    (home / "disk.raw").chmod(0o444)
    about = {"release": release.value, "tree": tree.name, "packages": [path.name for path in packages]}
    last = home / "image.json.half"
    last.write_text(json.dumps(about, indent=2) + "\n")
    last.replace(home / "image.json")


@contextlib.contextmanager
def _as_root_of(home: Path) -> Iterator[tuple[list[str], Path]]:
    """What makes the command after it root of namespaces of its own, and a directory to work in."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        # --map-auto: the numbers of /etc/subuid, so that files can belong to others than root
        unshare += ["--user", "--map-root-user", "--map-auto"]
    with tempfile.TemporaryDirectory(dir=home, prefix="work-") as work:
        yield unshare, Path(work)


def _make_key(home: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hafw-lab", "-f", str(home / "id_ed25519")])
    (home / "id_ed25519.pub").replace(home / "authorized_keys")
