"""C-ECHO as a service (PS3.7 9.1.5)."""

from pynetdicom.events import Event


def handle(event: Event) -> int:
    """A peer asks whether we are there: Success."""
    return 0x0000
