import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import training
from lora_jax.training import Checkpoints
from tests.training import toy

ROOT = pathlib.Path(__file__).parent.parent.parent


def trained(steps, iterator):
    step, state, frozen = toy.build(10)
    for _ in range(steps):
        state, _ = step(state, frozen, jax.device_put(next(iterator)))
    return state


def save(directory, steps=3, **identity):
    iterator = toy.data()
    state = trained(steps, iterator)
    with Checkpoints(directory, identity or toy.identity()) as checkpoints:
        checkpoints.save(state, iterator)
    return state, iterator


def restore(directory, identity, rank=2):
    with Checkpoints(directory, identity) as checkpoints:
        return checkpoints.restore(toy.build(10, rank=rank)[1], toy.data())


def assert_same_bits(found, expected):
    found, expected = toy.arrays(found), toy.arrays(expected)
    assert found.keys() == expected.keys()
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
        assert found[path].dtype == x.dtype


def test_what_is_restored_is_what_was_saved(tmp_path):
    state, iterator = save(tmp_path)
    fresh = toy.data()
    with Checkpoints(tmp_path, toy.identity()) as checkpoints:
        assert checkpoints.latest() == 3
        restored = checkpoints.restore(toy.build(10)[1], fresh)
    assert_same_bits(restored, state)
    jax.tree.map(np.testing.assert_array_equal, next(fresh), next(iterator))


def test_saving_is_not_disturbed_by_the_steps_after_it(tmp_path):
    """The step donates the buffers that are being written."""
    state = training.TrainState(
        jnp.zeros((), jnp.int32),
        {"w": jax.random.normal(jax.random.key(0), (1 << 20,))},
        (),
        jax.random.key(1),
    )
    expected = np.array(state.trainable["w"])
    update = jax.jit(
        lambda s: s._replace(step=s.step + 1, trainable={"w": s.trainable["w"] * 2}),
        donate_argnums=0,
    )
    iterator = toy.data()
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(state, iterator)
        for _ in range(10):
            state = update(state)
        checkpoints.wait()
        restored = checkpoints.restore(state, iterator)
    np.testing.assert_array_equal(restored.trainable["w"], expected)


def test_the_oldest_checkpoints_go_first(tmp_path):
    step, state, frozen = toy.build(10)
    iterator = toy.data()
    with Checkpoints(tmp_path, {}, keep=2) as checkpoints:
        for _ in range(4):
            state, _ = step(state, frozen, jax.device_put(next(iterator)))
            checkpoints.save(state, iterator)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_base_weights_are_never_written(tmp_path):
    """A base of 4 MiB beside an adapter of 24 KiB: no file, and no name, tells of the base."""
    tree = {
        "params": {"kernel": jax.random.normal(jax.random.key(0), (1024, 1024))},
        "adapter": {"kernel": {"a": jnp.ones((1024, 1)), "b": jnp.ones((1, 1024))}},
    }
    labels = training.label(tree, [("adapter/.*", "adapter"), ("params/.*", None)])
    optimizer = training.make_optimizer({}, labels, 10)
    state, _ = training.init_state(tree, labels, optimizer, jax.random.key(0))
    with Checkpoints(tmp_path, toy.identity()) as checkpoints:
        checkpoints.save(state, toy.data())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 256 * 1024
    described = json.loads((tmp_path / "0" / "metadata" / "metadata").read_text())
    assert not any("params" in name for name in described["state"])
    assert (
        sum("adapter/kernel/" in name for name in described["state"]) == 6
    )  # factors and two moments


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (toy.identity(rank=4), r"method.rank: found 2, asked for 4"),
        (toy.identity(alpha=8.0), r"method.alpha: found 4.0, asked for 8.0"),
        (toy.identity(base="xyz"), r"base: found abc, asked for xyz"),
        ({**toy.identity(), "targets": ["q"]}, r"targets: found \['layer/kernel'\], asked for"),
        ({**toy.identity(), "method": None}, r"method.name: found LoRA, asked for nothing"),
        ({**toy.identity(), "seed": 1}, r"seed: found nothing, asked for 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_the_field_named(tmp_path, asked, message):
    save(tmp_path)
    with pytest.raises(ValueError, match=message):
        restore(tmp_path, asked, rank=asked["method"]["rank"] if asked["method"] else 2)


def test_arrays_of_another_shape_are_refused_by_name(tmp_path):
    save(tmp_path)
    message = r"state.trainable/adapter/layer/kernel/a: found float32\[5, 2\], asked for .*\[5, 3\]"
    with pytest.raises(ValueError, match=message):
        restore(tmp_path, toy.identity(), rank=3)


def test_other_versions_are_no_obstacle(tmp_path):
    state, _ = save(tmp_path, **{**toy.identity(), "versions": {"jax": "0.1"}})
    assert_same_bits(restore(tmp_path, toy.identity()), state)


def test_what_a_killed_run_left_half_written_is_ignored_and_removed(tmp_path):
    state, _ = save(tmp_path)
    half = tmp_path / "5.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    assert_same_bits(restore(tmp_path, toy.identity()), state)
    assert not half.exists()


# Reads that TensorStore has begun beside the one that fails have nobody to tell when they end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "part", ["state", "data", "metadata", "state/_METADATA", "state/manifest.ocdbt", "state/d"]
)
def test_a_damaged_checkpoint_is_named_with_the_one_to_resume_from_without_it(tmp_path, part):
    older, _ = save(tmp_path, steps=2)
    save(tmp_path, steps=3)
    path = tmp_path / "3" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(OSError, match=r"checkpoint 3 in .* Remove .*3 to resume from step 2"):
        restore(tmp_path, toy.identity())
    shutil.rmtree(tmp_path / "3")
    assert_same_bits(restore(tmp_path, toy.identity()), older)


