"""Every setting, its unit, default and reason; read from `mirall.toml`, the only truth for routes and destinations.

An unknown key, a bad value, a route to an unknown destination: each is one sentence that names file, line and key.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dicom_io.errors import Rejected
from plugin.routes import unusable

FILE_NAME = "mirall.toml"
OVERRIDES_VARIABLE = "MIRALL_OVERRIDES"
"""Environment variable (JSON) by which `mirall serve` hands its command-line options to the processes it starts."""

Correction = Literal["replace", "keep-first", "hold"]
Verb = Literal["echo", "store", "find", "move", "get", "commit"]
Role = Literal["read", "store", "work", "delete"]
TlsVersion = Literal["1.2", "1.3"]
Door = Literal["dimse", "http"]
VERBS: tuple[Verb, ...] = ("echo", "store", "find", "move", "get", "commit")
_MODEL_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?")


def _application_entity(title: str) -> str:
    """An AE title (PS3.5 6.2): 1 to 16 characters of ASCII, no backslash, no control character, not spaces alone."""
    if not title.strip(" ") or len(title) > 16:
        raise ValueError(f"{title!r} has {len(title)} characters; an AE title has 1 to 16, and not spaces alone")
    if re.search(r"[^\x20-\x7e]|\\", title):
        raise ValueError(f"{title!r} is no AE title; use letters, digits and signs of ASCII, without backslash")
    return title


def _model_address(address: str) -> str:
    if not _MODEL_ADDRESS.fullmatch(address):
        raise ValueError(f"{address!r} must be NAME:VERSION, such as pet-tumour:1, or NAME for the newest version")
    return address


def _web_root(url: str) -> str:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets or a port that are none
        right = False
    if not right:
        raise ValueError(f"{url!r} must be a whole http or https address, such as http://pacs:8042/dicom-web")
    return url


def _origin(origin: str) -> str:
    """What a browser puts into the Origin header (RFC 6454): scheme, host and port, and nothing else."""
    if origin != "*" and not re.fullmatch(r"https?://[^/?#@\s]+", origin):
        raise ValueError(f"{origin!r} is no origin; give scheme, host and port alone, such as https://viewer.example")
    return origin.lower()


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    """A relative path counts from the folder of mirall.toml, wherever the service is started."""
    return Path((info.context or {}).get("folder", "")) / path


ApplicationEntity = Annotated[str, AfterValidator(_application_entity)]
Origin = Annotated[str, AfterValidator(_origin)]
PemFile = Annotated[Path, AfterValidator(_from_folder)]
ModelAddress = Annotated[str, AfterValidator(_model_address)]
WebRoot = Annotated[str, AfterValidator(_web_root)]


def _both_or_none(section: BaseModel, one: str, other: str) -> None:
    if (getattr(section, one) is None) != (getattr(section, other) is None):
        raise ValueError(f"{one} and {other} go together; set both or neither")


class BadSettings(Rejected):
    """The configuration cannot be used; the message has one line for each problem."""


@dataclass(frozen=True)
class HostPort:
    """Where to listen. host: an address or a name; port: 0 takes a free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def host_port(text: str) -> HostPort:
    """`127.0.0.1:11112` or `[::1]:11112` in its two parts.

    Raises:
        ValueError: no port, or one outside 0..65535.
    """
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no HOST:PORT, such as 127.0.0.1:11112")
    return HostPort(host, int(port))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KnownPeer(_Section):
    """[[node.known_peers]]: who may open a DICOM association with us."""

    aet: ApplicationEntity = Field(description="Calling AE title that the peer gives itself.")
    address: str = Field(description="Its IP address, a network such as 10.1.2.0/24, or a host name.", min_length=1)
    verbs: tuple[Verb, ...] = Field(default=VERBS, min_length=1, description="What it may ask of us.")
    username: str | None = Field(
        default=None, min_length=1, description="It must give this user name and passcode (PS3.7 D.3.3.7)."
    )
    passcode: str | None = Field(default=None, min_length=1, description="The passcode that goes with `username`.")

    @model_validator(mode="after")
    def _pair(self) -> KnownPeer:
        _both_or_none(self, "username", "passcode")
        return self


