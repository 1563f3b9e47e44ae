"""`mirall`: every subcommand registers itself; heavy imports happen inside commands, so that --help is quick."""

from __future__ import annotations

import importlib
import os
import sys
import warnings

import typer

from dicom_io.errors import ImagingError

FAILED = 1

# Order of the help. Each module has `register(app)`.
MODULES = (
    "plugin.cli.serve",
    "plugin.cli.demo",
    "plugin.cli.archive",
    "plugin.cli.delete",
    "plugin.cli.pull",
    "plugin.cli.convert",
    "plugin.cli.results",
    "plugin.cli.deidentify",
    "plugin.cli.cohort",
    "plugin.cli.learning",
    "plugin.cli.experiment",
    "plugin.cli.jobs",
    "plugin.cli.config",
)


def application() -> typer.Typer:
    """The command line with all its subcommands."""
    app = typer.Typer(
        name="mirall",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="A DICOM node that learns from the archive it is routed to, and gives back labelled DICOM.\n\n"
        "Research use only, not for diagnosis.\n\nExample: mirall demo",
    )
    for module in MODULES:
        importlib.import_module(module).register(app)
    return app


def main() -> None:
    """Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong use."""
    # Headers of others hold values that are too long or oddly formed; what matters of it we say in our own sentences.
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        application()()
    except ImagingError as error:
        print(f"mirall: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output (head, less) has seen enough; nothing may be flushed to it any more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FAILED)
        if error.strerror is None:
            raise
        where = f"{os.fsencode(error.filename).decode('utf-8', 'backslashreplace')}: " if error.filename else ""
        print(f"mirall: {where}{error.strerror}; mend that, and run it again", file=sys.stderr)
        sys.exit(FAILED)
