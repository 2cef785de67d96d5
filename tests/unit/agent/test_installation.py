# SPDX-License-Identifier: GPL-2.0-or-later
"""What a copy of hafw lacks, in one sentence."""

import re
import sys
from pathlib import Path

import pytest

from agent import installation
from agent.installation import say_missing
from tests.checkout import ROOT


def test_the_libraries_are_those_of_the_package() -> None:
    control = (ROOT / "packaging" / "debian" / "control").read_text()
    agent = next(part for part in control.split("\n\n") if part.startswith("Package: hafw-agent"))
    assert set(installation._PACKAGES.values()) == set(re.findall(r"python3-[\w-]+", agent))


def test_an_unknown_module_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError, match="x"):
        say_missing("hafw", ModuleNotFoundError("x", name="agent.nothing"))


@pytest.mark.parametrize("name", ["dbus_fast", "dbus_fast.aio", "dbus_next"])
def test_of_two_libraries_that_will_do_the_first_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda library: None if "dbus" in library else object())
    assert say_missing("hafw", ModuleNotFoundError(name=name)) == 1
    assert "install from Debian: python3-dbus-next" in capsys.readouterr().err


def test_what_is_there_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        installation, "find_spec", lambda library: None if library == "dbus_next" else object()
    )
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert say_missing("hafw-lab", ModuleNotFoundError(name="yaml")) == 1
    said = capsys.readouterr().err
    assert said == "hafw-lab: Python cannot import yaml; install from Debian: python3-yaml\n"


DEBIAN_ENVIRONMENT = "make the virtual environment with /usr/bin/python3 -m venv --system-site-packages"


@pytest.mark.parametrize(
    ("base", "environment", "hint"),
    [
        ("/usr", None, ""),
        ("/opt/python", None, ", and run it with /usr/bin/python3"),
        ("/usr", "false", f", and {DEBIAN_ENVIRONMENT}"),
        ("/usr", "true", ""),
        ("/opt/python", "false", f", and {DEBIAN_ENVIRONMENT}"),
        ("/opt/python", "true", f", and {DEBIAN_ENVIRONMENT}"),
    ],
)
def test_the_python_that_sees_debians_packages(
    base: str,
    environment: str | None,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody is told to do what was done: a Python that is not Debian's never sees them."""
    (tmp_path / "pyvenv.cfg").write_text(
        f"home = {base}/bin\ninclude-system-site-packages = {environment}\n"
    )
    monkeypatch.setattr(installation, "find_spec", lambda library: None if library == "yaml" else object())
    monkeypatch.setattr(sys, "base_prefix", base)
    monkeypatch.setattr(sys, "prefix", base if environment is None else str(tmp_path))
    say_missing("hafw", ModuleNotFoundError(name="yaml"))
    said = capsys.readouterr().err
    assert said == f"hafw: Python cannot import yaml; install from Debian: python3-yaml{hint}\n"
