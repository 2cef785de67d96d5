# SPDX-License-Identifier: GPL-2.0-or-later
"""`pip install .`: both commands, with Debian's libraries, or a sentence that says what is missing."""

import os
import subprocess
from pathlib import Path

import pytest

from agent import __version__
from tests.checkout import EXAMPLES, ROOT
from tests.package.conftest import BUILD_TIMEOUT_S

PIP = ("-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
OFFLINE = ("--no-index", "--no-build-isolation")
PAIR = str(EXAMPLES / "pair.yaml")
SOURCES = {"agent": ROOT / "agent", "hafw_lab": ROOT / "host-tools" / "hafw_lab"}


def run(cwd: Path, *argv: str | Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        argv,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )


def make_venv(home: Path, *options: str) -> Path:
    """Its directory of programs."""
    done = run(home, "/usr/bin/python3", "-m", "venv", *options, home / "venv")
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "venv" / "bin"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed from the checkout where Debian's packages are, without an index."""
    programs = make_venv(tmp_path_factory.mktemp("with"), "--system-site-packages")
    done = run(programs, programs / "python", *PIP, "install", *OFFLINE, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return programs


@pytest.fixture(scope="module")
def wheel(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    done = run(programs, programs / "python", *PIP, "wheel", *OFFLINE, "--wheel-dir", directory, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = directory.iterdir()
    return found


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed where none of Debian's packages can be imported."""
    programs = make_venv(tmp_path_factory.mktemp("without"))
    done = run(programs, programs / "python", *PIP, "install", "--no-index", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    return programs


def site_of(programs: Path) -> Path:
    (found,) = programs.parent.glob("lib/python3*/site-packages")
    return found


def test_both_commands_work(programs: Path) -> None:
    for program in ("hafw", "hafw-lab"):
        assert run(programs, programs / program, "--version").stdout == f"{program} {__version__}\n"
        assert run(programs, programs / program, "--help").stdout.startswith(f"usage: {program} ")
    done = run(programs, programs / "hafw", "check", PAIR)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pair.yaml is good" in done.stdout


def test_it_is_the_installed_code_and_every_file_of_it(programs: Path) -> None:
    done = run(programs, programs / "python", "-P", "-c", "import agent; print(agent.__file__)")
    assert Path(done.stdout.strip()) == site_of(programs) / "agent" / "__init__.py"
    for name, source in SOURCES.items():
        files = (path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        wanted = {path.relative_to(source) for path in files}
        assert wanted
        lost = {path for path in wanted if not (site_of(programs) / name / path).is_file()}
        assert not lost, f"{name}: not in the wheel"


def test_the_checkout_stays_as_it_was(programs: Path) -> None:
    assert not (ROOT / "build").exists()
    assert not [*ROOT.glob("*.egg-info"), *ROOT.glob("host-tools/*.egg-info")]
    assert not (ROOT / "agent" / "INSTALLED_BY_PIP").exists()


def test_the_lab_finds_what_it_puts_into_its_nodes(programs: Path) -> None:
    program = (
        "from hafw_lab.compose.lab import AGENT_CODE, _find_boot_policy\n"
        "print(_find_boot_policy().read_text() if (AGENT_CODE / 'notify/hook.py').exists() else '')"
    )
    done = run(programs, programs / "python", "-P", "-c", program)
    assert done.stdout.rstrip("\n") == (ROOT / "systemd" / "boot.nft").read_text().rstrip("\n"), done.stderr


def test_what_pip_cannot_bring_is_a_sentence(programs: Path, tmp_path: Path) -> None:
    done = run(programs, programs / "hafw", "setup", "--file", PAIR, "--node", "fw-1", "--yes")
    assert done.returncode == 2
    assert "without systemd units and keepalived's hook; install the Debian package" in done.stderr
    below = ("--root", tmp_path, "--yes")
    done = run(programs, programs / "hafw", "setup", "--file", PAIR, "--node", "fw-1", *below)
    assert done.returncode == 0, "the files of another machine can be written"
    ask = "from hafw_lab.image.store import find_package; find_package(print)"
    done = run(programs, programs / "python", "-P", "-c", ask)
    assert "images hold the Debian package of hafw-agent; use ./run lab in a checkout" in done.stderr


@pytest.mark.parametrize(
    ("program", "arguments"), [("hafw", ("check", PAIR)), ("hafw", ("history",)), ("hafw-lab", ("status",))]
)
def test_a_library_that_is_missing_is_a_sentence(
    alone: Path, program: str, arguments: tuple[str, ...]
) -> None:
    """And the others in the same sentence, so that one installation is enough."""
    done = run(alone, alone / program, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{program}: Python cannot import ")
    libraries = ("dbus-next", "nftables", "pyroute2", "structlog", "systemd", "yaml")
    packages = " ".join(f"python3-{name}" for name in libraries)
    assert f"install from Debian: {packages}, and make the virtual environment with" in done.stderr


def test_a_module_that_nobody_knows_is_no_sentence(alone: Path) -> None:
    """It is a bug, and its traceback says where."""
    (site_of(alone) / "agent" / "cli" / "main.py").write_text("import agent.no_such_module\n")
    done = run(alone, alone / "hafw", "--version")
    assert "No module named 'agent.no_such_module'" in done.stderr.splitlines()[-1]
    assert "Traceback" in done.stderr


def test_without_setuptools_a_sentence_is_said(alone: Path) -> None:
    run(alone, alone / "python", *PIP, "uninstall", "--yes", "setuptools", "wheel")
    done = run(alone, alone / "python", *PIP, "install", *OFFLINE, ROOT)
    assert done.returncode == 1
    assert "install Debian's packages python3-setuptools and python3-wheel" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
