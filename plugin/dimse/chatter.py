"""What pynetdicom says in the log: a sentence where a connection fails, never a stack trace, nothing where all is well.

A peer can break a connection at any byte. pynetdicom logs each time where in its own code it noticed, which tells an
operator nothing and lets any stranger fill the log.
"""

from __future__ import annotations

import logging

_LOGGERS = ("pynetdicom.dul", "pynetdicom.transport")


def quiet() -> None:
    """Errors alone, without stack traces and without a peer's no, which callers tell better; as often as one likes."""
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_without_trace)
    logging.getLogger("pynetdicom.acse").addFilter(_no_is_an_answer)


def _without_trace(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _no_is_an_answer(record: logging.LogRecord) -> bool:
    return "No accepted presentation contexts" not in record.getMessage()
