"""Tasks: labelled texts and questions with answers, turned into tokens and batches."""

from lora_jax.data.buckets import bucketed_batches, streamed_batches
from lora_jax.data.encode import Examples, encode
from lora_jax.data.encode_text import EncodedPrompts, EncodedTexts, TextEncoder
from lora_jax.data.lazy_examples import LazyExamples, survey
from lora_jax.data.loader import count, evaluation_batches, training_batches
from lora_jax.data.packing import efficiency, pack, pad
from lora_jax.data.registry import is_text_task, load_task, load_text_task
from lora_jax.data.task import Record, Task
from lora_jax.data.tasks.docstrings import docstrings
from lora_jax.data.tasks.glue import glue
from lora_jax.data.text_task import TextRecord, TextTask, Turn

__all__ = [
    "EncodedPrompts",
    "EncodedTexts",
    "Examples",
    "LazyExamples",
    "Record",
    "Task",
    "TextEncoder",
    "TextRecord",
    "TextTask",
    "Turn",
    "bucketed_batches",
    "count",
    "docstrings",
    "efficiency",
    "encode",
    "evaluation_batches",
    "glue",
    "is_text_task",
    "load_task",
    "load_text_task",
    "pack",
    "pad",
    "streamed_batches",
    "survey",
    "training_batches",
]
