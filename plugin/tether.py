"""Runs a module as a process that never outlives the one that started it.

    python -m plugin.tether PARENT plugin.jobs.worker --data DIR

PARENT is the process id of the starter. A service that is killed with -9 cannot end its children; the kernel does it
for us. Were they left behind, they would go on holding ports and jobs that the next service wants. Linux only, as
`mirall serve` is.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(sys.argv[1]):
        sys.exit(0)  # it ended before we could ask
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