class Token(_Section):
    """[[node.tokens]]: a token for HTTP that allows less, or more, than `node.http_token`."""

    name: str = Field(min_length=1, description="Shown in logs in place of the token.")
    token: str = Field(min_length=16, description="Clients send it as `Authorization: Bearer ...`.")
    roles: tuple[Role, ...] = Field(
        min_length=1,
        description="`read` (queries, retrieval, pages), `store` (STOW-RS), `work` (jobs, outbox, worklist), `delete`.",
    )


class Tls(_Section):
    """[node.tls]: encryption of our own doors (PS3.15 B)."""

    certificate: PemFile = Field(
        description="PEM file of our certificate, with the chain; a relative one is counted from the folder of "
        "mirall.toml."
    )
    key: PemFile = Field(description="PEM file of its private key, without a passphrase.")
    client_ca: PemFile | None = Field(
        default=None, description="PEM file of authorities; a peer must then show a certificate of one of them."
    )
    minimum_version: TlsVersion = Field(default="1.2", description="Oldest version of TLS that is spoken.")
    doors: tuple[Door, ...] = Field(default=("dimse", "http"), min_length=1, description="Which doors are encrypted.")


class Profile(_Section):
    """[destinations.NAME.profile]: how results must be encoded for a peer; `mirall destinations probe` proposes one."""

    segmentation: Literal["binary", "labelmap"] = Field(default="binary", description="Kind of SEG.")
    empty_frames: bool = Field(default=False, description="SEG frames without a marked voxel are written, too.")
    captures: Literal["multi-frame", "single-frame"] = Field(
        default="multi-frame", description="Secondary Captures with up to 64 frames, or one instance for each frame."
    )
    reports: bool = Field(
        default=False, description="Structured Reports (TID 1500) of predictions, with numbers and probabilities, too."
    )
    maps: bool = Field(
        default=False,
        description="Parametric Maps of the probability of what is segmented, too, and of where ensembles disagree.",
    )
    saliency: bool = Field(
        default=False, description="Maps of where a classifier's suspicion comes from, too, with captures."
    )
    transfer_syntaxes: tuple[str, ...] = Field(
        default=(),
        description="UIDs of the transfer syntaxes that the peer takes, the best first; none named: as stored.",
    )


class Node(_Section):
    """[node]: who we are, where we listen and who may speak to us."""

    aet: ApplicationEntity = Field(default="MIRALL", description="Our AE title; other called titles are refused.")
    dimse: str = Field(default="127.0.0.1:11112", description="HOST:PORT for DICOM associations.")
    http: str = Field(default="127.0.0.1:8080", description="HOST:PORT for DICOMweb, API and pages.")
    data: Path = Field(
        default=Path("mirall-data"),
        description="Folder of everything we keep; a relative one is counted from the folder of mirall.toml.",
    )
    open: bool = Field(
        default=False, description="Listen beyond loopback without allow list and token, and take any peer. It warns."
    )
    http_token: str | None = Field(
        default=None,
        min_length=16,
        description="Clients must send it as `Authorization: Bearer ...`; 16 characters or more.",
    )
    known_peers: tuple[KnownPeer, ...] = Field(
        default=(),
        description="Peers that may associate. None named: this machine's own programs, over loopback, and no other.",
    )
    tokens: tuple[Token, ...] = Field(
        default=(),
        description="Tokens with roles. `http_token` has every role but `delete`; who deletes needs one of these.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(),
        description="Web pages of these origins may use DICOMweb, such as https://viewer.example; `*` is any.",
    )
    tls: Tls | None = Field(default=None, description="Encryption of our doors. None: plain.")
    listeners: int = Field(default=2, ge=1, le=32, description="Processes that receive on the one DICOM port.")
    asynchronous_operations: int = Field(
        default=4, ge=1, le=32, description="C-STORE requests that a peer may send before the first one is answered."
    )
    maximum_associations: int = Field(
        default=64, ge=1, le=1024, description="Open associations over all listeners; the next one is rejected for now."
    )
    idle_timeout_s: float = Field(
        default=120.0, gt=0, description="Seconds without a message after which an association is aborted."
    )
    artim_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds in which a connection must ask for an association (PS3.8 9.1.5)."
    )

    @field_validator("dimse", "http")
    @classmethod
    def _address(cls, value: str) -> str:
        host_port(value)
        return value

    @model_validator(mode="after")
    def _distinct_tokens(self) -> Node:
        """One token is one name and one set of roles."""
        secrets = [each.token for each in self.tokens] + ([self.http_token] if self.http_token else [])
        names = [each.name for each in self.tokens]
        for what, values in (("token", secrets), ("name of a token", names)):
            if len(set(values)) < len(values):
                raise ValueError(f"a {what} is used twice in node.tokens and node.http_token; give each its own")
        return self

    def is_encrypted(self, door: Door) -> bool:
        return self.tls is not None and door in self.tls.doors

    @property
    def web_url(self) -> str:
        """Root of our own web server, as its clients call it."""
        return f"{'https' if self.is_encrypted('http') else 'http'}://{self.http_address}"

    @property
    def dimse_address(self) -> HostPort:
        return host_port(self.dimse)

    @property
    def http_address(self) -> HostPort:
        return host_port(self.http)


