"""How long we go on with a peer that does not take what we owe it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Waits between attempts: first_s, doubled each time up to longest_s, less up to half by chance (jitter).

    attempts: sends before it is given up; the default makes about three days. checks: questions after a success before
    an object that the destination does not list is called unknown; the default makes about an hour. report_s: how long
    a report on storage commitment may take before its absence is told.
    """

    first_s: float = 5.0
    longest_s: float = 3600.0
    attempts: int = 80
    checks: int = 10
    report_s: float = 12 * 3600.0

    def wait_s(self, tried: int, chance: float) -> float:
        """After the `tried`-th attempt; chance is in 0..1."""
        return min(self.longest_s, self.first_s * 2 ** min(tried - 1, 30)) * (1 - chance / 2)
