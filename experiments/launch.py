"""Starts an experiment: reads the flags, joins other processes, and says in one line what is wrong.

On a pod of TPUs and under SLURM the processes of a run find each other. Elsewhere each is told:

    python -m experiments.finetune … --coordinator=HOST:PORT --processes=4 --process=0

or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in its environment.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from lora_jax import training

Main = Callable[..., None]
QUOTES = "'\""


def launch(
    main: Main,
    plan: Callable[[ConfigDict], None] | None = None,
    **more: flags.FlagHolder,
) -> None:
    """Runs `main(config, workdir, ...)`; a `workdir` of None asks for the plan only.

    Args:
      main: the experiment. Its ValueError and OSError are for the user, and shown without a
        traceback unless `--traceback` is given.
      plan: prints the plan of an experiment that can do without a workdir: its `main` then writes
        no files.
      **more: flags of this experiment, whose values `main` takes by name.
    """
    config = config_flags.DEFINE_config_file(
        "config", help_string="A file of configs/; --config.FIELD=VALUE overrides one field."
    )
    workdir = flags.DEFINE_string("workdir", None, "Where results go; the same again resumes.")
    dry_run = flags.DEFINE_bool("dry_run", False, "Print the plan and stop.")
    traceback = flags.DEFINE_bool("traceback", False, "Show where an error was raised.")
    coordinator = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process.")
    processes = flags.DEFINE_integer("processes", None, "How many there are; 1: this one alone.")
    process = flags.DEFINE_integer("process", None, "Which one this is, from 0.")
    cache = flags.DEFINE_string(
        "compilation_cache", None, "Where compiled programs are kept, for runs to come."
    )
    timeout = flags.DEFINE_integer(
        "process_timeout", 100, "Seconds after which all end if one is gone."
    )

    def run(_: Sequence[str]) -> None:
        if config.value is None:
            sys.exit("error: no --config; try --config=configs/quickstart.py or --help")
        if cache.value is not None:
            jax.config.update("jax_compilation_cache_dir", cache.value)
        logging.set_verbosity(logging.WARNING)  # not every attempt to find an accelerator
        directory = None if dry_run.value or not workdir.value else Path(workdir.value)
        if directory is None and not dry_run.value and plan is None:
            sys.exit("error: no --workdir to write to; --dry_run prints the plan without one")
        try:
            training.connect(
                coordinator.value, processes.value, process.value, timeout=timeout.value
            )
            if dry_run.value and plan is not None:
                plan(config.value)
            else:
                options = {name: flag.value for name, flag in more.items()}
                main(config.value, directory, **options)
        except KeyboardInterrupt:
            print("stopped at once; what was saved before is whole", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except (ValueError, OSError, FloatingPointError) as error:
            if traceback.value:
                raise
            _end(error)

    app.run(run, flags_parser=_parse_flags)


def _end(error: Exception) -> None:
    """Says what was wrong, and ends in a way that the other processes notice."""
    if not jax.distributed.is_initialized():
        sys.exit(f"error: {error}")
    agreed = isinstance(error, training.TogetherError)
    if training.is_first() or not agreed:
        print(f"error in process {jax.process_index()}: {error}", file=sys.stderr, flush=True)
    if agreed:
        sys.exit(1)
    # An orderly end would wait for processes that wait for this one.
    os._exit(1)


def _parse_flags(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:  # with a whole traceback in it if the config was refused
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
        sys.exit(f"error: {reason}")
    except (AttributeError, KeyError) as error:  # an override of a field that the config lacks
        sys.exit(f"error: {_lacking(str(error.args[0]))}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: cannot read the config: {error}")


def _lacking(message: str) -> str:
    r"""Says which field a config lacks, from what ml_collections says of it.

    >>> _lacking("'lenght'\\nDid you mean \"length\" instead of \"lenght\"?")
    "the config lacks a field 'lenght'; nearest: 'length'"
    """
    near = re.search(r'mean "(.+?)" instead of "(.+?)"', message)
    if near:
        return f"the config lacks a field {near[2]!r}; nearest: {near[1]!r}"
    # Some messages have passed through `repr`, once or twice.
    plain = " ".join(message.replace("\\n", " ").replace("\\", "").split())
    return f"the config lacks a field {plain.strip(QUOTES)!r}"
