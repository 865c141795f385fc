"""A small run that several processes share, for tests: LoRA on a tiny BERT.

python -m tests.training.pod WORKDIR STEPS [--fsdp N] [--timeout S] [--lacks-data P] [--dies P] …

The environment says which process this is (`training.connect`). `--lacks-data`: process P does not
find its data. `--dies`: it ends in its third step without a word. `--signal`: it is sent a SIGTERM
there.
"""

import argparse
import io
import os
import signal
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

import lora_jax as lora
from lora_jax import hub, training
from lora_jax.data import training_batches
from lora_jax.training.classifier import init_variables, loss, make_outputs
from lora_jax.training.processes import gather_parts

BERT = Path(__file__).parent.parent / "fixtures" / "bert"
ROWS, LENGTH = 8, 10


def examples():
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 40, (50, LENGTH)).astype(np.int32)
    mask = (np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (50, 1))).astype(np.int32)
    return {"ids": ids * mask, "mask": mask, "type_ids": 0 * mask, "label": ids[:, 0] % 3}


class Interrupted:
    """Batches, of which the third comes with what ends the process."""

    def __init__(self, batches, end):
        self._batches, self._end, self._left = batches, end, 3
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self):
        self._left -= 1
        if self._left == 0:
            self._end()
        return next(self._batches)


def run(options):
    training.connect(timeout=options.timeout)
    mesh = training.make_mesh({"data": -1, "fsdp": options.fsdp})
    with training.together("reading the data"):
        if options.lacks_data == jax.process_index():
            raise FileNotFoundError("train.jsonl is not there")
        data = examples()
    sizes = data["mask"].sum(axis=1)
    mine = sizes[jax.process_index() :: jax.process_count()]
    assert (gather_parts(mine, len(sizes)) == sizes).all()
    base = hub.load_model(BERT, mesh=mesh)
    rows = training.process_rows(mesh, ROWS)
    batches = training_batches(data, ROWS, seed=0, rows=rows)
    if options.dies == jax.process_index():
        batches = Interrupted(batches, lambda: os._exit(9))
    if options.signal == jax.process_index():
        batches = Interrupted(batches, lambda: os.kill(os.getpid(), signal.SIGTERM))

    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), "int32")
    method = lora.LoRA(rank=4)
    lifted = lora.lift(
        base.apply, base.params, ids, ids, ids, method=method, targets=("q_proj", "fc2")
    )
    key = jax.random.key(0)
    init = lambda base, key: init_variables(base, lifted, 3, key)
    variables = training.place(mesh, base, init, key, lifted.sites)
    labels = training.label(variables, training.LORA)
    optimizer = training.make_optimizer({"learning_rate": 1e-2}, labels, 6)
    state, frozen, shardings = training.place_state(mesh, variables, labels, optimizer, key)
    outputs = make_outputs(base, lifted, "mean")
    scores = training.on_mesh(mesh, outputs)
    whole = {name: values[:ROWS] for name, values in data.items()}
    training.train(
        training.make_step(partial(loss, outputs), optimizer, shardings),
        state,
        frozen,
        batches,
        steps=options.steps,
        workdir=options.workdir,
        identity=training.describe_run(base=hub.hash_params(base.params)),
        evaluate=lambda variables: {"mean": float(np.asarray(scores(variables, whole)).mean())},
        batch_sharding=shardings.batch,
        console=Console(file=io.StringIO()),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=100)
    for flag in ("--lacks-data", "--dies", "--signal"):
        parser.add_argument(flag, type=int)
    try:
        run(parser.parse_args())
    except training.TogetherError as error:
        sys.exit(f"{error}")
