"""A hint whenever any rule of this network namespace changes, by whomever.

Hard facts: the kernel tells NFNLGRP_NFTABLES of every change, in milliseconds. What changed is not read
here: our own transactions are told as well, and only a look at the whole table says whether it is still
ours. One thing is: that something of a table of our name was removed, and nothing made in it since. All of a
transaction is in force when the first of it is told, a removed table after all that was in it; what is too
much for the socket is thrown away and leaves an overflow.
"""

import errno
import socket
import struct
from collections.abc import Iterator

from agent.adapters.ctnetlink import attributes
from agent.errors import UnavailableError
from agent.rules.nft import TABLE

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_NFTABLES = 10 << 8
_NEW = frozenset(_NFTABLES | kind for kind in (0, 3, 6, 9, 18))
"""Tables, chains, rules, sets and objects; elements come and go all the time."""
_DELETED = frozenset(kind + 2 for kind in _NEW)
_TABLE_NAME = 1
_NAME = TABLE.encode() + b"\0"
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

    def drain(self) -> bool:
        """Take what waits off the socket, AT_ONCE messages at the most. Whether our table may be gone:
        something of it was removed, or there was more than the socket holds."""
        gone = overflow = False
        for _ in range(AT_ONCE):
            try:
                batch = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise UnavailableError(f"cannot watch the rules: {error.strerror}") from error
                overflow = True
                continue
            for kind in _of_our_table(batch):
                gone = kind in _DELETED
        return gone or overflow

    def close(self) -> None:
        self._socket.close()


def _of_our_table(batch: bytes) -> Iterator[int]:
    """The kinds of the messages that tell of a table of our name, of whatever family, and what is in it."""
    while len(batch) >= 20:
        size, kind = struct.unpack_from("=IH", batch)
        about = kind in _NEW or kind in _DELETED
        if about and dict(attributes(batch[20:size])).get(_TABLE_NAME) == _NAME:
            yield kind
        batch = batch[max(20, (size + 3) & ~3) :]
