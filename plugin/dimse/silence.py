"""How long a peer may stop inside a message, or read nothing of what we send, before its connection is given up.

pynetdicom's own timeouts run between messages alone: its thread that reads the socket would wait for the rest of a PDU
for ever, and whoever ends the association would wait for that thread.
"""

from __future__ import annotations

import socket
import ssl
import struct


def limit(connection: socket.socket, timeout_s: float) -> None:
    """Let a read or write fail (OSError) in which nothing moves for `timeout_s`."""
    if isinstance(connection, ssl.SSLSocket):
        # Where the kernel gives up a read, Python's TLS begins it anew.
        connection.settimeout(timeout_s)
        return
    # By the kernel: the timeout of Python's sockets costs another call of the system for each read.
    duration = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, duration)
