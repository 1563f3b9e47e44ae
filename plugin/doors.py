"""The sockets of our doors: opened once, and handed to the processes that answer at them.

The service opens them and keeps them as long as it runs; so a process behind a door may end and be started again while
peers wait in the queue of the socket instead of being turned away.
"""

from __future__ import annotations

import errno
import socket

from plugin.settings import BadSettings, HostPort

# Connections that wait to be accepted.
_BACKLOG = 256


def bind(key: str, option: str, address: HostPort) -> socket.socket:
    """A socket at an address, on which nobody listens yet (`listen`).

    key, option: of the setting and of `mirall serve`, for the sentence.

    Raises:
        BadSettings: the address is in use or not ours.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(key, option, address, error) from error
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(where)
    except OSError as error:
        opened.close()
        raise _cannot_listen(key, option, address, error) from error
    return opened


def listen(opened: socket.socket) -> None:
    """From now on connections are taken, and wait in its queue until a process accepts them."""
    opened.listen(_BACKLOG)


def address_of(opened: socket.socket) -> HostPort:
    """Where it is bound, with the port that port 0 turned into."""
    host, port = opened.getsockname()[:2]
    return HostPort(str(host), int(port))


def _cannot_listen(key: str, option: str, address: HostPort, error: OSError) -> BadSettings:
    if error.errno == errno.EADDRINUSE:
        why = "another program listens there; end it, or choose another port"
    else:
        why = f"{error.strerror or error}; choose another address"
    return BadSettings(f"{key} is {address}, which cannot be used: {why} with {option} HOST:PORT")