class Archive(_Section):
    """[archive]: what happens to what arrives."""

    on_correction: Correction = Field(
        default="replace",
        description="Same UID and pixels, another header: `replace` makes the new one current, `keep-first` puts it "
        "aside, `hold` puts it in quarantine. The bytes of every version are kept.",
    )
    minimum_free_mb: int = Field(
        default=256, ge=0, description="Free space in MB (10^6 bytes) below which we answer 0xA700 or HTTP 507."
    )
    metadata_cache_mb: int = Field(
        default=1000,
        ge=0,
        description="Space in MB (10^6 bytes) for ready-made answers to WADO-RS metadata requests, below the data "
        "folder; 0 makes each anew.",
    )


class Study(_Section):
    """[study]: when a study counts as complete."""

    quiet_s: float = Field(
        default=30.0, gt=0, description="Seconds without an arrival after which a study is complete."
    )
    maximum_wait_s: float = Field(
        default=900.0, gt=0, description="Seconds after which a study that still grows is worked on as incomplete."
    )
    reconcile: bool = Field(
        default=True,
        description="Ask the sender, where it is a destination that answers C-FIND, for its list of instances, fetch "
        "what is missing, and only then count the study as complete.",
    )


class Destination(_Section):
    """[destinations.NAME]: a peer that results go to, by C-STORE (`kind = "dimse"`) or STOW-RS (`kind = "stow"`)."""

    kind: Literal["dimse", "stow"] = Field(description="The protocol.")
    aet: ApplicationEntity | None = Field(default=None, description="The peer's AE title (dimse).")
    host: str | None = Field(default=None, description="The peer's host name or address (dimse).")
    port: int | None = Field(default=None, ge=1, le=65535, description="The peer's port (dimse).")
    url: WebRoot | None = Field(default=None, description="The peer's DICOMweb root, the part before /studies (stow).")
    token: str | None = Field(default=None, description="Sent as `Authorization: Bearer ...` (stow).")
    allow_unproven: bool = Field(
        default=False, description="Take results of model versions whose evaluation proves nothing yet."
    )
    tls: bool = Field(default=False, description="Encrypt (dimse; an https url is encrypted anyway).")
    ca: PemFile | None = Field(
        default=None, description="PEM file of the authorities that we believe. None: the machine's own list."
    )
    certificate: PemFile | None = Field(
        default=None, description="PEM file of the certificate that we show to the peer."
    )
    key: PemFile | None = Field(default=None, description="PEM file of its private key.")
    username: str | None = Field(default=None, min_length=1, description="User name that we give to the peer (dimse).")
    passcode: str | None = Field(default=None, min_length=1, description="Passcode that we give to the peer (dimse).")
    commitment: bool = Field(
        default=True, description="Ask for storage commitment after a send, where the peer offers it (dimse)."
    )
    retrieve: Literal["auto", "get", "move"] = Field(
        default="auto", description="How we fetch from it: C-GET, C-MOVE, or C-GET where it is offered (dimse)."
    )
    profile: Profile = Field(default_factory=Profile, description="How results are encoded for it.")

    @model_validator(mode="after")
    def _complete(self) -> Destination:
        wanted = {"dimse": ("aet", "host", "port"), "stow": ("url",)}[self.kind]
        other = {"dimse": ("url", "token"), "stow": ("aet", "host", "port", "username", "passcode")}[self.kind]
        missing = [name for name in wanted if getattr(self, name) is None]
        idle = [name for name in other if getattr(self, name) is not None]
        if missing:
            raise ValueError(f"a destination of kind {self.kind!r} needs {' and '.join(missing)}")
        if idle:
            raise ValueError(f"a destination of kind {self.kind!r} does not use {' and '.join(idle)}; take it out")
        _both_or_none(self, "username", "passcode")
        _both_or_none(self, "certificate", "key")
        self._check_encryption()
        return self

    def _check_encryption(self) -> None:
        """Certificates that nothing would use are a wish that did not come true; say so."""
        if self.kind == "stow":
            encrypted, way = str(self.url).startswith("https://"), "give an https url"
        else:
            encrypted, way = self.tls, "set tls = true"
        idle = [name for name in ("ca", "certificate", "tls") if getattr(self, name)]
        if idle and not encrypted:
            raise ValueError(f"{' and '.join(idle)} would do nothing, because the peer is called in the clear; {way}")


