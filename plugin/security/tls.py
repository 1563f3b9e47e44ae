"""TLS at our doors and towards destinations, after the BCP 195 (RFC 9325) profile of PS3.15 B.12.

TLS 1.2 is the oldest version that is spoken, in both directions; ciphers are OpenSSL's own defaults, all of them with
forward secrecy. A peer's certificate must lead to an authority that we believe. Its host name is checked always over
https. A DICOM peer's is checked where its certificate names hosts or addresses; many a device has one that names only
itself, and is believed only where `ca` says which authority may vouch for it (PS3.15 leaves the rule to the site).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugin.settings import BadSettings, Destination, Door, HostPort, Settings, Tls

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL's x509_vfy.h).
_OUT_OF_DATE = {9: "is not valid yet", 10: "has expired"}


@dataclass(frozen=True)
class Client:
    """How we show ourselves to a peer, and whom we believe. ca: None takes the machine's own list.

    name: of the settings, such as destinations.PACS, for sentences.
    """

    name: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def of(cls, destination: Destination, name: str = "destinations") -> Client:
        return cls(name, destination.ca, destination.certificate, destination.key)


def server_context(tls: Tls | None, door: Door) -> ssl.SSLContext | None:
    """The context of a door; None where it is not encrypted.

    That of the door "dimse" does not shake hands when a connection is wrapped, which would be in the loop that accepts
    connections, where one silent peer would keep out all others; `shake_hands` does it.

    Raises:
        BadSettings: a file is missing, cannot be read or used, key and certificate do not fit, or it is out of date.
    """
    if tls is None or door not in tls.doors:
        return None
    kind = _Deferring if door == "dimse" else ssl.SSLContext
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.minimum_version]
    _load_chain(context, "node.tls", tls.certificate, tls.key)
    _check_dates("node.tls", tls.certificate, tls.key)
    if tls.client_ca is not None:
        _load_authorities(context, "node.tls.client_ca", tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def https_context(client: Client) -> ssl.SSLContext:
    """The context of our requests over https: authority and host name are checked.

    Raises:
        BadSettings: as `server_context`.
    """
    return _client_context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), client)


def dimse_context(client: Client, host: str) -> DimseContext:
    """The context of one association that we open with `host` (name or address).

    Raises:
        BadSettings: as `server_context`.
    """
    context = DimseContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the socket does, by the rule of this module
    context.host, context.is_vouched_for = host, client.ca is not None
    _client_context(context, client)
    return context


def check(settings: Settings) -> list[str]:
    """Whether all files of our doors can be used; gives warnings about those of destinations, one sentence each.

    A door that nobody could pass is no reason to wait; one destination's is, for the others are still served.

    Raises:
        BadSettings: as `server_context`.
    """
    for door in ("dimse", "http"):
        server_context(settings.node.tls, door)
    warnings = []
    for name, destination in settings.destinations.items():
        try:
            https_context(Client.of(destination, f"destinations.{name}"))
        except BadSettings as error:
            warnings.append(str(error))
    return warnings


def shake_hands(connection: socket.socket, timeout_s: float) -> None:
    """The handshake of a connection that the door "dimse" has taken; nothing where it is not encrypted.

    Raises:
        OSError: it failed (ssl.SSLError), or took longer than `timeout_s` (TimeoutError).
    """
    if not isinstance(connection, ssl.SSLSocket):
        return
    connection.settimeout(timeout_s)
    connection.do_handshake()
    connection.settimeout(None)


def answers(address: HostPort, timeout_s: float = 2.0) -> bool:
    """Whether a server there speaks TLS, be it to say that it does not want us."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((address.host, address.port), timeout_s) as connection:
            context.wrap_socket(connection).close()
    except ssl.SSLError:
        return True
    except OSError:
        return False
    return True


