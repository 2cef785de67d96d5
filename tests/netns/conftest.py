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

from hafw_lab.client.lab import Lab
from hafw_lab.client.records import readable
from hafw_lab.errors import LabError
from tests.checkout import ROOT
from tests.netns.keepalived_bus import Bus
from tests.netns.pair_checks import LOG

LAST_LINES = 15


@pytest.hookimpl(hookwrapper=True)  # type: ignore[untyped-decorator]  # pluggy has no types here
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the agents of its lab said last: it may fail on that machine only."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # what pluggy sends
    if report.failed:
        for lab in (one for one in getattr(item, "funcargs", {}).values() if isinstance(one, Lab)):
            report.sections += [(f"{name}: its agent", last_words(lab, name)) for name in lab.firewalls]


def last_words(lab: Lab, name: str) -> str:
    """The end of the agent's records, and of its traceback where there is one, and which service of the node
    does not run."""
    said = [f"{service} is down" for service in down(lab, name)]
    for log in (LOG, "/var/log/agent.log"):
        try:
            said += lab.node(name).read_text(log).splitlines()[-LAST_LINES:]
        except (OSError, LabError) as error:  # no agent in this lab, or the lab has ended
            said.append(str(error))
    return "\n".join(map(readable, said))


def down(lab: Lab, name: str) -> list[str]:
    try:
        services = lab.status().node(name).services
    except (OSError, LabError):  # the lab has ended
        return []
    return [
        f"{one} (exit status {state.exit_status})" for one, state in services.items() if not state.running
    ]


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
