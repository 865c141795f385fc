"""Starts an experiment: reads the flags, and says in one line what is wrong with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

Main = Callable[[ConfigDict, Path | None], None]


def launch(main: Main, plan: Callable[[ConfigDict], None] | None = None) -> None:
    """Runs `main(config, workdir)`; a `workdir` of None asks for the plan only.

    Args:
      main: the experiment. Its ValueError and OSError are for the user, and shown without a
        traceback unless `--traceback` is given.
      plan: prints the plan of an experiment that can do without a workdir: its `main` then writes
        no files.
    """
    config = config_flags.DEFINE_config_file(
        "config", help_string="A file of configs/; --config.FIELD=VALUE overrides one field."
    )
    workdir = flags.DEFINE_string("workdir", None, "Where results go; the same again resumes.")
    dry_run = flags.DEFINE_bool("dry_run", False, "Print the plan and stop.")
    traceback = flags.DEFINE_bool("traceback", False, "Show where an error was raised.")

    def run(_: Sequence[str]) -> None:
        if config.value is None:
            sys.exit("error: no --config; try --config=configs/quickstart.py or --help")
        logging.set_verbosity(logging.WARNING)  # not every attempt to find an accelerator
        directory = None if dry_run.value or not workdir.value else Path(workdir.value)
        if directory is None and not dry_run.value and plan is None:
            sys.exit("error: no --workdir to write to; --dry_run prints the plan without one")
        try:
            if dry_run.value and plan is not None:
                plan(config.value)
            else:
                main(config.value, directory)
        except (ValueError, OSError, FloatingPointError) as error:
            if traceback.value:
                raise
            sys.exit(f"error: {error}")

    app.run(run, flags_parser=_parse_flags)


def _parse_flags(arguments: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(arguments)
    except AttributeError as error:  # an override of a field that the config lacks
        sys.exit(f"error: the config lacks a field: {error.args[0]}")
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: cannot read the config: {error}")
