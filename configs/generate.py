"""Text from any language model, shown as it comes.

    python -m experiments.generate --config=configs/generate.py --config.model=DIRECTORY \
        --config.prompt="Once upon a time"

The model is a directory of Hugging Face files, a name on the hub, or a .bin file of llama2.c.

    --config.sampling.temperature=0.8 --config.sampling.top_p=0.95    random instead of greedy
    --config.beams=10 --config.length_penalty=0.9 --config.sampling.no_repeat_ngram=4
                                                     the beam search of the E2E challenge
    --config.chat=True                               the prompt is a message to a chat model
    --config.image=FILE                              a picture, for a model that reads them
    --config.prompts=FILE                            many prompts, one a line
    --workdir=DIR                                    writes results.json
"""

from ml_collections import ConfigDict

from experiments.generate import defaults


def get_config() -> ConfigDict:
    return defaults()