class Route(_Section):
    """[[routes]]: which studies are worked on, by which model versions, and where the results go."""

    name: str = Field(min_length=1, description="Shown in jobs and pages; unique.")
    match: Mapping[str, str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="DICOM keyword (wildcards * and ?, several values = any of them) or calling_aet, called_aet, "
        "address, door, time (HH:MM-HH:MM); all must hold. Nothing named: every study.",
    )
    run: tuple[ModelAddress, ...] = Field(
        default=(), description="Models to run, as name:version, or as name for the version that was released last."
    )
    send_to: tuple[str, ...] = Field(default=(), description="Names of destinations for the results.")
    allow_results: bool = Field(default=False, description="Match objects that Mirall itself made, too.")
    force: bool = Field(
        default=False, description="Run on input outside the model's card; results are marked out-of-domain."
    )


class Settings(_Section):
    """The whole of mirall.toml."""

    node: Node = Field(default_factory=Node, description="Who we are and who may speak to us.")
    archive: Archive = Field(default_factory=Archive, description="What happens to what arrives.")
    study: Study = Field(default_factory=Study, description="When a study is complete.")
    destinations: Mapping[str, Destination] = Field(default_factory=dict, description="Where results may go, by name.")
    routes: tuple[Route, ...] = Field(default=(), description="Rules, in order.")

    @property
    def data(self) -> Path:
        return self.node.data

    @property
    def models(self) -> Path:
        """Registry of released model versions: <name>/<version>/."""
        return self.node.data / "models"


def load(
    path: Path | None = None,
    *,
    data: Path | None = None,
    http: str | None = None,
    dimse: str | None = None,
    aet: str | None = None,
    open: bool | None = None,
) -> Settings:
    """Settings from `path`, else from mirall.toml in the current folder where there is one, else the defaults.

    The named arguments (the options of `mirall serve`) outrank the file; what `mirall serve` was given reaches its
    children in the environment variable MIRALL_OVERRIDES and stands between the two. `data` comes out absolute.

    Raises:
        BadSettings: no such file, no TOML, an unknown key, a bad value, a route to an unknown destination.
    """
    if path is None and Path(FILE_NAME).is_file():
        path = Path(FILE_NAME)
    text, document = ("", {}) if path is None else _read(path)
    given = {"data": data, "http": http, "dimse": dimse, "aet": aet, "open": open}
    overrides = json.loads(os.environ.get(OVERRIDES_VARIABLE, "{}"))
    overrides |= {name: value for name, value in given.items() if value is not None}
    return _validated(path, text, document, overrides)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise BadSettings(f"{path} cannot be read ({error.strerror}); give another --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is no valid TOML: {error}") from error


def _validated(path: Path | None, text: str, document: dict[str, Any], overrides: Mapping[str, Any]) -> Settings:
    node = document.get("node", {})
    base = Path.cwd() if path is None else path.resolve().parent
    # A section of the wrong type ("node = 3") is left for pydantic to name.
    if isinstance(node, dict):
        folder = (
            Path(overrides["data"]).absolute() if "data" in overrides else base / str(node.get("data", "mirall-data"))
        )
        document = document | {"node": {**node, **overrides, "data": folder}}
    try:
        settings = Settings.model_validate(document, context={"folder": base})
    except ValidationError as error:
        sentences = [_sentence(path, text, one["loc"], one["msg"], one["type"]) for one in error.errors()]
        raise BadSettings("\n".join(dict.fromkeys(sentences))) from error
    problems = [_sentence(path, text, location, message, "") for location, message in _unknown_names(settings)]
    if problems:
        raise BadSettings("\n".join(problems))
    return settings


