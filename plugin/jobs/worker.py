"""The worker process: plans what is due, runs jobs, delivers results.

    python -m plugin.jobs.worker --config mirall.toml --data DIR

`mirall serve` starts one and starts it again when it ends. Several on one data folder are no harm: each runs jobs, and
the one that holds the lock `leader` plans and delivers. SIGTERM ends it: what runs has a few seconds to finish, then
waits for the next worker.
"""

from __future__ import annotations

import argparse
import logging
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicom_io.errors import ImagingError
from plugin import destinations, settings
from plugin.archive.ingest import open_archive
from plugin.dimse.commitment import Reporter
from plugin.jobs.delivery import Courier
from plugin.jobs.dispatch import dispatch, reconcile
from plugin.jobs.engine import Engine
from plugin.jobs.patience import Patience
from plugin.jobs.planning import sweep
from plugin.jobs.senders import Asker, Tries
from plugin.jobs.warm_child import WarmChild
from plugin.jobs.work import JobWork, Persistence
from plugin.registry import Registry

log = logging.getLogger(__name__)

REMEMBERED_DAYS = 7
_LOOK_EVERY_S = 0.1
BROKE_OFF = 70  # EX_SOFTWARE: a delivery thread died; start again


@dataclass(frozen=True)
class Pace:
    """How often a worker looks, in seconds, and how long it waits for others.

    sweep_s: one question to a partial index that holds only what is due, so it may be asked often.
    recover_s: for workers that are gone and jobs that the engine gave up.
    forget_s: for what the engine need not remember any more.
    drain_s: for the running job, at an orderly end.
    polling_s: of the engine's queue, which starts one job per look.
    """

    dispatch_s: float = 0.5
    sweep_s: float = 1.0
    recover_s: float = 5.0
    drain_s: float = 5.0
    forget_s: float = 3600.0
    polling_s: float = 0.25
    persistence: Persistence = field(default_factory=Persistence)
    patience: Patience = field(default_factory=Patience)
    tries: Tries = field(default_factory=Tries)


USUAL = Pace()
HASTY = Pace(0.1, 0.1, 0.5, 0.5, 3600.0, 0.05, Persistence(first_s=0.2), Patience(first_s=0.2), Tries(first_s=0.2))


class Worker:
    """One worker on the data folder of `configuration`. Make one per process (the engine is a singleton)."""

    def __init__(
        self,
        configuration: settings.Settings,
        *,
        pipeline: str = "plugin.pipeline",
        pace: Pace = USUAL,
    ) -> None:
        self._settings = configuration
        self._pace = pace
        self._registry = Registry(configuration.models)
        ingest = open_archive(configuration)
        self._index = ingest.index
        self._child = WarmChild(configuration.data / "scratch", pipeline)
        self._work = JobWork(configuration, ingest, self._registry, self._child, persistence=pace.persistence)
        self._engine = Engine(configuration.data / "jobs.sqlite", self._work)
        self._courier = Courier(
            self._index,
            configuration.destinations,
            {
                name: destinations.opened(each, configuration.node.aet)
                for name, each in configuration.destinations.items()
            },
            patience=pace.patience,
        )
        self._asker = Asker(configuration, ingest, tries=pace.tries)
        self._reporter = Reporter(configuration, self._index, patience=pace.patience)
        self._leads = False

    def run(self, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set, then end in order."""
        self._engine.launch(polling_s=self._pace.polling_s)
        ready()
        timers = {
            self._recover: self._pace.recover_s,
            self._sweep: self._pace.sweep_s,
            self._dispatch: self._pace.dispatch_s,
            self._forget: self._pace.forget_s,
        }
        due = dict.fromkeys(timers, 0.0)
        while not stop.is_set():
            for act, every_s in timers.items():
                if time.monotonic() >= due[act]:
                    act(stop)
                    due[act] = time.monotonic() + every_s
            stop.wait(self._pace.dispatch_s / 2)
        self._end()

    def _recover(self, stop: threading.Event) -> None:
        for owner in self._engine.recover_dead():
            log.warning("worker %s is gone; its jobs go on here", owner)
        if self._engine.leads() and not self._leads:
            self._leads = True
            self._work.clear_scratch()
            self._courier.release_held()
            self._courier.run(stop)
            self._reporter.run(stop)
            self._asker.run(stop)
        if self._leads:
            reconcile(self._index, self._engine, time.time())

    def _sweep(self, stop: threading.Event) -> None:
        if self._leads:
            for job in sweep(self._index, self._settings, time.time()):
                log.info("job %s: planned", job)

    def _dispatch(self, stop: threading.Event) -> None:
        if self._leads:
            dispatch(self._index, self._engine, time.time())

    def _forget(self, stop: threading.Event) -> None:
        if self._leads:
            self._engine.forget_ended(datetime.now(UTC) - timedelta(days=REMEMBERED_DAYS))

    def _end(self) -> None:
        until = time.monotonic() + self._pace.drain_s
        while self._child.is_busy and time.monotonic() < until:
            time.sleep(0.05)
        if self._child.is_busy:
            for job_id, run in self._work.give_back():
                self._engine.cancel(job_id, run)
                log.info("job %s: waits for the next worker", job_id)
        self._child.end()
        self._engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="mirall.toml")
    parser.add_argument("--data", type=Path, help="data folder, in place of the configured one")
    parser.add_argument("--after", type=int, help="number of a pipe; begin when its other end is closed")
    parser.add_argument("--pipeline", default="plugin.pipeline", help=argparse.SUPPRESS)  # tests put a quick one here
    parser.add_argument("--hasty", action="store_true", help=argparse.SUPPRESS)  # tests: waits of fractions of a second
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Each association, request and answer to a poll is a line of theirs; ours say what happened.
    for chatty in ("pynetdicom", "alembic", "httpx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    stop, asked = threading.Event(), threading.Event()

    def on_signal(number: int, frame: object) -> None:
        asked.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        worker = Worker(
            settings.load(arguments.config, data=arguments.data),
            pipeline=arguments.pipeline,
            pace=HASTY if arguments.hasty else USUAL,
        )
    except ImagingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if arguments.after is not None:
        # Until the index is up to date: studies of which a part is on disk alone would be planned as whole.
        while not stop.is_set() and not select.select([arguments.after], [], [], _LOOK_EVERY_S)[0]:
            pass
    worker.run(stop, ready=lambda: print("ready", flush=True))
    sys.exit(0 if asked.is_set() else BROKE_OFF)


if __name__ == "__main__":
    main()
