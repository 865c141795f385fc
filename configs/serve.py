"""A base and its adapters behind OpenAI's API; it prints its address once it answers.

    python -m experiments.serve --config=configs/serve.py --config.model=DIRECTORY \
        --config.adapters_root=DIRECTORY --config.adapters=french,german

The model is a directory of Hugging Face files, a name on the hub, or a .bin file of llama2.c. The
adapters are PEFT's directories under the root.

    --config.adapters=*                              all of them
    --config.pool.rank=64 --config.pool.slots=32     larger adapters, more of them on the device
    --config.engine.rows=32 --config.engine.room=2048 --config.engine.prompt_lengths=(64,512,1024)
                                                     more and longer texts
    --config.host=0.0.0.0                            for other machines; LORA_JAX_TOKEN must be set
    --dry_run                                        prints what would be served
"""

from ml_collections import ConfigDict

from experiments.serve import defaults


def get_config() -> ConfigDict:
    return defaults()
