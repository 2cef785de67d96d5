# SPDX-License-Identifier: GPL-2.0-or-later
"""The key of a pair: one file with a private key and the certificate for it, the same on both nodes. Who has
it is the peer, and nobody else is.

Hard facts
* TLS 1.3 shows both certificates before a byte of a message; a certificate that is its own authority is
  trusted as itself. Compared again, byte by byte, it is pinned: the key cannot sign another one.
* X509_V_FLAG_NO_CHECK_TIME (0x200000; Python has no name for it): a node whose clock is wrong is to say so
  to its peer, so no date may shut it out.
* load_cert_chain() takes a path and nothing else. The path of a descriptor in /proc/self/fd is opened again,
  with the rights of the one who opens: a memfd has its own mode.
"""

import hmac
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from agent.errors import HafwError

_NO_CHECK_TIME = 0x200000
_SAY_HOW = "make one on one node with: hafw pair key"


@dataclass(frozen=True, slots=True)
class PairKey:
    """`text`: the file, in PEM. `certificate`: in DER."""

    text: str
    certificate: bytes

    def require_peer(self, shown: bytes | None) -> None:
        """Raises HafwError unless `shown` (in DER) is the pair's own certificate."""
        if shown is None or not hmac.compare_digest(shown, self.certificate):
            raise HafwError("the certificate is another one")


def parse_key(text: str) -> PairKey:
    """Raises HafwError when there is no usable key and certificate in `text`."""
    begin, end = text.find("-----BEGIN CERTIFICATE-----"), text.find("-----END CERTIFICATE-----")
    try:
        if "PRIVATE KEY-----" not in text or begin < 0 or end < begin:
            raise ValueError
        key = PairKey(text, ssl.PEM_cert_to_DER_cert(text[begin : end + 25] + "\n"))
        make_context(key, server=True)
    except (ValueError, ssl.SSLError, OSError) as error:
        raise HafwError("there is no usable private key with its certificate in it", _SAY_HOW) from error
    return key


def make_context(key: PairKey, *, server: bool) -> ssl.SSLContext:
    """Raises ssl.SSLError when the key does not fit its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    if server:
        context.num_tickets = 0
    context.load_verify_locations(cadata=key.certificate)
    descriptor = os.memfd_create("pair-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, key.text.encode())
        context.load_cert_chain(Path(f"/proc/self/fd/{descriptor}"), password=_refuse_to_ask)
    finally:
        os.close(descriptor)
    return context


def _refuse_to_ask() -> str:
    """Of a key that is encrypted, at a terminal where nobody sits."""
    raise ValueError("the key is encrypted")
