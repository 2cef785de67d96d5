# SPDX-License-Identifier: GPL-2.0-or-later
"""What lasts of a listing, kept for days to be compared with the next one. As Python's objects that of
12,000 rules is 100 MB, packed it is less than one."""

import json
import zlib
from collections.abc import Collection, Iterator

from agent.rules.listing import Listing, part_of
from agent.rules.nft_parse import Entry, parse_object
from agent.rules.objects import Object


class Packed:
    def __init__(self, listing: Listing) -> None:
        self.fingerprint = listing.fingerprint
        by_part: dict[str, list[Entry]] = {}
        for kind, body in listing.lasting:
            by_part.setdefault(part_of(kind, body), []).append((kind, body))
        self._parts = {
            part: zlib.compress(json.dumps(entries).encode(), 1) for part, entries in by_part.items()
        }

    def objects(self, parts: Collection[str]) -> Iterator[Object]:
        """What belongs to one of `parts`."""
        for part in parts:
            if part in self._parts:
                entries = json.loads(zlib.decompress(self._parts[part]))
                yield from (parse_object(kind, body) for kind, body in entries)
