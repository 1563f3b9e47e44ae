"""Capabilities: what is told is what is served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from archives import archive
from served import Served, served

from plugin.dicomweb.app import create
from plugin.dicomweb.capabilities import WADL, exchange_of
from plugin.settings import Node, Settings

NS = {"w": "http://wadl.dev.java.net/2009/02"}


@pytest.fixture
def door(tmp_path) -> Iterator[Served]:
    node = Node(data=tmp_path, cors_origins=("https://viewer.example",))
    with served(archive(tmp_path), Settings(node=node)) as running:
        yield running


def options(door: Served, path: str = "", accept: str = "application/json", **headers: str):
    return door.http.options(f"{door.url}{path}", headers={"Accept": accept, **headers})


def test_every_route_of_dicomweb_is_told_and_no_other(door, tmp_path):
    paths = create(Settings(node=Node(data=tmp_path)), door.ingest).openapi()["paths"]
    served_here = {
        (path.removeprefix("/dicom-web"), method.upper())
        for path, methods in paths.items()
        if path.startswith("/dicom-web")
        for method in methods
    }
    document = options(door).json()
    told = {
        (resource["path"], one["method"])
        for resource in document["resources"]
        if resource.get("protocol") != "WebSocket"
        for one in resource["methods"]
    }
    assert told == served_here
    assert [resource["path"] for resource in document["resources"] if resource.get("protocol")] == [
        "/subscribers/{aetitle}"
    ]
    assert document["base"] == door.url


def test_what_each_route_takes_and_gives_is_written_down(door):
    for resource in options(door).json()["resources"]:
        for one in resource["methods"]:
            assert one["description"].endswith("."), resource
            if resource.get("protocol") is None:
                assert exchange_of(one["service"], one["method"], resource["path"]) is not None, (resource, one)


def test_every_path_answers_for_itself(door):
    for resource in options(door).json()["resources"]:
        path = re.sub(r"{\w+(:path)?}", "1", resource["path"])
        answer = options(door, path)
        assert answer.status_code == 200, path
        told = {one["method"] for each in answer.json()["resources"] for one in each["methods"]}
        assert {method.strip() for method in answer.headers["allow"].split(",")} == told | {"OPTIONS"}
    assert options(door, "/nonsense").status_code == 404
    assert door.http.get(f"{door.url}/nonsense").status_code == 404


def test_the_description_comes_as_wadl(door):
    answer = options(door, accept=f"{WADL}, application/json; q=0.5")
    assert answer.headers["content-type"] == WADL
    document = ElementTree.fromstring(answer.content)
    resources = document.find("w:resources", NS)
    assert resources is not None
    assert resources.get("base") == door.url
    told = {
        (resource.get("path"), method.get("name"))
        for resource in resources
        for method in resource.findall("w:method", NS)
    }
    assert {("studies", "POST"), ("studies", "GET"), ("workitems/{uid}/state", "PUT")} <= told
    assert options(door, accept="text/html").status_code == 406


def test_conformance_says_what_is_taken(door):
    document = door.http.get(f"{door.url}/conformance").json()
    assert document["resources"] == options(door).json()["resources"]
    assert document["worklist"]["coding_scheme"] == "99MIRALL"
    assert set(document["storage"]["failure_reasons"]) >= {"0110", "0122", "A700", "C000"}


def test_a_preflight_of_a_browser_is_answered_before(door):
    page = {"Origin": "https://viewer.example"}
    preflight = options(door, "/studies", **page, **{"Access-Control-Request-Method": "POST"})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, page["Origin"])
    assert "allow" not in preflight.headers
    asked = options(door, "/studies", **page)
    assert (asked.headers["allow"], asked.headers["access-control-allow-origin"]) == (
        "GET, OPTIONS, POST",
        page["Origin"],
    )
    refused = options(door, "/studies", Origin="http://evil.example", **{"Access-Control-Request-Method": "POST"})
    assert refused.status_code == 403