def _unknown_names(settings: Settings) -> list[tuple[tuple[str | int, ...], str]]:
    """Routes that do nothing, whose conditions can never hold, or to an unknown destination; names used twice."""
    known = ", ".join(sorted(settings.destinations)) or "none"
    problems: list[tuple[tuple[str | int, ...], str]] = []
    seen: set[str] = set()
    for number, route in enumerate(settings.routes):
        if route.name in seen:
            problems.append((("routes", number, "name"), f"the name {route.name!r} is used by an earlier route"))
        seen.add(route.name)
        if not route.run and not route.send_to:
            sentence = f"route {route.name!r} does nothing; give it models to run, or destinations to send_to"
            problems.append((("routes", number, "name"), sentence))
        for name in route.run:
            pinned = [address for address in route.run if address.startswith(f"{name}:")]
            if pinned:
                sentence = (
                    f"route {route.name!r} runs {name!r}, its newest version, and {pinned[0]!r}; take one of the two, "
                    "or a route for each"
                )
                problems.append((("routes", number, "run"), sentence))
        problems += [(("routes", number, "match", key), sentence) for key, sentence in unusable(route)]
        for name in route.send_to:
            if name not in settings.destinations:
                problems.append(
                    (
                        ("routes", number, "send_to"),
                        f"route {route.name!r} sends to the unknown destination {name!r}; known destinations: {known}",
                    )
                )
    return problems


def unknown_models(settings: Settings, path: Path | None = None) -> list[str]:
    """One sentence per model that a route names and the registry (<data>/models) does not hold.

    Apart from `load`, because a service may be configured before its models are released.
    """
    text = "" if path is None else path.read_text(encoding="utf-8")
    sentences = []
    for number, route in enumerate(settings.routes):
        for address in route.run:
            name, _, version = address.partition(":")
            if not (settings.models / name / version).is_dir():
                message = (
                    f"route {route.name!r} runs {address!r}, which is not in {settings.models}; "
                    "see `mirall models list`"
                )
                sentences.append(_sentence(path, text, ("routes", number, "run"), message, ""))
    return sentences


def may_listen(settings: Settings) -> list[str]:
    """Whether the addresses are safe to bind (promise 8). Gives warnings to print, one sentence each.

    Raises:
        BadSettings: an address beyond loopback without an allow list or token, and `open` is not set.
    """
    node = settings.node
    beyond = [
        (address, missing, key)
        for address, missing, key in (
            (node.dimse_address, not node.known_peers, "[[node.known_peers]]"),
            (node.http_address, node.http_token is None and not node.tokens, "node.http_token or [[node.tokens]]"),
        )
        if not address.is_loopback
    ]
    if node.open:
        return [
            f"{address} can be reached from other machines, and --open lets any in, and any page in their browsers"
            for address, _, _ in beyond
        ]
    lacking = [(address, key) for address, missing, key in beyond if missing]
    if lacking:
        raise BadSettings(
            "\n".join(
                f"{address} can be reached from other machines but {key} is not set; "
                "set it, listen on 127.0.0.1, or give --open"
                for address, key in lacking
            )
        )
    return []


def _sentence(path: Path | None, text: str, location: Sequence[str | int], message: str, kind: str) -> str:
    if location[-1] in ("str", "tuple[str, ...]"):  # pydantic names each kind of value that would have been right
        location, message = location[:-1], "must be a text, or a list of texts"
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if kind == "extra_forbidden":
        message = "no such setting"
    elif kind == "missing":
        message = "must be set"
    message = message.removeprefix("Value error, ")
    return f"{path or 'defaults and options'}{_line(text, location)}: {key}: {message}"


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")


def _line(text: str, location: Sequence[str | int]) -> str:
    """`:LINE` of the setting, or of the deepest table or key above it that the file spells out."""
    best_length, best_line = 0, 0
    table: list[str | int] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            name = header[2]
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
            table = []
            for part in _dotted(name):
                table.append(part)
                joined = ".".join(str(p) for p in table if isinstance(p, str))
                if joined in counts:
                    table.append(counts[joined])
            here = table
        elif key:
            here = [*table, *_dotted(key[1])]
        else:
            continue
        length = len(here)
        if length > best_length and list(location[:length]) == here:
            best_length, best_line = length, number
    return f":{best_line}" if best_line else ""


def _dotted(name: str) -> list[str]:
    return [part.strip().strip("\"'") for part in name.split(".")]
