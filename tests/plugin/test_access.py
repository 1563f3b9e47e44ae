"""Who may do what over HTTP: roles by route, tokens, WebSockets, pages of other origins, deletion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from archives import archive, give
from dicom_objects import SERIES, STUDY, slice_of
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from plugin.archive.ingest import Ingest
from plugin.dicomweb.app import create
from plugin.security.access import Access, NotOffered, role_for
from plugin.settings import Node, Settings, Token

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
READER, DELETER, GENERAL = "reader-" + "r" * 16, "deleter-" + "d" * 16, "general-" + "g" * 16
TOKENS = (
    Token(name="viewer", token=READER, roles=("read",)),
    Token(name="keeper", token=DELETER, roles=("read", "delete")),
)


@pytest.fixture
def here(tmp_path) -> Iterator[Ingest]:
    ingest = archive(tmp_path)
    for uid in ("1.2.1", "1.2.2"):
        give(ingest, slice_of(uid))
    yield ingest
    ingest.index.close()


Door = Callable[..., TestClient]


@pytest.fixture
def door(here) -> Door:
    """The application with these settings of [node], as a client on this machine sees it."""

    def opened(**settings) -> TestClient:
        app = create(Settings(node=Node(**settings)), here)

        @app.websocket("/dicom-web/workitems/of-this-test")
        async def _events(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(socket.state.caller.name)
            await socket.close()

        @app.get("/dicom-web/broken")
        def _broken() -> None:
            raise KeyError("secret")

        return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)

    return opened


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def problem(response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return response.status_code, body["detail"]


# Routes


def methods_of(route: BaseRoute) -> set[str]:
    if isinstance(route, APIWebSocketRoute | WebSocketRoute):
        return {"WEBSOCKET"}
    assert isinstance(route, Route | APIRoute), f"{route} is of a kind that this test does not know"
    return set(route.methods or ())


def all_routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of everything that the application serves."""
    for route in routes:
        if isinstance(route, Mount):
            yield from all_routes(list(route.routes or []), prefix + route.path)
            continue
        if hasattr(route, "original_router"):  # as FastAPI keeps a router that was included
            yield from all_routes(route.original_router.routes, prefix + route.include_context.prefix)
            continue
        for method in methods_of(route):
            yield method, prefix + route.path  # type: ignore[attr-defined]


def test_every_route_has_a_role(here):
    found = set(all_routes(create(Settings(), here).routes))
    assert ("DELETE", "/dicom-web/studies/{study}") in found
    for method, path in sorted(found):
        role = role_for(method, path)  # raises NotOffered where the table has no line
        assert role is not None or path.startswith("/health/"), f"{method} {path} is open to everybody"
        if method == "GET" and "workitems" not in path:
            assert role in ("read", None), f"{method} {path} asks for {role}"
        if method == "DELETE" and path.startswith("/dicom-web/studies"):
            assert role == "delete"


@pytest.mark.parametrize(
    ("method", "path"),
    [("TRACE", "/dicom-web/studies"), ("POST", "/"), ("GET", "/etc"), ("PUT", "/api/jobs"), ("GET", "/health/a/b")],
)
def test_what_the_table_does_not_name_is_not_served(method, path):
    with pytest.raises(NotOffered):
        role_for(method, path)


def test_without_a_token_this_machine_may_do_all_but_delete(door, here):
    client = door()
    assert client.get("/dicom-web/studies").status_code == 200
    assert client.post(f"/api/studies/{STUDY}/complete").status_code == 202
    status, sentence = problem(client.delete(f"/dicom-web/studies/{STUDY}"))
    assert status == 403
    assert sentence == "who shows no token has not the role 'delete'; see node.tokens in mirall.toml"
    assert here.index.counts()["instances"] == 2


def test_a_token_may_do_what_its_roles_say(door, here, caplog):
    client = door(tokens=TOKENS, http_token=GENERAL)
    url = f"/dicom-web/studies/{STUDY}"
    assert client.get("/health/live").status_code == 200
    assert problem(client.get("/dicom-web/studies"))[0] == 401
    assert client.get("/dicom-web/studies", headers=bearer("wrong")).headers["WWW-Authenticate"] == "Bearer"
    for token in (READER, DELETER, GENERAL):
        assert client.get("/dicom-web/studies", headers=bearer(token)).status_code == 200
    assert client.post(f"/api/studies/{STUDY}/complete", headers=bearer(GENERAL)).status_code == 202
    with caplog.at_level(logging.WARNING):
        status, sentence = problem(client.post("/dicom-web/studies", headers=bearer(READER)))
    assert (status, sentence) == (403, "the token 'viewer' has not the role 'store'; see node.tokens in mirall.toml")
    assert "'viewer'" in caplog.text
    assert READER not in caplog.text
    assert problem(client.delete(url, headers=bearer(GENERAL)))[0] == 403
    assert client.delete(url, headers=bearer(DELETER)).status_code == 204
    assert here.index.counts()["instances"] == 0
    (told,) = client.get("/api/deletions", headers=bearer(READER)).json()
    assert (told["by"], told["instances"]) == ("keeper", 2)


def test_a_path_writes_no_lines_of_its_own_into_the_log(door, caplog):
    client = door(tokens=TOKENS)
    assert client.post("/dicom-web/studies/1%0AERROR%20forged", headers=bearer(READER)).status_code == 403
    assert "forged" in caplog.text
    assert "\nERROR forged" not in caplog.text


