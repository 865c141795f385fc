"""Tasks by name, and what can be set about them."""

import inspect
import json

import pytest

from lora_jax.data import is_text_task, load_task, load_text_task
from lora_jax.data.registry import TASKS, TEXT_TASKS, task_options


def test_every_task_is_of_one_kind():
    assert not set(TASKS) & set(TEXT_TASKS)
    assert is_text_task("gsm8k")
    assert not is_text_task("sst2")


@pytest.mark.parametrize("name", [*TASKS, *TEXT_TASKS])
def test_the_options_of_every_task_can_be_written_into_a_config(name):
    options = task_options(name)
    assert options == json.loads(json.dumps(options), object_hook=_tuples)
    maker = {**TASKS, **TEXT_TASKS}[name]
    unset = set(inspect.signature(maker).parameters) - set(options)
    assert unset <= {"topics"}  # of the docstrings: a mapping, for the tests


def _tuples(values):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def test_a_task_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="'gsm8k' answers texts with texts"):
        load_task("gsm8k")
    with pytest.raises(ValueError, match="'sst2' has labels to predict"):
        load_text_task("sst2")


def test_unknown_names_and_options_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown task 'gsm8'; nearest: 'gsm8k'"):
        load_text_task("gsm8")
    with pytest.raises(ValueError, match="option of task 'gsm8k' 'dir'; nearest: 'directory'"):
        load_text_task("gsm8k", {"dir": "x"})
