"""Compiling ahead of time: for devices that need not exist, over shapes, with nothing allocated."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lora_jax.analysis.hlo import Program, parse


class Compiled(NamedTuple):
    """A function compiled for a mesh.

    Attributes:
      program: what each device runs, after partitioning and before what is peculiar to a kind of
        device: arrays have the types that they were given, and nothing is fused.
      arguments: bytes of what it takes, on one device.
      results: bytes of what it returns.
      aliased: bytes of results that take the place of donated arguments.
      temporaries: bytes that it holds at most in between.
    """

    program: Program
    arguments: int
    results: int
    aliased: int
    temporaries: int

    @property
    def peak(self) -> int:
        """Bytes that one device needs."""
        return self.arguments + self.results - self.aliased + self.temporaries


def compile_ahead(lowered: jax.stages.Lowered, devices: int) -> Compiled:
    """Compiles a function, and keeps the partitioned program that the compiler goes through.

    The finished program would not do: one for CPU widens bfloat16, and sends twice the bytes.

    Args:
      lowered: the function for its arguments, arrays or shapes.
      devices: how many it is for.

    Returns:
      Its program, and the memory that it takes.

    Raises:
      RuntimeError: the compiler wrote no program, as when the finished one comes from the
        compilation cache. Plan with `jax_enable_compilation_cache` off.
    """
    with tempfile.TemporaryDirectory() as folder:
        dump: dict[str, str | bool] = {
            "xla_dump_to": folder,
            "xla_dump_hlo_pass_re": "spmd-partitioning",
        }
        stats: Any = lowered.compile(compiler_options=dump).memory_analysis()
        if devices == 1:  # nothing to partition
            text = lowered.as_text(dialect="hlo", debug_info=True)
        else:
            text = _partitioned(Path(folder))
    return Compiled(
        parse(text),
        arguments=stats.argument_size_in_bytes,
        results=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
    )


def _partitioned(folder: Path) -> str:
    found = sorted(folder.glob("*after_spmd-partitioning*.txt"))
    if not found:
        raise RuntimeError(
            "the compiler wrote no partitioned program: it was compiled before. Switch "
            "jax_enable_compilation_cache off before anything is compiled"
        )
    return found[0].read_text(encoding="utf-8")
