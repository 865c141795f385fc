"""A base of a few thousand parameters with a tokenizer and adapters in PEFT's files."""

import contextlib
import dataclasses
import json
import shutil
import socket
import threading
import time
from typing import NamedTuple

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

import lora_jax as lora
from lora_jax import hub, models
from lora_jax.evaluation import Engine, GrowingText, Sampling, TextRequest, generate
from lora_jax.hub.new_tokenizer import train_tokenizer
from lora_jax.serving import AdapterRoot, Limits, Service, serving
from tests.tiny_decoder import tiny_decoder

CLIENTS = []  # all that were made
NAMES = ("a0", "a1", "a2", "a3")
TEXT = "the mill is a cheap pub near the river and the old bridge by the sea"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}"
    "{% if m.role == 'nought' %}{{ 1 // 0 }}{% endif %}"
    "{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
LENGTH, ROOM, ROWS = 16, 40, 4
LONG_ROOM = 768
GREEDY, DRAWN = {"temperature": 0.0}, {"temperature": 1.4, "top_p": 0.9}
NEW, BATCH = 12, 32  # of what is written offline, in few programs
RANK = 2
WEIGHTS = "adapter_model.safetensors"
IDS = jax.ShapeDtypeStruct((1, 2), "int32")


def make_base(directory):
    """Writes a decoder with random weights, whose texts are far from uniform."""
    tokenizer = train_tokenizer(directory, [TEXT] * 3, 290)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    config = tiny_decoder(vocab_size=290, max_length=64, eos_ids=(tokenizer.eos_id,))
    rng = np.random.default_rng(0)
    draw = lambda path, x: (
        np.ones(x.shape, "f")
        if path[-1].key == "scale"
        else np.float32(0.5) * rng.standard_normal(x.shape, "f")
    )
    params = jax.tree.map_with_path(draw, models.build(config).shapes)
    params["lm_head"]["kernel"][:, tokenizer.eos_id] *= 2  # some texts end
    saved = hub.save_model(directory / "model", config, params)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (saved / name).write_bytes((directory / name).read_bytes())
    return saved


def lift(model, targets=lora.ALL_LINEAR, method=None):
    return lora.lift(
        model.apply, model.params, IDS, method=method or lora.LoRA(RANK), targets=targets
    )


def blank(lifted, model):
    """Factors that change nothing."""
    shapes = jax.eval_shape(lifted.init, jax.random.key(0), model.params)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def make_adapters(model, root, names):
    """Writes adapters with random factors under a root."""
    lifted = lift(model)
    first = hub.save_peft(root / names[0], lifted, blank(lifted, model))
    shapes = load_file(first / WEIGHTS)
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        arrays = {
            key: np.float32(0.3) * rng.standard_normal(x.shape, "f") for key, x in shapes.items()
        }
        (root / name).mkdir(exist_ok=True)
        save_file(arrays, root / name / WEIGHTS)
        if name != names[0]:
            shutil.copy(first / "adapter_config.json", root / name)


def make_engine(model, slots=2, **options):
    pool = lora.AdapterPool(lift(model), model.params, slots=slots)
    shape = {"rows": ROWS, "room": ROOM, "prompt_lengths": (LENGTH,), "queue_limit": 64}
    return Engine(pool, model.config, **shape | options)


def make_long(model):
    """The same model with positions for longer texts, which do not end by themselves."""
    config = dataclasses.replace(model.config, max_length=LONG_ROOM, eos_ids=())
    return model._replace(apply=models.build(config).apply, config=config)


def find_longest(model, engine):
    """A request whose stream is more than a connection holds that nobody reads, and its text."""
    new = engine.most_new_tokens(LENGTH)
    prompts = [(7 + 2 * i,) * LENGTH for i in range(ROWS)]
    asked = [TextRequest(ids=ids, max_new_tokens=new) for ids in prompts]
    numbers = [engine.submit(request) for request in asked]
    made, texts = engine.run(), []
    for number, ids in zip(numbers, prompts, strict=True):
        text = GrowingText(model.tokenizer)
        pieces = [text.add([one.token], last=one.end is not None) for one in made[number]]
        texts.append((sum(map(bool, pieces)), ids, text.text))
    events, ids, text = max(texts)
    assert events * 200 > 90_000  # bytes, of which 64 KiB wait in the server
    return {"model": "base", "prompt": ids, "max_tokens": new, "temperature": 0}, text


def open_connection(address, body):
    """Sends a request by hand, so that the answer may be left unread."""
    host, port = address.rpartition("/")[2].split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    content = json.dumps(body)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    head += f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(f"{head}{content}".encode())
    return connection


def read_rest(connection):
    """All that can still be read, be it cut off."""
    parts = []
    with connection, contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            parts.append(part)
    return b"".join(parts).decode()


@contextlib.contextmanager
def server(model, engine, root=None, *, limits=None, names=(), **options):
    """A server with some adapters: its service, and its address."""
    found = None if root is None else AdapterRoot(root, file_bytes=2**20)
    service = Service(model, engine, name="base", root=found, limits=limits or Limits())
    with serving(service, adapters=names, **options) as address:
        yield service, address


@contextlib.contextmanager
def paced(engine):
    """Lets the engine write a token of each row for each `release()` of what it yields, no more."""
    gate, step = threading.Semaphore(0), engine.step
    engine.step = lambda: step() if gate.acquire(timeout=0.01) else []
    try:
        yield gate
    finally:
        del engine.step


def until(is_so, seconds=30):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never was"
        time.sleep(0.005)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A text, and what it is asked with."""

    model: str
    prompt: str | tuple[int, ...]
    seed: int = 0


class Text(NamedTuple):
    """A text, its tokens, and whether it has come to its own end."""

    text: str
    tokens: list[int]
    finished: bool


class Offline:
    """What `generate` writes, with a pool of its own."""

    def __init__(self, model, root, names):
        self.model = model
        self.pool = lora.AdapterPool(lift(model), model.params, slots=len(names))
        for name in names:
            self.pool.add(name, *hub.lift_peft(root / name, model.apply, model.params, IDS))

    def texts(self, wanted, *, stop=(), special=True, **sampling):
        """The texts of several requests with the same settings, of `NEW` tokens at most."""
        found = []
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            made = self._generate(batch + batch[-1:] * (BATCH - len(batch)), special, sampling)
            for tokens, length, finished in zip(*made, strict=True):
                text = GrowingText(self.model.tokenizer, stop)
                text.add(tokens[:length], last=True)
                found.append(Text(text.text, text.tokens, bool(finished) or text.stopped))
        return found[: len(wanted)]

    def _generate(self, wanted, special, sampling):
        names = [None if w.model == "base" else w.model for w in wanted]
        prompts = [w.prompt for w in wanted]
        inputs = self.model.tokenizer.encode(prompts, length=LENGTH, special=special)
        made = generate(
            self.pool.routed.apply,
            self.pool.variables(names),
            inputs.ids,
            inputs.mask,
            config=self.model.config,
            max_new_tokens=NEW,
            search=Sampling(**sampling),
            key=jax.vmap(jax.random.key)(np.array([w.seed for w in wanted], np.uint32)),
        )
        return np.asarray(made.tokens), np.asarray(made.lengths), np.asarray(made.finished)
