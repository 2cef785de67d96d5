# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates of a machine whose screen is open to the network: an authority of its own, made again for
each lab, and the server's certificate. The authority's key is thrown away at once: there is no second one.
"""

import os
import tempfile
from pathlib import Path

from hafw_lab.process import run

AUTHORITY, CERTIFICATE, KEY = "ca-cert.pem", "server-cert.pem", "server-key.pem"
"""As spice-server wants them to be called."""
_DAYS = "365"
_NEW_KEY = ("-newkey", "rsa:2048", "-nodes")


def subject_of(name: str) -> str:
    """What a viewer compares the server's certificate with."""
    return f"O=hafw-lab,CN={name}"


def make_certificates(name: str, directory: Path, user: int) -> str:
    """In a new `directory`, which will be `user`'s. Returns the authority's. Raises LabError."""
    directory.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="authority-") as work:
        key, request = f"{work}/key.pem", f"{work}/request.pem"
        authority = str(directory / AUTHORITY)
        run(["openssl", "req", "-x509", *_NEW_KEY, "-days", _DAYS,
             "-subj", f"/O=hafw-lab/CN={name} authority", "-keyout", key, "-out", authority])  # fmt: skip
        run(["openssl", "req", *_NEW_KEY, "-subj", f"/O=hafw-lab/CN={name}",
             "-keyout", str(directory / KEY), "-out", request])  # fmt: skip
        run(["openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", key, "-set_serial", "2",
             "-days", _DAYS, "-out", str(directory / CERTIFICATE)])  # fmt: skip
    for path in (directory, *directory.iterdir()):
        os.chown(path, user, user)
    return (directory / AUTHORITY).read_text(encoding="ascii")
