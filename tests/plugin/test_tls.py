"""Encryption of both doors, and of what we open ourselves."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from archives import archive
from certificates import Authority, Paper
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from plugin import service
from plugin import settings as configuration
from plugin.destinations import Parcel, StowDestination
from plugin.dimse import node
from plugin.dimse.client import echo
from plugin.dimse.client.association import Peer, PeerUnreachable
from plugin.security import tls
from plugin.settings import BadSettings, Destination, Node, Settings, Tls

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def ours(authority) -> Paper:
    return authority.paper("ours", "127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def nameless(authority) -> Paper:
    """As devices have it: it names itself, and no host."""
    return authority.paper("nameless", "device@hospital.example", common_name="SCANNER")


@contextmanager
def listening(folder: Path, **wanted) -> Iterator[int]:
    """Our node, encrypted; gives its port."""
    ingest = archive(folder / "data")
    here = Node(dimse="127.0.0.1:0", artim_timeout_s=0.5, tls=Tls(**wanted))
    listener = node.start(Settings(node=here), ingest)
    yield listener.address.port
    listener.stop()
    ingest.index.close()


def peer(port: int, client: tls.Client | None, host: str = "127.0.0.1") -> Peer:
    return Peer("MIRALL", host, port, "SCANNER", tls=client)


def test_a_peer_that_believes_our_authority_is_served_encrypted(tmp_path, authority, ours):
    with listening(tmp_path, certificate=ours.certificate, key=ours.key) as port:
        echo.echo(peer(port, tls.Client("d", authority.ca)))
        echo.echo(peer(port, tls.Client("d", authority.ca), host="localhost"))


def test_a_peer_without_our_authority_says_what_is_wrong(tmp_path, ours, caplog):
    stranger = Authority(tmp_path / "strangers")
    with (
        listening(tmp_path, certificate=ours.certificate, key=ours.key) as port,
        pytest.raises(PeerUnreachable, match=r"TLS with MIRALL@127.0.0.1:\d+ failed: unable to get local issuer"),
    ):
        echo.echo(peer(port, tls.Client("d", stranger.ca)))
    assert not [record for record in caplog.records if record.exc_info]


def test_a_certificate_for_other_hosts_is_not_believed(tmp_path, authority):
    other = authority.paper("other", "pacs.hospital.example", "*.clinic.example")
    with (
        listening(tmp_path, certificate=other.certificate, key=other.key) as port,
        pytest.raises(PeerUnreachable, match=r"is for pacs.hospital.example, \*.clinic.example, and it was called as"),
    ):
        echo.echo(peer(port, tls.Client("d", authority.ca)))


def test_a_certificate_that_names_no_host_is_believed_of_a_chosen_authority(tmp_path, authority, nameless):
    with listening(tmp_path, certificate=nameless.certificate, key=nameless.key) as port:
        echo.echo(peer(port, tls.Client("d", authority.ca)))


def test_a_client_certificate_is_asked_for_where_an_authority_for_them_is_set(tmp_path, authority, ours, nameless):
    wanted = {"certificate": ours.certificate, "key": ours.key, "client_ca": authority.ca}
    with listening(tmp_path, **wanted) as port:
        echo.echo(peer(port, tls.Client("d", authority.ca, nameless.certificate, nameless.key)))
        with pytest.raises(PeerUnreachable):
            echo.echo(peer(port, tls.Client("d", authority.ca)), timeout_s=5)


def test_a_version_below_the_minimum_is_refused(tmp_path, authority, ours):
    old = ssl.create_default_context(cafile=str(authority.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with listening(tmp_path, certificate=ours.certificate, key=ours.key, minimum_version="1.3") as port:
        with socket.create_connection(("127.0.0.1", port), 5) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw, server_hostname="127.0.0.1")
        echo.echo(peer(port, tls.Client("d", authority.ca)))


def test_strangers_at_the_encrypted_port_hold_up_nobody_and_cost_a_sentence(tmp_path, authority, ours, caplog):
    """One says nothing, one speaks plain DICOM, one begins a handshake and stops."""
    with listening(tmp_path, certificate=ours.certificate, key=ours.key) as port, caplog.at_level(logging.WARNING):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(bytes.fromhex("16030100c8010000c4"))
        plain = AE("SCANNER")
        plain.acse_timeout = 5
        plain.add_requested_context(Verification)
        thread = threading.Thread(target=lambda: plain.associate("127.0.0.1", port))
        thread.start()
        began = time.monotonic()
        echo.echo(peer(port, tls.Client("d", authority.ca)))
        assert time.monotonic() - began < 2
        thread.join(10)
        for waiting in (*silent, half):
            waiting.settimeout(5)
            assert waiting.recv(100) == b""
            waiting.close()
    said = [record.getMessage() for record in caplog.records if record.name == "plugin.dimse.peers"]
    assert len(said) == 5
    assert {line.split(": ", 1)[1] for line in said} >= {"it took too long"}
    assert not [record for record in caplog.records if record.exc_info]


# Files of the settings


def written(folder: Path, text: str) -> Path:
    (folder / "mirall.toml").write_text(text)
    return folder / "mirall.toml"


def test_files_are_counted_from_the_folder_of_the_configuration(tmp_path, ours, monkeypatch):
    for path in (ours.certificate, ours.key):
        shutil.copy(path, tmp_path)
    config = written(tmp_path, '[node.tls]\ncertificate = "ours.pem"\nkey = "ours.key"\n')
    monkeypatch.chdir("/")
    loaded = configuration.load(config)
    assert loaded.node.tls.certificate == tmp_path / "ours.pem"
    assert tls.check(loaded) == []


def test_what_is_wrong_with_a_file_is_one_sentence_with_its_setting(tmp_path, authority, ours, nameless):
    expired = authority.paper("expired", "127.0.0.1", expired=True)
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("nothing")
    for wanted, sentence in (
        ({"certificate": tmp_path / "none.pem", "key": ours.key}, "node.tls.certificate .*none.pem cannot be read: No"),
        ({"certificate": ours.certificate, "key": tmp_path}, "node.tls.key .* cannot be read: Is a directory"),
        ({"certificate": ours.certificate, "key": nameless.key}, "the key belongs to another certificate"),
        ({"certificate": no_pem, "key": ours.key}, "cannot be used together: nothing in PEM is found"),
        ({"certificate": expired.certificate, "key": expired.key}, "expired.pem has expired; put a new one there"),
        ({"certificate": ours.certificate, "key": ours.key, "client_ca": no_pem}, "node.tls.client_ca .*no.pem cannot"),
    ):
        with pytest.raises(BadSettings, match=sentence) as caught:
            tls.check(Settings(node=Node(tls=Tls(**wanted))))
        assert "\n" not in str(caught.value)


def test_a_destination_whose_files_are_gone_is_a_warning_at_start_and_a_wait_when_it_is_called(tmp_path):
    there = Destination(kind="dimse", aet="PACS", host="pacs", port=104, tls=True, ca=tmp_path / "gone.pem")
    (warning,) = tls.check(Settings(destinations={"PACS": there}))
    assert warning.startswith("destinations.PACS.ca ")
    with pytest.raises(PeerUnreachable, match=r"gone.pem cannot be read"):
        echo.echo(Peer.of(there, "MIRALL"))
    web = StowDestination("https://pacs/dicom-web", client=tls.Client("d", tmp_path / "gone.pem"))
    parcel = Parcel("1.2.3", "", "", "", "", tmp_path / "a.dcm")
    assert web.send([parcel])[0].outcome == "again"


def test_certificates_that_nothing_would_use_are_refused(tmp_path):
    for kind in (
        {"kind": "dimse", "aet": "PACS", "host": "pacs", "port": 104, "ca": tmp_path / "ca.pem"},
        {"kind": "stow", "url": "http://pacs/dicom-web", "tls": True},
    ):
        with pytest.raises(ValueError, match="would do nothing, because the peer is called in the clear"):
            Destination(**kind)


@pytest.mark.parametrize(
    ("name", "host", "fits"),
    [
        ("pacs.example", "PACS.example", True),
        ("*.clinic.example", "a.clinic.example", True),
        ("*.clinic.example", "a.b.clinic.example", False),
        ("*.clinic.example", "clinic.example", False),
        ("*.example", "pacs.example", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("10.0.0.7", "10.0.0.8", False),
    ],
)
def test_a_name_fits_as_rfc_9525_says(name, host, fits):
    assert tls._is_name_of(name, host) is fits


# The web door


def test_the_web_door_speaks_https_with_the_same_files(authority, ours):
    import uvicorn

    context = tls.server_context(Tls(certificate=ours.certificate, key=ours.key, client_ca=authority.ca), "http")
    assert tls.server_context(Tls(certificate=ours.certificate, key=ours.key, doors=("dimse",)), "http") is None

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    config.ssl_context_factory = lambda config, default: context
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    shown = tls.https_context(tls.Client("d", authority.ca, ours.certificate, ours.key))
    assert httpx.get(url, verify=shown, trust_env=False).status_code == 204
    with pytest.raises(httpx.TransportError):
        httpx.get(url, verify=tls.https_context(tls.Client("d", authority.ca)), trust_env=False)
    server.should_exit = True
    thread.join(10)


def test_a_service_speaks_tls_at_both_doors_and_says_so(tmp_path, authority, ours):
    config = written(tmp_path, f'[node.tls]\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\n')
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    told = {"data": tmp_path / "data", "http": f"127.0.0.1:{ports[0]}", "dimse": f"127.0.0.1:{ports[1]}"}
    with service.running(config, **told) as running:
        assert running.dicomweb_url == f"https://127.0.0.1:{ports[0]}/dicom-web"
        ours_alone = tls.https_context(tls.Client("d", authority.ca))
        assert httpx.get(f"{running.url}/health/ready", verify=ours_alone, trust_env=False).status_code == 200
        echo.echo(peer(ports[1], tls.Client("d", authority.ca)))
        with socket.create_connection(("127.0.0.1", ports[0]), 5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
        said = running.log.read_text()
    assert "with TLS" in said
    assert "Traceback" not in said
