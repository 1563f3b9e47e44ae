from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from plugin import settings
from plugin.settings import OVERRIDES_VARIABLE, BadSettings, Settings, host_port, load, may_listen, unknown_models

WHOLE = """
[node]
aet = "MIRALL"
dimse = "127.0.0.1:11112"
http = "127.0.0.1:8080"
data = "kept"
known_peers = [{ aet = "ORTHANC", address = "10.0.0.0/8" }]

[archive]
on_correction = "hold"
minimum_free_mb = 5

[study]
quiet_s = 2.5
maximum_wait_s = 60

[destinations.pacs]
kind = "dimse"
aet = "ORTHANC"
host = "pacs"
port = 4242

[destinations.web]
kind = "stow"
url = "http://web:8042/dicom-web"
allow_unproven = true

[[routes]]
name = "tumours"
match = { Modality = "PT", calling_aet = ["ORTHANC", "SCANNER*"] }
run = ["pet-tumour:1"]
send_to = ["pacs", "web"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mirall.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(BadSettings) as caught:
        load(written(folder, text))
    return str(caught.value)


def test_a_whole_configuration_is_read(tmp_path):
    loaded = load(written(tmp_path, WHOLE))
    assert loaded.archive.on_correction == "hold"
    assert loaded.routes[0].match["calling_aet"] == ("ORTHANC", "SCANNER*")
    assert loaded.destinations["web"].allow_unproven
    assert loaded.data == tmp_path / "kept"


def test_without_a_file_the_defaults_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load()
    assert (loaded.node.aet, loaded.node.dimse, loaded.node.http) == ("MIRALL", "127.0.0.1:11112", "127.0.0.1:8080")
    assert loaded.data == tmp_path / "mirall-data"


@pytest.mark.parametrize(
    ("wrong", "line", "sentence"),
    [
        (('aet = "MIRALL"', 'aet = "MIRALL"\nopne = true'), 4, "node.opne: no such setting"),
        (("quiet_s = 2.5", "quiet_s = -1"), 14, "study.quiet_s: Input should be greater than 0"),
        (('"127.0.0.1:8080"', '"8080"'), 5, "node.http: '8080' is no HOST:PORT, such as 127.0.0.1:11112"),
        (("port = 4242\n", ""), 17, "destinations.pacs: a destination of kind 'dimse' needs port"),
        (('send_to = ["pacs", "web"]', 'send_to = ["pcas"]'), 32, "unknown destination 'pcas'"),
        (
            ('run = ["pet-tumour:1"]', 'run = ["../../etc"]'),
            31,
            "routes[0].run[0]: '../../etc' must be NAME:VERSION, such as pet-",
        ),
        (
            ('run = ["pet-tumour:1"]', 'run = ["pet-tumour:1", "pet-tumour"]'),
            31,
            "runs 'pet-tumour', its newest version, and 'pet-tumour:1'; take one of the two, or a route for each",
        ),
        (
            ('aet = "MIRALL"', 'aet = "MIRALL-OF-RADIOLOGY"'),
            3,
            "node.aet: 'MIRALL-OF-RADIOLOGY' has 19 characters; an AE",
        ),
        (
            ('aet = "MIRALL"', 'aet = "   "'),
            3,
            "node.aet: '   ' has 3 characters; an AE title has 1 to 16, and not spaces",
        ),
        (
            ('aet = "MIRALL"', 'aet = "Bücker"'),
            3,
            "node.aet: 'Bücker' is no AE title; use letters, digits and signs of",
        ),
        (("http://web:8042/dicom-web", "http://"), 25, "destinations.web.url: 'http://' must be a whole http or https"),
        (("http://web:8042/dicom-web", "http://web:x/"), 25, "'http://web:x/' must be a whole http or https address"),
        (("http://web:8042/dicom-web", "web:8042"), 25, "'web:8042' must be a whole http or https address, such as"),
        (('"hold"', '"ask"'), 10, "archive.on_correction: Input should be 'replace', 'keep-first' or 'hold'"),
        (('match = { Modality = "PT",', "match = { Modality = 3,"), 30, "must be a text, or a list of texts"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_key(tmp_path, wrong, line, sentence):
    said = refused(tmp_path, WHOLE.replace(*wrong))
    assert f"{tmp_path / 'mirall.toml'}:{line}: " in said
    assert sentence in said


def test_two_problems_are_two_lines(tmp_path):
    said = refused(tmp_path, "[node]\naet = ''\n\n[nodes]\nx = 1\n")
    assert [line.split(": ")[0].rpartition(":")[2] for line in said.splitlines()] == ["2", "4"]


def test_broken_toml_says_where(tmp_path):
    assert "line 2" in refused(tmp_path, "[node]\naet = \n")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadSettings, match=r"absent\.toml cannot be read"):
        load(tmp_path / "absent.toml")


def test_a_model_that_is_not_in_the_registry_is_named_by_line(tmp_path):
    path = written(tmp_path, WHOLE)
    (sentence,) = unknown_models(load(path), path)
    assert sentence.startswith(f"{path}:31: routes[0].run: route 'tumours' runs 'pet-tumour:1', which is not in ")
    (tmp_path / "kept" / "models" / "pet-tumour" / "1").mkdir(parents=True)
    assert unknown_models(load(path), path) == []
    path = written(tmp_path, WHOLE.replace("pet-tumour:1", "pet-tumour"))
    assert unknown_models(load(path), path) == []


def test_a_misspelt_condition_of_a_route_is_named_by_line_and_key(tmp_path):
    said = refused(tmp_path, '[[routes]]\nname = "mr"\n[routes.match]\nModlity = "MR"\n')
    assert "mirall.toml:4: routes[0].match.Modlity: 'Modlity' is neither a DICOM keyword nor one of " in said


def test_a_route_that_neither_runs_nor_sends_anything_is_refused_by_name(tmp_path):
    said = refused(tmp_path, WHOLE + '\n[[routes]]\nname = "idle"\nrun = []\n')
    assert said == (
        f"{tmp_path / 'mirall.toml'}:35: routes[1].name: route 'idle' does nothing; give it models to run, or "
        "destinations to send_to"
    )
    passing = WHOLE + '\n[[routes]]\nname = "passes on"\nsend_to = ["pacs"]\n'
    assert load(written(tmp_path, passing)).routes[1].run == ()


def test_two_routes_of_one_name_are_refused(tmp_path):
    assert "the name 'tumours' is used by an earlier route" in refused(
        tmp_path, WHOLE + '\n[[routes]]\nname = "tumours"\n'
    )


def test_options_outrank_what_the_service_told_its_children_which_outranks_the_file(tmp_path, monkeypatch):
    path = written(tmp_path, WHOLE)
    monkeypatch.setenv(OVERRIDES_VARIABLE, json.dumps({"aet": "TOLD", "dimse": "127.0.0.1:1", "data": "/srv/told"}))
    loaded = load(path, aet="GIVEN")
    assert (loaded.node.aet, loaded.node.dimse, loaded.node.http) == ("GIVEN", "127.0.0.1:1", "127.0.0.1:8080")
    assert loaded.data == Path("/srv/told")


def test_beyond_loopback_needs_known_peers_and_a_token(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSettings) as caught:
        may_listen(load(dimse="0.0.0.0:11112", http="0.0.0.0:8080"))
    assert str(caught.value).splitlines() == [
        (
            "0.0.0.0:11112 can be reached from other machines but [[node.known_peers]] is not set; set it, listen on "
            "127.0.0.1, or give --open"
        ),
        (
            "0.0.0.0:8080 can be reached from other machines but node.http_token or [[node.tokens]] is not set; "
            "set it, listen on 127.0.0.1, or give --open"
        ),
    ]
    allowed = 'known_peers = [{ aet = "A", address = "10.0.0.7" }]\nhttp_token = "0123456789abcdef"\n'
    closed = written(tmp_path, f"[node]\ndimse = '0.0.0.0:11112'\nhttp = '[::]:8080'\n{allowed}")
    assert may_listen(load(closed)) == []


def test_open_warns_and_loopback_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert may_listen(load()) == []
    (warning,) = may_listen(load(dimse="0.0.0.0:11112", open=True))
    assert warning == (
        "0.0.0.0:11112 can be reached from other machines, and --open lets any in, and any page in their browsers"
    )


@pytest.mark.parametrize("text", ["127.0.0.1", "host:", ":80", "host:99999", "host:x"])
def test_an_address_without_a_good_port_is_refused(text):
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        host_port(text)


def test_an_address_of_version_six_keeps_its_brackets():
    assert str(host_port("[::1]:104")) == "[::1]:104"
    assert host_port("[::1]:104").is_loopback
    assert not host_port("pacs.example:104").is_loopback


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in found:
                found |= sections(kind)
    return found


def test_every_setting_says_what_it_is():
    found = sections(Settings)
    assert settings.Route in found
    assert settings.KnownPeer in found
    assert [
        f"{section.__name__}.{name}"
        for section in found
        for name, field in section.model_fields.items()
        if not field.description
    ] == []