def test_a_series_and_an_instance_can_be_deleted_and_what_is_not_there_is_404(door, here):
    client = door(tokens=TOKENS)
    client.headers = bearer(DELETER)
    series = f"/dicom-web/studies/{STUDY}/series/{SERIES}"
    assert client.delete(f"{series}/instances/1.2.1").status_code == 204
    assert problem(client.delete(f"{series}/instances/1.2.1"))[0] == 404
    assert client.delete(f"{series}?why=wrong+patient").status_code == 204
    assert problem(client.delete(series)) == (
        404,
        f"series {SERIES} is not in the archive; see GET /dicom-web/studies for what is",
    )
    assert [told["why"] for told in client.get("/api/deletions").json()] == ["wrong patient", ""]


def test_every_token_is_compared_whole():
    access = Access(Node(tokens=TOKENS, http_token=GENERAL))
    assert access.caller(f"Bearer {GENERAL}").name == "node.http_token"
    assert access.caller(f"bearer  {READER} ").name == "viewer"
    for shown in ("", "Bearer", f"Basic {READER}", f"Bearer {READER[:-1]}", f"Bearer {READER}x", "Bearer é"):
        assert access.caller(shown) is None


def test_a_token_or_its_name_used_twice_is_refused():
    with pytest.raises(ValueError, match="a token is used twice"):
        Node(tokens=TOKENS, http_token=READER)
    with pytest.raises(ValueError, match="a name of a token is used twice"):
        Node(tokens=(TOKENS[0], Token(name="viewer", token=DELETER, roles=("read",))))


# WebSockets


def connect(client: TestClient, **headers: str) -> str:
    with client.websocket_connect(
        "/dicom-web/workitems/of-this-test", headers={"Host": "localhost", **headers}
    ) as socket:
        return socket.receive_text()


def test_a_websocket_passes_the_same_keeper(door):
    client = door(tokens=TOKENS, http_token=GENERAL)
    assert connect(client, **bearer(GENERAL)) == "node.http_token"
    for headers in ({}, bearer(READER)):
        with pytest.raises(WebSocketDisconnect):
            connect(client, **headers)


def test_a_page_of_another_site_opens_no_websocket(door):
    assert connect(door(), Origin="http://localhost") == "anybody"
    with pytest.raises(WebSocketDisconnect):
        connect(door(), Origin="http://evil.example")
    with pytest.raises(WebSocketDisconnect):
        connect(door(), Host="evil.example")


# Pages of other origins


def preflight(client: TestClient, origin: str, method: str = "GET", path: str = "/dicom-web/studies"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x-a"}
    return client.options(path, headers=asked)


def test_pages_of_configured_origins_may_use_dicomweb(door):
    client = door(cors_origins=("https://viewer.example", "https://other.example:8443"), http_token=GENERAL)
    for origin in ("https://viewer.example", "https://other.example:8443"):
        allowed = preflight(client, origin, "POST")
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == origin
        assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
        assert allowed.headers["Access-Control-Allow-Headers"] == "x-a"
        # Even a refusal must be readable by the page that asked.
        refused = client.get("/dicom-web/studies", headers={"Origin": origin})
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, origin)
        posted = client.post("/dicom-web/studies", headers={"Origin": origin, **bearer(GENERAL)})
        assert posted.status_code not in (401, 403)
        assert problem(client.post("/api/jobs", headers={"Origin": origin, **bearer(GENERAL)}))[0] == 403


def test_pages_of_other_origins_may_not(door):
    client = door(cors_origins=("https://viewer.example",))
    assert problem(preflight(client, "https://evil.example"))[0] == 403
    answer = client.get("/dicom-web/studies", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert problem(client.post("/dicom-web/studies", headers={"Origin": "https://evil.example"}))[0] == 403
    assert "Access-Control-Allow-Origin" not in client.get("/", headers={"Origin": "https://viewer.example"}).headers


def test_a_star_lets_any_page_read_and_write_only_where_a_token_is_asked_for(door):
    elsewhere = {"Origin": "https://any.example"}
    bare, guarded = door(cors_origins=("*",)), door(cors_origins=("*",), http_token=GENERAL)
    assert bare.get("/dicom-web/studies", headers=elsewhere).headers["Access-Control-Allow-Origin"] == "*"
    assert problem(bare.post("/dicom-web/studies", headers=elsewhere))[0] == 403
    assert guarded.post("/dicom-web/studies", headers={**elsewhere, **bearer(GENERAL)}).status_code not in (401, 403)


@pytest.mark.parametrize("origin", ["viewer.example", "https://viewer.example/", "ftp://a", "https://a b", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValueError, match="is no origin"):
        Node(cors_origins=(origin,))


def test_the_host_header_is_checked_where_no_token_is_asked_for(door):
    named = {"Host": "mirall.hospital.example"}
    assert problem(door().get("/dicom-web/studies", headers=named))[0] == 421
    # Behind a proxy: a page that came by a false name has no token.
    answer = door(http_token=GENERAL).get("/dicom-web/studies", headers={**named, **bearer(GENERAL)})
    assert answer.json()[0]["00081190"]["Value"][0].startswith("http://mirall.hospital.example/dicom-web/")


# Errors


def test_every_error_is_a_sentence(door, caplog):
    client = door()
    assert problem(client.get("/nowhere")) == (404, "there is nothing at /nowhere; see /api/openapi.json")
    assert problem(client.get("/dicom-web/nowhere"))[0] == 404
    wrong = client.put("/dicom-web/studies")
    assert problem(wrong)[0] == 405
    assert "GET" in wrong.headers["Allow"]
    assert problem(client.post("/api/jobs", json={"n": 0}))[0] == 400
    status, sentence = problem(client.get("/dicom-web/broken"))
    assert (status, sentence) == (500, "GET /dicom-web/broken failed here; the service's log says why")
    assert "secret" not in sentence
