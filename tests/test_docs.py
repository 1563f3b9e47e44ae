"""The documentation names what there is, and what it names is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
import typer.main

from plugin import settings
from plugin.archive.levels import KEYWORDS
from plugin.cli import application
from plugin.jobs import delivery, port
from samples import phantoms

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if path.is_file())
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}


@dataclass(frozen=True)
class Block:
    """A fenced block. kind: the words after the fence, such as "sh" or "python run"."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page; one that stands in a list is taken without its indentation."""
    for found in re.finditer(r"^( *)```([^\n]*)\n(.*?)^ *```$", TEXT[page], re.MULTILINE | re.DOTALL):
        line = TEXT[page].count("\n", 0, found.start()) + 1
        text = "\n".join(row.removeprefix(found[1]) for row in found[3].splitlines())
        yield Block(page, line, found[2].strip(), text)


BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands() -> dict[str, Any]:
    """Every command of `mirall`, by its words: "models release" -> its command."""
    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        below = getattr(command, "commands", None)
        if below is None:
            found[" ".join(words)] = command
            return
        for name, each in below.items():
            walk(each, (*words, name))

    walk(typer.main.get_command(application()), ())
    return found


COMMANDS = commands()


def written_commands() -> Iterator[tuple[str, str]]:
    """(where, command line) of each `mirall ...` in a block of shell or in code within a sentence, with arguments."""
    for block in BLOCKS:
        if block.kind == "sh":
            for row in block.text.replace("\\\n", " ").splitlines():
                if row.startswith("mirall "):
                    yield str(block), row.split("|")[0].split(">")[0]
    for page in PAGES:
        for found in re.finditer(r"`(mirall [^`]+)`", re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL)):
            yield str(page.relative_to(ROOT)), " ".join(found[1].split())


def command_of(line: str) -> tuple[str, list[str]]:
    """The longest name of a command, or of a group of them, that the line begins with, and the words after it."""
    words = shlex.split(line, comments=True)[1:]
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS or any(each.startswith(f"{name} ") for each in COMMANDS):
            return name, words[length:]
    raise AssertionError(f"there is no `mirall {' '.join(words[:2])}`")


WRITTEN = sorted(set(written_commands()))


def test_the_pages_hold_commands_settings_and_examples_that_are_checked() -> None:
    """The tests below prove nothing where they find nothing to look at."""
    assert len(WRITTEN) > 40
    assert {block.kind for block in BLOCKS} >= {"sh", "python run", "toml check"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_written_about(name: str) -> None:
    # By its whole name: "mirall jobs" alone says nothing of `mirall jobs cancel`.
    assert any(command_of(line)[0] == name for _, line in WRITTEN), f"`mirall {name}` is on no page"


@pytest.mark.parametrize(("where", "line"), WRITTEN, ids=[f"{where} {line}" for where, line in WRITTEN])
def test_every_command_line_on_a_page_is_one_that_mirall_takes(where: str, line: str) -> None:
    name, arguments = command_of(line)
    command = COMMANDS.get(name)
    if command is None:
        assert not arguments, f"{where}: `{line}`: {arguments[0]!r} is no command of {name}"
        return
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in arguments if word.startswith("-") and word not in options | {"--help"}]
    assert not unknown, f"{where}: `{line}` has {unknown}"
    if arguments and "..." not in line:
        # In a sentence only a part may be named ("`mirall predict --force`"); in a block it is all there.
        try:
            command.make_context(name, ["1" if word == "NUMBER" else word for word in arguments])
        except typer.BadParameter as error:
            lacking = type(error).__name__ == "MissingParameter" and ".md:" not in where
            assert lacking, f"{where}: `{line}`: {error.format_message()}"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_shows_an_example_that_mirall_takes(command: Any) -> None:
    example = re.search(r"Example:\s*(mirall .+)", command.help or "", re.DOTALL)
    assert example, f"the help of {command.name} has no example"
    name, arguments = command_of(" ".join(example[1].split()))
    assert COMMANDS[name] is not None
    COMMANDS[name].make_context(name, arguments)


