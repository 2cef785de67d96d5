# SPDX-License-Identifier: GPL-2.0-or-later
"""The keys of the tunnels over the sync links, made of the key of the pair. Both nodes have that, so each
knows its own private key and the public key of the other one, and nothing more has to be carried. Pure.

Python's own library has no X25519, so it is here, as RFC 7748 has it. It computes public keys of private
ones and nothing else, beside everything that anybody could measure.
"""

import base64
import binascii
import hmac
import re

from agent.errors import HafwError
from agent.model.pair import Pair

_PRIVATE = re.compile(r"-----BEGIN (?:EC )?PRIVATE KEY-----([^-]+)-----END (?:EC )?PRIVATE KEY-----")
_PRIME = 2**255 - 19
_A24 = 121665
_BASE_POINT = 9


class TunnelKeys:
    """As WireGuard's tools write them, in base 64."""

    def __init__(self, pair: Pair, pair_key: str) -> None:
        """Raises HafwError when there is no private key in `pair_key`."""
        self._pair = pair.name
        found = _PRIVATE.search(pair_key)
        try:
            # not the text: that of a key that was carried may have other ends of lines
            self._secret = base64.b64decode("".join(found[1].split()), validate=True) if found else b""
        except binascii.Error:
            self._secret = b""
        if not self._secret:
            raise HafwError("the key of the pair has no private key in it", "make one with: hafw pair key")

    def private(self, node: str, tunnel: str) -> str:
        return base64.b64encode(self._private(node, tunnel)).decode()

    def public(self, node: str, tunnel: str) -> str:
        return base64.b64encode(x25519(self._private(node, tunnel), _BASE_POINT)).decode()

    def _private(self, node: str, tunnel: str) -> bytes:
        """Another one for each node and tunnel: of one of them nothing about the others can be known."""
        purpose = f"hafw wireguard\0{self._pair}\0{node}\0{tunnel}"
        return clamped(hmac.digest(self._secret, purpose.encode(), "sha256"))


def clamped(key: bytes) -> bytes:
    """Of any 32 bytes a private key (RFC 7748, section 5)."""
    return bytes((key[0] & 248, *key[1:31], key[31] & 127 | 64))


def x25519(scalar: bytes, u: int) -> bytes:
    """RFC 7748, section 5: the Montgomery ladder."""
    k = int.from_bytes(clamped(scalar), "little")
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(254, -1, -1):
        if k >> bit & 1:
            x2, z2, x3, z3 = _step(x3, z3, x2, z2, u, swapped=True)
        else:
            x2, z2, x3, z3 = _step(x2, z2, x3, z3, u, swapped=False)
    return (x2 * pow(z2, -1, _PRIME) % _PRIME).to_bytes(32, "little")


def _step(x2: int, z2: int, x3: int, z3: int, u: int, *, swapped: bool) -> tuple[int, int, int, int]:
    a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
    aa, bb = a * a % _PRIME, b * b % _PRIME
    e = aa - bb
    da, cb = d * a % _PRIME, c * b % _PRIME
    doubled = aa * bb % _PRIME, e * (aa + _A24 * e) % _PRIME
    added = (da + cb) ** 2 % _PRIME, u * (da - cb) ** 2 % _PRIME
    return (*added, *doubled) if swapped else (*doubled, *added)
