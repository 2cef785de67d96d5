# SPDX-License-Identifier: GPL-2.0-or-later
"""What openssl makes: the key of a pair. Python's ssl uses keys, and makes none."""

import asyncio

from agent.adapters.process import run
from agent.errors import ToolError

_OPENSSL = "/usr/bin/openssl"
_LIMIT_S = 20.0
_DAYS = "36500"
"""No date of it is looked at; openssl wants one."""


def make_pair_key() -> str:
    """A private key and the certificate for it that it has signed itself, in PEM. Raises ToolError."""
    argv = (
        *(_OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *(
            "-config",
            "/dev/null",
            "-keyout",
            "-",
            "-out",
            "-",
            "-subj",
            "/O=hafw/CN=a firewall pair",
            "-days",
            _DAYS,
        ),
    )
    done = asyncio.run(run(argv, timeout_s=_LIMIT_S))
    if done.exit_status != 0:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ToolError(argv, f"openssl cannot make a key: {reason}", exit_status=done.exit_status)
    return done.stdout