def test_the_newest_checkpoint_is_that_of_the_last_step_whatever_the_clock_said(tmp_path):
    save(tmp_path, steps=2)
    newest, _ = save(tmp_path, steps=10)
    tomorrow = time.time() + 86_400
    for path in [tmp_path / "2", *(tmp_path / "2").rglob("*")]:
        os.utime(path, (tomorrow, tomorrow))
    for path in [tmp_path / "10", *(tmp_path / "10").rglob("*")]:
        os.utime(path, (0, 0))
    with Checkpoints(tmp_path, toy.identity()) as checkpoints:
        assert checkpoints.latest() == 10
    assert_same_bits(restore(tmp_path, toy.identity()), newest)


def test_checkpoints_of_later_steps_can_be_discarded(tmp_path):
    for steps in (2, 4, 6):
        save(tmp_path, steps=steps)
    with Checkpoints(tmp_path, toy.identity()) as checkpoints:
        checkpoints.discard_after(4)
        assert checkpoints.latest() == 4


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a disk of 1 MiB needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk):
    """Saves until the disk is full, and says what is left of it."""
    big = {"w": jax.random.normal(jax.random.key(0), (100_000,))}
    state = training.TrainState(jnp.asarray(1, jnp.int32), big, (), jax.random.key(1))
    iterator = toy.data()
    with Checkpoints(disk / "run", {}, keep=9) as checkpoints:
        checkpoints.save(state, iterator)
        checkpoints.wait()
        checkpoints.save(state._replace(step=jnp.asarray(2, jnp.int32)), iterator)
        checkpoints.wait()
        checkpoints.save(state._replace(step=jnp.asarray(3, jnp.int32)), iterator)
        with pytest.raises(OSError, match=r"MiB free.; the newest whole one is of step 2"):
            checkpoints.wait()
    assert sorted(path.name for path in (disk / "run").iterdir()) == ["1", "2"]
    with Checkpoints(disk / "run", {}) as checkpoints:
        assert_same_bits(
            checkpoints.restore(state, iterator), state._replace(step=jnp.asarray(2, jnp.int32))
        )


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint_and_no_half_one(small_disk):
    # In a process of its own: writes that were given up end when they like, and would disturb
    # whichever test runs by then.
    code = f"from tests.training.test_checkpoints import *; fill(pathlib.Path({str(small_disk)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