class _Deferring(ssl.SSLContext):
    """Wraps without a handshake."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, *args, **kwargs | {"do_handshake_on_connect": False})


class _NamedPeer(ssl.SSLSocket):
    """A connection to a DICOM peer; the context keeps why it failed, which pynetdicom does not pass on."""

    context: DimseContext

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
            _check_host(self.getpeercert() or {}, self.context)
        except OSError as error:
            self.context.failure = error
            raise


class DimseContext(ssl.SSLContext):
    """host: whom we mean to call. is_vouched_for: the authorities are the site's own choice.

    failure: why the last handshake failed.
    """

    sslsocket_class = _NamedPeer
    host: str = ""
    is_vouched_for: bool = False
    failure: OSError | None = None


def _client_context(context: ssl.SSLContext, client: Client) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client.ca is None:
        context.load_default_certs()
    else:
        _load_authorities(context, f"{client.name}.ca", client.ca)
    if client.certificate is not None and client.key is not None:
        _load_chain(context, client.name, client.certificate, client.key)
        _check_dates(client.name, client.certificate, client.key)
    return context


def _check_host(certificate: dict[str, Any], context: DimseContext) -> None:
    """Raises ssl.SSLCertVerificationError where the certificate names other hosts, or none and anybody vouches."""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    if not names and context.is_vouched_for:
        return
    if not any(_is_name_of(name, context.host) for name in names):
        listed = ", ".join(names) or "no host; set the destination's `ca` to the authority that vouches for it"
        raise ssl.SSLCertVerificationError(f"its certificate is for {listed}, and it was called as {context.host}")


def _is_name_of(name: str, host: str) -> bool:
    """Addresses as numbers, names without regard to case; `*` stands for one whole leftmost label (RFC 9525 6.3)."""
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(host)
    except ValueError:
        pass  # one of them is a name
    first, _, rest = name.lower().partition(".")
    first_here, _, rest_here = host.lower().rstrip(".").partition(".")
    return rest == rest_here and (first == first_here or (first == "*" and "." in rest))


def _load_chain(context: ssl.SSLContext, name: str, certificate: Path, key: Path) -> None:
    for part, path in (("certificate", certificate), ("key", key)):
        _readable(f"{name}.{part}", path)
    try:
        # An empty passphrase: without one OpenSSL would ask the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        why = "the key belongs to another certificate" if error.reason == "KEY_VALUES_MISMATCH" else _reason(error)
        raise BadSettings(
            f"{name}.certificate {certificate} and {name}.key {key} cannot be used together: {why}; "
            "give a certificate in PEM with its own key, without a passphrase"
        ) from error


def _load_authorities(context: ssl.SSLContext, key: str, path: Path) -> None:
    _readable(key, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise BadSettings(f"{key} {path} cannot be used: {_reason(error)}; give certificates in PEM") from error


def _readable(key: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise BadSettings(f"{key} {path} cannot be read: {error.strerror}; give the path of a PEM file") from error


def _check_dates(name: str, certificate: Path, key: Path) -> None:
    """Raises BadSettings where a certificate is out of date.

    A handshake with ourselves in memory, in which the certificate is its own authority: the standard library tells the
    dates of a certificate in no other way.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key, password="")
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server)
    answerer = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (caller, answerer, caller):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue  # it is the other's turn
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _OUT_OF_DATE:
                raise BadSettings(
                    f"{name}.certificate {certificate} {_OUT_OF_DATE[error.verify_code]}; put a new one there"
                ) from error
            return  # made for clients alone, or otherwise not for us to judge


def why(error: OSError) -> str:
    """A few words on a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return getattr(error, "verify_message", None) or str(error.args[0])
    if isinstance(error, ssl.SSLError):
        return _reason(error)
    if isinstance(error, TimeoutError):
        return "it took too long"
    return error.strerror or str(error)


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL names most of its reasons, and none where a file holds nothing that it looks for."""
    return error.reason.replace("_", " ").lower() if error.reason else "nothing in PEM is found"
