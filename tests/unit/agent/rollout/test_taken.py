# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent starts with: the pair file, or the last good generation where the file cannot be used."""

import errno
import os
from pathlib import Path

import pytest

from agent.config import loader
from agent.errors import HafwError, NoCopyError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.rollout.active import take
from agent.rollout.generations import Generations
from tests.unit.agent.small_pair import SMALL


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Where a pair file is, and one generation of the same policy."""
    found = Paths(pair_file=tmp_path / "hafw.yaml", run_dir=tmp_path / "run", state_dir=tmp_path / "lib")
    found.pair_file.write_text(SMALL)
    Generations(found.state_dir).add((("hafw.yaml", SMALL),), "root", "apply", "11")
    return found


def any_node(_pair: Pair) -> None:
    pass


def refuse() -> None:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_good_pair_file_is_what_is_taken(paths: Paths) -> None:
    assert take(paths, None, any_node).instead_of is None


def test_a_pair_file_that_cannot_be_used_is_replaced_by_a_generation(paths: Paths) -> None:
    paths.pair_file.write_text("pair: [\n")
    assert str(take(paths, None, any_node).instead_of).endswith("; generation 1 is in use instead")
    with pytest.raises(HafwError, match="1 problem"):
        take(paths, paths.pair_file, any_node)


def test_so_is_one_at_which_the_program_ends(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end there at every start."""
    monkeypatch.setattr(loader, "load_with_files", lambda _path: os._exit(7))
    said = str(take(paths, None, any_node).instead_of)
    assert (
        said == "a process of the agent ended with 7 before it was finished; generation 1 is in use instead"
    )


@pytest.mark.parametrize("call", ["pipe", "fork"])
def test_a_good_pair_file_is_not_replaced_for_want_of_a_process(
    paths: Paths, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent would start with an older policy, and keep it."""
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(NoCopyError):
        take(paths, None, any_node)
