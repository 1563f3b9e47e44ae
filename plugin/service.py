"""The service: one process that opens the doors, starts what works behind them, and starts again what dies.

    mirall serve           -> serve()
    tests, mirall demo     -> with running(...) as service: ...

    web        plugin.dicomweb.server, one; at the start it brings the index up to date and takes up what lies on disk
    listener   plugin.dimse.listener, node.listeners of them on one socket
    worker     plugin.jobs.worker, one

Both doors open, and the worker begins, when the index is up to date, not before.

What `mirall serve` was told on its command line reaches the children in MIRALL_OVERRIDES (see `settings.load`). One
service at a time works on a data folder: it holds a lock there, and so do its children until they have ended.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_io.errors import TryAgain
from plugin import doors
from plugin import settings as configuration
from plugin.archive.storage import Storage, make_private
from plugin.security import tls
from plugin.settings import BadSettings, HostPort, Settings

LOGGER = logging.getLogger(__name__)

WRONG_USE = 2
# A child that ran this long has recovered: its next restart is at once again.
_HEALTHY_S = 60.0
_LONGEST_WAIT_S = 30.0
_END_S = 20.0
# Peers wait for the doors, and nobody for the worker; 5 is half of nice's own default.
_BEHIND_THE_DOORS = 5
_LOCK_WAIT_S = 10.0


class CannotServe(TryAgain):
    """The service did not come up, or cannot run here."""


@dataclass
class Child:
    """One process that is kept running.

    files: numbers of open files that it inherits. at_first: arguments until it was ready once. niceness: its place
    behind others for the processor, 0 to 19. failures: ends in a row, for the wait before the next start. has_indexed,
    ready: it has said so.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    files: Sequence[int]
    at_first: Sequence[str] = ()
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0
    has_indexed: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.command, *(() if self.ready.is_set() else self.at_first)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(self.environment),
            pass_fds=self.files,
            # Ctrl-C reaches the terminal's whole group; ours are ended by us, in order.
            start_new_session=True,
        )
        if self.niceness:
            os.setpriority(os.PRIO_PROCESS, self.process.pid, self.niceness)
        self.started_at = time.monotonic()
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def poll(self) -> int | None:
        """Exit code where the process has ended since it was last started."""
        return None if self.process is None else self.process.poll()

    def plan_restart(self, code: int) -> None:
        if time.monotonic() - self.started_at > _HEALTHY_S:
            self.failures = 0
        wait = min(0.25 * 2**self.failures, _LONGEST_WAIT_S)
        self.failures += 1
        self.process = None
        self.start_at = time.monotonic() + wait
        LOGGER.error("%s ended with %s; it is started again in %.1f s", self.name, code, wait)

    def tell_to_end(self) -> None:
        """SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, timeout_s: float) -> None:
        """SIGKILL for what does not end; what was acknowledged is stored either way."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            LOGGER.error("%s did not end in %.0f s and is killed", self.name, timeout_s)
            self.process.kill()
            self.process.wait()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == b"indexed":
                self.has_indexed.set()
            elif line.strip() == b"ready":
                self.ready.set()


def serve(
    config: Path | None, overrides: Mapping[str, Any], *, say: Callable[[str], None] = print, worker: bool = True
) -> int:
    """Run until SIGINT or SIGTERM. overrides: data, http, dimse, aet, open as given on the command line.

    Returns the exit code: 0 after a clean end, 2 where a child could not start (an address is in use) and has said why.

    Raises:
        BadSettings: the configuration is wrong, an address may not be bound, or the folder is in use. `mirall serve`
            ends with 2 then, too.
        CannotServe: not on this operating system.
    """
    if sys.platform != "linux":
        raise CannotServe(
            f"mirall serve needs Linux, this is {sys.platform}; `mirall train`, `predict` and `generate` run here"
        )
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = configuration.load(config, **given)
    for warning in configuration.may_listen(settings):
        say(f"warning: {warning}")
    for sentence in [*configuration.unknown_models(settings, config), *tls.check(settings)]:
        say(f"warning: {sentence}")
    lock = _lock(settings)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    house: House | None = None
    try:
        house = House(config, settings, given, lock, worker)
        return _supervise(house, stop, say)
    finally:
        if house is not None:
            house.close()
        os.close(lock)
        for number, handler in before.items():
            signal.signal(number, handler)


