"""The documents say what the code does: each test holds one kind of statement against its source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from supervisor import __version__
from supervisor.cli.commands import main as holdfast
from supervisor.config.bounds import BOUNDS
from supervisor.config.load import Source, load
from supervisor.config.options import markdown
from supervisor.control.ctl import cli
from supervisor.control.routes import _ROUTES
from supervisor.embed import Supervisor
from supervisor.fleet import records as fleet
from supervisor.reload import records, roll
from supervisor.serve.limits import UNLIMITED, Limits

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"`((?:supervisor|tests|scripts|systemd|app_template)/[\w./-]+)`")


def blocks(language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(README) if kind == language]


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    _before, found, after = text.partition(f"\n{heading}\n")
    assert found, f"there is no section {heading!r}"
    return re.split(r"^#+ ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of a section's tables, without headings."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("| ---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def anchors(text: str) -> set[str]:
    """How GitHub names a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    holdfast([*words, "--help"])
    return capsys.readouterr().out


def test_the_table_of_options_is_the_one_that_the_code_makes() -> None:
    _before, _begin, rest = README.partition("<!-- options: made from supervisor.config.options.markdown() -->\n")
    assert rest.partition("<!-- /options -->")[0] == markdown()


def test_exactly_the_commands_of_holdfastctl_are_listed() -> None:
    listed = [cells[0] for cells in rows(section(README, "### holdfastctl"))][1:]
    assert {row.strip("`").split()[1] for row in listed} == set(cli.commands)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_call_of_holdfastctl_is_one_that_it_understands(document: str) -> None:
    text = (ROOT / document).read_text()
    calls = re.findall(r"(?:`|\$ |\$\()holdfastctl ([^`\n)]+)", text)
    for call in calls:
        words = [word for word in call.split() if word not in ("-s", "SOCK", "[-s", "SOCK]", "[--json]", "--json")]
        if words and words[0] != "COMMAND":
            assert words[0] in cli.commands, call
            options = {name for param in cli.commands[words[0]].params for name in param.opts}
            assert {word for word in words if word.startswith("--")} <= options, call


def test_every_option_named_in_the_text_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = help_of(capsys, "run") + help_of(capsys)
    known += "".join(command.get_help(click.Context(command)) for command in (cli, *cli.commands.values()))
    ours = README.partition("\n## Compared with others\n")[0] + section(README, "## Limits of this version")
    ours = re.sub(r"^    (?:curl|docker) .*$", "", ours, flags=re.MULTILINE)
    assert [flag for flag in re.findall(r"(?<!\w)--[a-z][a-z-]+", ours) if flag not in known] == []


def test_exactly_the_signals_that_the_help_tells_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    told = help_of(capsys, "run").partition("Signals to the master:")[2].partition("Examples:")[0]
    known = set(re.findall(r"\b[A-Z][A-Z0-9]{2,}\b", told))
    listed = [cells[0].strip("`") for cells in rows(section(README, "### Signals to the master"))][1:]
    assert sorted(listed) == sorted(known)


def test_the_paths_of_the_control_api_exist() -> None:
    told = section(README, "## What `status` means").partition("The control socket speaks HTTP:")[2]
    named = re.findall(r"`(?:GET |POST )?(/[a-z]+)`", told)
    assert sorted(named) == sorted(_ROUTES)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for link in _LINK.findall(text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else ROOT / document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    missing = [path for path in _PATH.findall((ROOT / document).read_text()) if not (ROOT / path).exists()]
    assert missing == []


def test_the_settings_file_loads() -> None:
    examples = blocks("toml")
    assert examples
    for text in examples:
        assert load(Source(path="holdfast.toml"), text).apps


def test_a_mistake_is_told_as_the_readme_shows_it() -> None:
    with pytest.raises(Exception, match="workers") as caught:
        load(Source(path="bad.toml", app="a:b"), '[app.web]\nworkers = "many"\n')
    assert f"    holdfast: {caught.value}\n" in README


def test_embedding_takes_five_lines_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("python")
    assert len([line for line in text.splitlines() if line]) <= 5
    ran: list[Supervisor] = []

    def run(self: Supervisor) -> int:
        ran.append(self)
        return 0

    monkeypatch.setattr(Supervisor, "run", run)
    with pytest.raises(SystemExit) as caught:
        exec(compile(text, "README.md", "exec"), {"__name__": "__main__"})
    assert caught.value.code == 0
    assert ran[0].settings.apps[0].app == "myproject.asgi:app"
    assert ran[0].settings.apps[0].workers == 4


def test_the_states_of_a_roll_and_its_events_are_all_in_the_table() -> None:
    told = list(rows(section(ARCHITECTURE, "### The roll")))
    assert told[0][1:] == [phase.name for phase in records.Phase]
    assert [cells[0].strip("`") for cells in told[1:]] == [event.__name__ for event in records.EVENTS]


def test_the_table_of_the_roll_says_where_nothing_happens() -> None:
    ignore = roll.TABLE[records.Phase.IDLE, records.Abort]
    for event, cells in zip(records.EVENTS, list(rows(section(ARCHITECTURE, "### The roll")))[1:], strict=True):
        for phase, cell in zip(records.Phase, cells[1:], strict=True):
            assert (cell == "-") == (roll.TABLE[phase, event] is ignore), (phase, event)


def test_the_events_and_commands_of_the_fleet_are_all_told() -> None:
    told = section(ARCHITECTURE, "### The fleet")
    for record in (*fleet.Event.__args__, *fleet.Command.__args__):
        assert f"`{record.__name__}`" in told, record


def test_the_limits_on_clients_are_those_of_the_code() -> None:
    table = section(ARCHITECTURE, "## Limits and time")
    told = {cells[0].strip("`"): cells[1] for cells in list(rows(table))[1:]}
    defaults = Limits()
    assert list(told) == list(Limits.__slots__)
    for name, value in told.items():
        number, _, unit = value.partition(" ")
        limit = UNLIMITED if number == "none" else float(number) * {"KiB": 1024, "s": 1, "": 1}[unit]
        assert limit == getattr(defaults, name), name
    settings = {cells[0].strip("`"): cells[3].strip("` |") for cells in list(rows(table))[1:]}
    assert {name for name in settings.values() if name} <= {option.key for option in BOUNDS}
    assert {option.key for option in BOUNDS} <= set(settings.values())


def test_the_nginx_of_the_readme_lets_no_client_speak_through_it() -> None:
    (server,) = blocks("nginx")
    told = set(re.findall(r"proxy_set_header ([\w-]+) ", server))
    assert told >= {"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded"}


def test_every_room_is_described() -> None:
    rooms = {path.parent.name for path in (ROOT / "supervisor").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^### `(\w+)/`", ARCHITECTURE, re.MULTILINE))


def test_the_changelog_knows_this_version() -> None:
    assert f"\n## {__version__} - " in (ROOT / "CHANGELOG.md").read_text()
