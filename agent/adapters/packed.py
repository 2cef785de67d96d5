# SPDX-License-Identifier: GPL-2.0-or-later
"""What lasts of a listing, kept for days to be compared with the next one. As Python's objects that of
12,000 rules is 100 MB, packed it is less than one."""

import hashlib
import json
import zlib

Lasting = tuple[tuple[str, str], ...]


class Packed:
    def __init__(self, lasting: Lasting) -> None:
        self.digest = digest_of(lasting)
        self._data = zlib.compress(json.dumps(lasting).encode(), 1)

    def is_of(self, lasting: Lasting) -> bool:
        return self.digest == digest_of(lasting)

    def unpack(self) -> Lasting:
        return tuple((part, entry) for part, entry in json.loads(zlib.decompress(self._data)))


def digest_of(lasting: Lasting) -> str:
    return hashlib.sha256(repr(lasting).encode()).hexdigest()
