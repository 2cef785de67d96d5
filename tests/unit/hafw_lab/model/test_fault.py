# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be broken, and how it is written."""

import pytest

from hafw_lab.errors import LabError
from hafw_lab.model.fault import KNOWN, Fault, FaultKind
from hafw_lab.verbs.main import make_parser
from tests.programs import commands_of


def test_the_help_names_every_fault_as_it_is_parsed() -> None:
    said = commands_of(make_parser())["fail"].format_help()
    assert [kind.value for kind in FaultKind] == [Fault.parse(one).kind.value for one in KNOWN]
    assert [one for one in KNOWN if one not in said] == []


@pytest.mark.parametrize("text", ["fire", "link", "power:eth0", "power:", ""])
def test_another_word_is_answered_with_those_that_there_are(text: str) -> None:
    with pytest.raises(LabError, match=r"choose one of power, link:IF, .*, pause"):
        Fault.parse(text)
