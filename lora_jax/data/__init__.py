"""Tasks: labelled texts, turned into tokens and batches."""

from lora_jax.data.docstrings import docstrings
from lora_jax.data.encode import Examples, encode
from lora_jax.data.glue import glue
from lora_jax.data.loader import count, evaluation_batches, training_batches
from lora_jax.data.packing import bucket, efficiency, pack, pad
from lora_jax.data.registry import load_task
from lora_jax.data.task import Record, Task

__all__ = [
    "Examples",
    "Record",
    "Task",
    "bucket",
    "count",
    "docstrings",
    "efficiency",
    "encode",
    "evaluation_batches",
    "glue",
    "load_task",
    "pack",
    "pad",
    "training_batches",
]
