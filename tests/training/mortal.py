"""A toy run that kills itself where it is told to, for tests of what is left of it.

python -m tests.training.mortal WORKDIR STEPS [PLACE:STEP]

PLACE is `data` (in the data loader), `step` (while the device computes it), `save` (while its
checkpoint is being written), `renamed` (as soon as that has its final name), `best` (as `save`, of
the best one), `sigterm` (a polite signal) or `full` (the disk fills up). Without any,
WORKDIR/final.npz holds the last state.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

from lora_jax import training
from tests.training import toy


def kill_now():
    os.kill(os.getpid(), signal.SIGKILL)


class MortalData:
    """The toy's data, each batch with the number of its step, until death strikes."""

    def __init__(self, place, step, workdir):
        self._iterator, self._place, self._step, self._workdir = toy.data(), place, step, workdir
        self.get_state, self.set_state = self._iterator.get_state, self._iterator.set_state

    def __next__(self):
        batch = next(self._iterator)
        number = self.get_state()["next_index"]
        if number == self._step:
            if self._place == "data":
                kill_now()  # it has moved on, and nobody will know
            elif self._place == "sigterm":
                os.kill(os.getpid(), signal.SIGTERM)
            elif self._place == "full":
                fill(self._workdir / "filler")
        if self._place in ("save", "best", "renamed") and number == self._step + 6:
            kill_now()  # the write was too fast to be caught
        return {**batch, "number": np.full(len(batch["x"]), number, np.int32)}


def fill(path):
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def loss_fn(last):
    """The toy's loss, computed by a device that takes the process with it in one step."""

    def strike(number):
        if int(number) == last:
            kill_now()

    def loss(variables, batch, key):
        jax.debug.callback(strike, batch["number"][0])
        return toy.loss_fn(variables, {"x": batch["x"], "y": batch["y"]}, key)

    return loss


def kill_when_there(directory, name):
    """Kills the process as soon as a file of that name is seen in the directory."""

    def look():
        while not any(directory.glob(name)):
            time.sleep(0)
        kill_now()

    threading.Thread(target=look, daemon=True).start()


def evaluate(variables):
    return {"scale": float(variables["head"]["scale"].sum())}


def main(workdir, steps, death=":0"):
    workdir, steps, (place, last) = Path(workdir), int(steps), death.split(":")
    half_written = f"{last}.orbax-checkpoint-tmp*"
    if place in ("save", "renamed"):
        name = half_written if place == "save" else last
        kill_when_there(workdir / "checkpoints", name)
    elif place == "best":
        kill_when_there(workdir / "best", half_written)
    loss = loss_fn(int(last) if place == "step" else 0)
    step, state, frozen = toy.build(steps, loss=loss, ema=0.9, spike=50.0)
    result = training.train(
        step,
        state,
        frozen,
        MortalData(place, int(last), workdir),
        steps=steps,
        workdir=workdir,
        identity=toy.identity(),
        evaluate=evaluate,
        evaluate_every=2,
        best=training.Best(metric="scale", mode="min"),
        checkpoint_every=3,
    )
    np.savez(workdir / "final.npz", **toy.arrays(result.state))


if __name__ == "__main__":
    main(*sys.argv[1:])
