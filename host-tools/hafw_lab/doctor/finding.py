# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw-lab doctor` has found."""

from dataclasses import asdict, dataclass
from enum import Enum


class Level(Enum):
    OK = "ok"
    NOTE = "note"
    """The lab runs; something is less than it could be."""
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    text: str
    hint: str | None = None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "level": self.level.value}