def fields(model: type[pydantic.BaseModel], section: str) -> Iterator[tuple[str, str]]:
    for name in model.model_fields:
        yield section, name


SETTINGS = [
    *fields(settings.KnownPeer, "node"),
    *fields(settings.Node, "node"),
    *fields(settings.Token, "node.tokens"),
    *fields(settings.Tls, "node.tls"),
    *fields(settings.Archive, "archive"),
    *fields(settings.Study, "study"),
    *fields(settings.Destination, "destinations.NAME"),
    *fields(settings.Profile, "destinations.NAME.profile"),
    *fields(settings.Route, "routes"),
]


@pytest.mark.parametrize(("section", "name"), SETTINGS)
def test_every_setting_stands_in_its_section_of_the_operators_guide(section: str, name: str) -> None:
    guide = TEXT[ROOT / "docs" / "operator.md"]
    headed = re.search(rf"^### `\[+{re.escape(section)}\]+`.*?(?=^##)", guide, re.MULTILINE | re.DOTALL)
    assert headed, f"the operator's guide has no section [{section}]"
    assert f"`{name}`" in headed[0]


def test_every_setting_with_a_plain_default_has_it_in_the_operators_guide() -> None:
    guide = TEXT[ROOT / "docs" / "operator.md"]
    for model, section in ((settings.Node, "node"), (settings.Archive, "archive"), (settings.Study, "study")):
        headed = re.search(rf"^### `\[{section}\]`.*?(?=^##)", guide, re.MULTILINE | re.DOTALL)
        assert headed
        for name, field in model.model_fields.items():
            default = field.default
            if isinstance(default, bool):
                shown = str(default).lower()
            elif default is None or default == ():
                shown = "none"
            else:
                shown = f"{default:g}" if isinstance(default, float) else str(default)
            (row,) = re.findall(rf"^\| `{name}` \|.*$", headed[0], re.MULTILINE)
            assert row.split("|")[3].strip().strip("`") == shown, row


@pytest.mark.parametrize("state", [*port.STATES, *delivery.STATES])
def test_every_state_of_jobs_and_outbox_is_explained(state: str) -> None:
    assert re.search(rf"^\| `{state}` \|", TEXT[ROOT / "docs" / "operator.md"], re.MULTILINE)


def test_every_query_key_stands_in_the_conformance_statement() -> None:
    statement = TEXT[ROOT / "docs" / "conformance.md"]
    for level, keywords in KEYWORDS.items():
        (row,) = re.findall(rf"^\| {level} \| (.*) \|$", statement, re.MULTILINE)
        assert row == ", ".join(f"`{keyword}`" for keyword in keywords)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


LINKS = [
    (page, target)
    for page in PAGES
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL))
    if "://" not in target
]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=[f"{page.name} {target}" for page, target in LINKS])
def test_links_lead_somewhere(page: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    there = (page.parent / name).resolve() if name else page
    assert there.exists(), f"{page.name} links to {target}"
    if anchor:
        assert anchor in anchors(there), f"{page.name} links to {target}; {there.name} has {sorted(anchors(there))}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "toml check"], ids=str)
def test_configurations_on_the_pages_are_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "mirall.toml"
    path.write_text(block.text, encoding="utf-8")
    assert settings.load(path).routes


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind.startswith("python")], ids=str)
def test_programs_on_the_pages_compile_and_those_marked_run(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = compile(block.text, str(block), "exec")
    if block.kind == "python run":
        monkeypatch.chdir(tmp_path)
        # One patient of each kind shows that it runs; a page may ask for as many as it likes.
        write = phantoms.write_patients
        monkeypatch.setattr(
            phantoms, "write_patients", lambda kind, count, *rest, **more: write(kind, 1, *rest, **more)
        )
        exec(program, {"__name__": "__main__"})
        assert list(tmp_path.rglob("*.dcm"))
