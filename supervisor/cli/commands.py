"""The command line of `holdfast`, made from the table of options.

Invariant: a command only gathers texts; what they mean, and whether they are right, is decided in `supervisor.config`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from supervisor import __version__
from supervisor.cli import checking, project
from supervisor.config.load import Source, load
from supervisor.config.options import OPTIONS
from supervisor.config.settings import Settings
from supervisor.errors import SettingsError, UsageError
from supervisor.kernel.files import read_settings, starting_directory

DEFAULT_CONFIG = "holdfast.toml"

_CONFIG_GROUP = "Settings file"
_OTHER_GROUP = "Other"

_APP_HELP = """\
APP is module:attribute, or module:factory() (called with no arguments). ASGI 3 and WSGI are told apart. Without APP,
the [app.NAME] tables of the settings file are served."""

_RUN_HELP = f"""\
Serve in the foreground until told to stop.

{_APP_HELP}

Every option but -c can stand in the settings file; an option given here wins. With several [app.NAME] tables, an
app's options belong in its table."""

_RUN_EPILOG = """\
\b
Signals to the master:
  USR2, HUP   rolling restart: new code, settings reread, no request lost
  TERM, INT   stop gracefully (a second INT: at once)
  QUIT        stop at once
  USR1        reopen log files
  TTIN, TTOU  one worker more, one fewer

\b
Examples:
  holdfast run myproject.asgi:app -w 4
  holdfast run 'myproject:create_app()' -b 0.0.0.0:8080 -b unix:/run/app.sock
  holdfast run -c /etc/holdfast/shop.toml --log-format json
"""

_CHECK_HELP = f"""\
Validate the settings, import each app in an interpreter of its own, and report. Nothing is started.

{_APP_HELP}

Exit code 0: all is well; 1: a setting is wrong, or an app can't be imported."""


class OptionsCommand(click.Command):
    """A command whose `--help` shows the options under the headings of the table."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings = {option.key: option.group for option in OPTIONS} | {"config": _CONFIG_GROUP}
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(headings.get(param.name or "", _OTHER_GROUP), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _parameters() -> list[click.Parameter]:
    """APP, -c and every option of the table; all of them plain texts."""
    parameters: list[click.Parameter] = [
        click.Argument(["app"], metavar="[APP]", required=False),
        click.Option(
            ["-c", "--config"],
            metavar="FILE",
            help="TOML settings; options given here win over it [default: ./holdfast.toml if there]",
        ),
    ]
    for option in OPTIONS:
        if option.flags:
            more = "repeatable; " if option.repeatable else ""
            text = f"{option.help} [{more}default: {option.default}]"
            names = [*option.flags, option.key]
            parameters.append(click.Option(names, metavar=option.metavar, multiple=option.repeatable, help=text))
    return parameters


def _run(**given: Any) -> int:
    source = _source(given)
    _settings(source)
    from supervisor.master import boot  # not needed to check, nor for a new project

    boot.exec_master(source)


def _check(**given: Any) -> int:
    try:
        settings = _settings(_source(given))
    except SettingsError as error:
        error.exit_code = 1  # what was to be checked is wrong; the command line that asked was not
        raise
    return checking.report(settings)


@click.command(short_help="Start a new project from the template.")
@click.argument("directory", metavar="DIR", type=click.Path())
def new(directory: str) -> int:
    """Start a new project in DIR: a small service with its settings, a test and a README.

    DIR must not exist yet, or be empty.
    """
    return project.create(directory)


def _group() -> click.Group:
    group = click.Group(
        "holdfast",
        help="A clustered process supervisor for Python web apps, with zero-downtime reloads.",
        epilog="holdfast COMMAND --help tells more. A running instance is asked and told things with holdfastctl.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        commands=[
            OptionsCommand(
                "run",
                callback=_run,
                params=_parameters(),
                help=_RUN_HELP,
                epilog=_RUN_EPILOG,
                short_help="Serve in the foreground until told to stop.",
            ),
            OptionsCommand(
                "check",
                callback=_check,
                params=_parameters(),
                help=_CHECK_HELP,
                short_help="Validate settings and import the app; start nothing.",
            ),
            new,
        ],
    )
    return click.version_option(__version__, prog_name="holdfast", message="%(prog)s %(version)s")(group)


def main(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code. Raises `UserError`."""
    for argument in arguments:
        if not _is_text(argument):
            raise UsageError(f"an argument in UTF-8 was expected, not {argument!r}")
    try:
        code = _group().main(list(arguments), prog_name="holdfast", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "holdfast"
        message = " ".join(error.format_message().split()).rstrip(".")
        raise UsageError(f"{message} (see {command} --help)") from None
    except click.Abort:
        return 130
    return int(code or 0)


def _source(given: dict[str, Any]) -> Source:
    """What was typed, as it travels to the master."""
    app, path = given.pop("app"), given.pop("config")
    typed = {key: value for key, value in given.items() if value not in (None, ())}
    flags = {key: list(value) if isinstance(value, tuple) else value for key, value in typed.items()}
    if path is None and os.path.exists(DEFAULT_CONFIG):
        path = DEFAULT_CONFIG
    start = starting_directory()
    if path is not None and start != os.getcwd():
        path = os.path.join(start, path)  # each roll reads it where a symlink leads to by then
    return Source(path=path, app=app, flags=flags)


def _settings(source: Source) -> Settings:
    """Read the file, if there is one, and check everything, before anything starts."""
    return load(source, read_settings(source.path))


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
