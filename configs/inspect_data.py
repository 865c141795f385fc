"""A task as a model would read it.

    export LORA_JAX_DATA=DIR
    python -m experiments.inspect_data --config=configs/inspect_data.py:e2e_nlg --dry_run \
        --config.model=DIR/stories260k/stories260K.bin

DIR holds e2e_nlg/ with the three files of the challenge. After the colon stands the name of any
text-to-text task, and its options can be set:

    --config=configs/inspect_data.py:sroie --config.task.options.show=text
    --config.encoding.template=chat                 the model's chat template
    --config.encoding.truncate=middle               long prompts lose their middle
    --config.encoding.bad_rows=raise                stop at the first record that does not fit
"""

from ml_collections import ConfigDict, config_dict

from experiments.inspect_data import defaults
from lora_jax.data.registry import task_options


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    config = defaults()
    config.task.name = task
    options = task_options(task)
    texts = {name: config_dict.placeholder(str) for name, value in options.items() if value is None}
    config.task.options = ConfigDict(dict(options) | texts)
    return config
