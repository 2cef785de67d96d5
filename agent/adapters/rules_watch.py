"""A hint whenever any rule of this network namespace changes, by whomever.

Hard facts: the kernel tells NFNLGRP_NFTABLES of every change, in milliseconds. What changed is not read
here: our own transactions are told as well, and only a look at the whole table says whether it is still
ours.
"""

import errno
import socket

from agent.errors import UnavailableError

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
AT_ONCE = 64


class RulesWatch:
    def __init__(self) -> None:
        """Raises UnavailableError where the kernel does not tell."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
            self._socket.setblocking(False)
            self._socket.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        except OSError as error:
            raise UnavailableError(f"cannot watch the rules: {error.strerror}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Take what waits off the socket, AT_ONCE messages at the most; an overflow means only that there
        was much."""
        for _ in range(AT_ONCE):
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise UnavailableError(f"cannot watch the rules: {error.strerror}") from error

    def close(self) -> None:
        self._socket.close()