class House:
    """The doors' sockets, and the processes that work behind them.

    settings: with the ports that port 0 turned into.

    Raises:
        BadSettings: an address is in use or not ours.
    """

    def __init__(
        self, config: Path | None, settings: Settings, given: Mapping[str, Any], lock: int, worker: bool
    ) -> None:
        http = doors.bind("node.http", "--http", settings.node.http_address)
        try:
            dimse = doors.bind("node.dimse", "--dimse", settings.node.dimse_address)
        except BadSettings:
            http.close()
            raise
        self._http, self._dimse = http, dimse
        # Who answers at a door, or works, waits for the end of this pipe; nothing is ever written to it.
        after, self._closed = os.pipe()
        self._pipe: list[int] = [after, self._closed]
        ports = {
            "http": _with_port(settings.node.http_address, http),
            "dimse": _with_port(settings.node.dimse_address, dimse),
        }
        self.settings = settings.model_copy(update={"node": settings.node.model_copy(update=ports)})
        environment = _environment(settings, given)
        arguments = [] if config is None else ["--config", str(config)]

        def child(
            name: str, module: str, *options: str, files: Sequence[int] = (), at_first: Sequence[str] = ()
        ) -> Child:
            tether = [sys.executable, "-m", "plugin.tether", str(os.getpid())]
            return Child(name, [*tether, module, *arguments, *options], environment, [lock, *files], at_first)

        web = http.fileno()
        port = dimse.fileno()
        self.web = child(
            "web",
            "plugin.dicomweb.server",
            f"--socket={web}",
            f"--after={after}",
            files=[web, after],
            at_first=["--reindex"],
        )
        self.listeners = [
            child(
                f"listener {number + 1}",
                "plugin.dimse.listener",
                f"--socket={port}",
                f"--after={after}",
                files=[port, after],
            )
            for number in range(settings.node.listeners)
        ]
        self.workers = [child("worker", "plugin.jobs.worker", f"--after={after}", files=[after])] if worker else []
        for each in self.workers:
            each.niceness = _BEHIND_THE_DOORS

    @property
    def children(self) -> Sequence[Child]:
        return [self.web, *self.listeners, *self.workers]

    @property
    def is_ready(self) -> bool:
        """Both doors are answered at."""
        return self.web.ready.is_set() and all(each.ready.is_set() for each in self.listeners)

    def open_doors(self) -> None:
        """Once the index is up to date."""
        if self._closed in self._pipe and self.web.has_indexed.is_set():
            # The web listens by itself when it answers.
            doors.listen(self._dimse)
            os.close(self._closed)
            self._pipe.remove(self._closed)

    def close(self) -> None:
        """End all of them, the doors first: nothing new comes in while the worker puts down what it holds."""
        for group in ([*self.listeners, self.web], self.workers):
            for one in group:
                one.tell_to_end()
            for one in group:
                one.wait(_END_S)
        self._http.close()
        self._dimse.close()
        for number in self._pipe:
            os.close(number)


def _supervise(house: House, stop: threading.Event, say: Callable[[str], None]) -> int:
    announced = False
    for child in house.children:
        child.start()
    while not stop.wait(0.02 if not announced else 0.1):
        for child in house.children:
            code = child.poll()
            if code == WRONG_USE and not announced:
                return WRONG_USE  # it has said why
            if code is not None:
                child.plan_restart(code)
            elif child.process is None and time.monotonic() >= child.start_at:
                child.start()
        house.open_doors()
        if not announced and house.is_ready:
            announced = True
            node = house.settings.node
            say(f"DICOM     {node.aet} at {node.dimse_address}{', with TLS' if node.is_encrypted('dimse') else ''}")
            say(f"DICOMweb  {node.web_url}/dicom-web")
            say(f"pages     {node.web_url}/")
            say(f"data      {house.settings.data}")
            say("Research use only, not for diagnosis. Ctrl-C ends the service.")
    return 0


def _with_port(address: HostPort, listening: socket.socket) -> str:
    return str(HostPort(address.host, doors.address_of(listening).port))


def _environment(settings: Settings, given: Mapping[str, Any]) -> dict[str, str]:
    """What the children are told; where the working folder's mirall.toml was found without --config, so do they."""
    told = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return os.environ | {configuration.OVERRIDES_VARIABLE: json.dumps(told | {"data": str(settings.data)})}


def _lock(settings: Settings) -> int:
    """The data folder's lock, and what a service that was killed left half-received is cleared away."""
    make_private(settings.data)
    lock = os.open(settings.data / "service.lock", os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(lock)
                raise BadSettings(
                    f"another service works on {settings.data}; end it, or give this one another --data"
                ) from None
            time.sleep(0.1)
    Storage(settings.data).clear_incoming()
    return lock


# A service in a process of its own


@dataclass(frozen=True)
class Running:
    """A service that was started by `running`. process: of `mirall serve`; log: its output and errors."""

    process: subprocess.Popen[bytes]
    settings: Settings
    log: Path

    @property
    def url(self) -> str:
        return self.settings.node.web_url

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    def kill(self) -> None:
        """kill -9 of the service; its children end with it."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(
    config: Path | None = None, *, wait_s: float = 60.0, log: Path | None = None, **overrides: Any
) -> Iterator[Running]:
    """A service in a process of its own, ready when this gives it, ended with SIGTERM afterwards.

    overrides: data, http, dimse, aet, open. log: where its output goes; by default service.log in the data folder.

    Raises:
        CannotServe: it ended, or was not ready after `wait_s` seconds; the message ends with its last words.
    """
    settings = configuration.load(config, **overrides)
    make_private(settings.data)
    log = log or settings.data / "service.log"
    options = [part for name, value in overrides.items() if value is not None for part in _option(name, value)]
    command = [sys.executable, "-m", "plugin.cli", "serve", *options]
    command += ["--config", str(config)] if config is not None else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    service = Running(process, settings, log)
    try:
        _wait_ready(service, wait_s)
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(2 * _END_S)
        except subprocess.TimeoutExpired:
            service.kill()


def _option(name: str, value: Any) -> list[str]:
    if name == "open":
        return ["--open"] if value else []
    return [f"--{name}", str(value)]


def _wait_ready(service: Running, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while time.monotonic() < end and service.process.poll() is None:
        if _is_ready(service):
            return
        time.sleep(0.1)
    words = service.log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
    raise CannotServe(f"the service did not become ready in {wait_s:.0f} s; its last words: {words}")


def _is_ready(service: Running) -> bool:
    """Whether our own child answers that it is. Health is open to all; where a certificate of the caller is asked for
    before a word is said, that it asks must do."""
    node = service.settings.node
    if node.tls is not None and node.tls.client_ca is not None and node.is_encrypted("http"):
        return tls.answers(node.http_address)
    import httpx  # the service itself has no need of it

    # Its name need not be in its certificate: we know whom we started. No proxy of the environment stands between.
    with httpx.Client(trust_env=False, timeout=2.0, verify=False) as client:
        try:
            return client.get(f"{service.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False  # it is still starting
