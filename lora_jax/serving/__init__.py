"""A base and many adapters behind OpenAI's API, for evaluation and demos.

Needs the packages of the extra `serve`. Production engines are fed by the PEFT export instead
(`lora_jax.hub.save_peft`).
"""

from lora_jax.serving.app import make_app
from lora_jax.serving.directories import AdapterRoot
from lora_jax.serving.errors import ApiError
from lora_jax.serving.server import check_address, listen, serve, serving
from lora_jax.serving.service import Limits, Service

__all__ = [
    "AdapterRoot",
    "ApiError",
    "Limits",
    "Service",
    "check_address",
    "listen",
    "make_app",
    "serve",
    "serving",
]
