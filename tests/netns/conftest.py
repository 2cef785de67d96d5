# SPDX-License-Identifier: GPL-2.0-or-later
"""What several of these tests stand on."""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from tests.checkout import ROOT
from tests.netns.keepalived_bus import Bus


@pytest.fixture(params=["dbus_next", "dbus_fast"])
def adapter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A fresh copy of the adapter that could import only this one of the two libraries."""
    pytest.importorskip(request.param)
    if request.param == "dbus_fast":
        for name in [name for name in sys.modules if name.partition(".")[0] == "dbus_next"]:
            monkeypatch.setitem(sys.modules, name, cast(Any, None))
    spec = importlib.util.spec_from_file_location(
        f"keepalived_on_{request.param}", ROOT / "agent" / "adapters" / "keepalived.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for name in ("Message", "MessageBus", "DBusError"):
        assert getattr(module, name).__module__.partition(".")[0] == request.param
    monkeypatch.setattr(module, "RECONNECT_S", 0.05)
    return module


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)  # other users come in as well
        yield Path(made)


@pytest.fixture
def bus(directory: Path) -> Iterator[Bus]:
    made = Bus(directory)
    made.start()
    yield made
    made.kill()
