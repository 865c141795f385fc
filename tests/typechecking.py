"""The type checker that the tests put under every annotated function of lora_jax."""

from beartype import BeartypeConf, beartype

# Where a float is asked for an int will do, as everywhere in Python.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
