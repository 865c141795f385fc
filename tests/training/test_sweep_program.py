"""Sweeps as programs: what is compiled and held, and what a member cannot do to others."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import models, training
from lora_jax.data import Task
from lora_jax.data.loader import training_batches
from lora_jax.evaluation import find_metric
from lora_jax.lifting import path_name
from lora_jax.training.classifier import score_members
from lora_jax.training.sweep_train import JointBatches
from tests.training import sweeping
from tests.training.sweeping import member

STEPS = 12

pytestmark = pytest.mark.slow


def near(x, y):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def assert_same_runs(runs, others):
    for name, run in runs.items():
        for ours, theirs in zip(run.rows, others[name].rows, strict=True):
            for field in ("loss", "grad_norm"):
                np.testing.assert_allclose(ours[field], theirs[field], rtol=1e-5)
        jax.tree.map(near, run.variables, others[name].variables)


def assert_is_solo(run, rules=None):
    rows, variables = sweeping.train_alone(run.member, STEPS, rules)
    near([row["loss"] for row in run.rows], [row["loss"] for row in rows])
    jax.tree.map(near, run.variables, variables)


def by_seed(count, targets=("q_proj", "fc1"), **fields):
    ranks = (1, 2, 3, 4)
    return [
        member(f"{i}", targets, seed=i, method=lora.LoRA(ranks[i % 4], 4), **fields)
        for i in range(count)
    ]


FAMILIES = {
    "DoRA": [
        member("q", ("q_proj",), method=lora.DoRA(2, 4)),
        member("others", ("fc1", "o_proj"), method=lora.DoRA(3, 4), seed=1),
    ],
    "IA3": [
        member("fc1", ("fc1",), method=lora.IA3()),
        member("fc1 and q", ("fc1", "q_proj"), method=lora.IA3(), seed=1),
    ],
}


@pytest.mark.parametrize("members", FAMILIES.values(), ids=FAMILIES)
def test_members_of_other_methods_are_their_solo_runs(members):
    for run in sweeping.train_together(members, STEPS).runs.values():
        assert_is_solo(run)


def test_full_fine_tuning_of_every_member_is_its_solo_run():
    members = [member("slow", ()), member("fast", (), seed=1, learning_rate=0.004)]
    for run in sweeping.train_together(members, STEPS, rules=training.FULL).runs.values():
        assert_is_solo(run, training.FULL)


def test_other_members_run_in_the_program_of_the_first_without_compiling():
    traces = []

    def loss(lifted):
        one = sweeping.loss(lifted)

        def loss_fn(*args):
            traces.append(args)
            return one(*args)

        return loss_fn

    first = [member("q"), member("fc1", ("fc1",), seed=1)]
    others = [
        member("wider", ("q_proj", "fc1"), method=lora.LoRA(5, 16), seed=2),
        member("narrow", ("fc1",), method=lora.LoRA(1, 8, rs=True), learning_rate=0.005),
    ]
    sweep = sweeping.sweep(first, STEPS, loss=loss, ranks={"q_proj": 5, "fc1": 5})
    for members in (first, others):
        options = {"members": members, "console": sweeping.QUIET}
        result = training.train_sweep(sweep, sweeping.data, **options)
        for run in result.runs.values():
            assert_is_solo(run)
    assert len(traces) == 1


def compiled(count):
    sweep = sweeping.sweep(by_seed(count, data_seed=0), STEPS, chunk=0)
    state, frozen = sweep.start()
    batch = jax.tree.map(lambda x: x[None], next(sweeping.data(sweep.members[0])))
    return sweep.step.lower(state, frozen, batch).compile(), (state, frozen, batch)


def test_the_base_is_there_once_and_all_else_grows_with_the_members():
    few, (state, frozen, batch) = compiled(4)
    many, (more, _, _) = compiled(8)
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    memory = [program.memory_analysis() for program in (few, many)]
    own = frozen["sweep"], jax.tree.map(lambda x: x, frozen["adapter"])
    grown = memory[1].argument_size_in_bytes - memory[0].argument_size_in_bytes
    assert grown == pytest.approx(size(more) - size(state) + size(own), rel=0.1)
    temporary = [one.temp_size_in_bytes for one in memory]
    assert temporary[1] < 2.2 * temporary[0]
    for count, program in ((4, few), (8, many)):
        text = program.as_text()
        for kernel in jax.tree.leaves(sweeping.PARAMS):
            for shape in (kernel.shape, kernel.shape[1:]):
                assert f"f32[{','.join(map(str, (count, *shape)))}]" not in text
    assert jax.tree.leaves(batch)[0].shape[0] == 1


def test_padding_stays_exactly_zero():
    members = [
        member("q", method=lora.LoRA(1, 4)),
        member("fc", ("fc1", "fc2"), method=lora.LoRA(4, 8), seed=1),
        member("two", (), "shapes"),
    ]
    sweep = sweeping.sweep(members, STEPS)
    state, frozen = sweep.start()
    batches = [sweeping.data(m) for m in members]
    for _ in range(STEPS):
        rows = [next(b) for b in batches]
        state, _ = sweep.step(state, frozen, jax.tree.map(lambda *x: np.stack(x), *rows))
    checked = 0
    for i, solo in enumerate(sweep.solo()):
        own = {path_name(p): x.shape for p, x in jax.tree.leaves_with_path(solo.shapes)}
        for path, x in jax.tree.leaves_with_path(state.trainable):
            whole = np.array(x[i])
            if path_name(path) in own:
                whole[tuple(map(slice, own[path_name(path)]))] = 0
            np.testing.assert_array_equal(whole, 0)
            checked += whole.size
    assert checked


def test_a_member_that_diverges_stops_at_the_step_at_which_it_does_alone_and_the_others_go_on():
    wild = member("wild", ("fc1",), learning_rate=1e30, seed=1)
    result = sweeping.train_together([member("calm"), wild, member("head", ())], STEPS)
    with pytest.raises(FloatingPointError) as alone:
        sweeping.train_alone(wild, STEPS)
    step = result.diverged["wild"]
    assert f"at step {step} " in str(alone.value)
    assert set(result.diverged) == {"wild"}
    assert [row["step"] for row in result.runs["wild"].rows] == list(range(1, step + 1))
    assert np.isnan(result.losses[1, step:]).all()
    assert np.isfinite(result.losses[[0, 2]]).all()
    assert result.rows[-1]["members"] == 2
    for name in ("calm", "head"):
        assert_is_solo(result.runs[name])


@pytest.fixture(scope="module")
def whole():
    return sweeping.train_together(by_seed(4), STEPS, chunk=0)


@pytest.mark.parametrize("options", [{}, {"chunk": 3}], ids=str)
def test_members_a_chunk_at_a_time_are_the_same_runs(options, whole):
    assert_same_runs(sweeping.train_together(by_seed(4), STEPS, **options).runs, whole.runs)


@pytest.mark.parametrize(("devices", "chunk"), [(4, 0), (2, 1)])
def test_members_on_the_devices_of_a_mesh_are_the_same_runs(devices, chunk, whole):
    members = by_seed(4)
    mesh = training.make_mesh({"data": devices, "fsdp": 2, "tensor": 4 // devices})
    sweep = sweeping.sweep(members, STEPS, mesh=mesh, chunk=chunk)
    state, frozen = sweep.start()
    for x in jax.tree.leaves((state.trainable, state.opt_state, frozen["sweep"])):
        assert {shard.data.shape[0] for shard in x.addressable_shards} == {4 // devices}
    for x in jax.tree.leaves(frozen["params"]):
        assert x.sharding.is_fully_replicated
    options = {"console": sweeping.QUIET}
    result = training.train_sweep(sweep, sweeping.data, **options)
    assert_same_runs(result.runs, whole.runs)


@pytest.mark.parametrize("chunk", [0, 1])
def test_devices_of_a_mesh_send_each_other_the_numbers_that_are_reported_alone(chunk):
    mesh = training.make_mesh({"data": 4}, devices=jax.devices()[:4])
    sweep = sweeping.sweep(by_seed(8), STEPS, mesh=mesh, chunk=chunk)
    state, frozen = sweep.start()
    batches = JointBatches(sweep.members, sweeping.data)
    batch = jax.device_put(next(batches), sweep.shardings.batch)
    text = sweep.step.lower(state, frozen, batch).compile().as_text()
    sends = re.findall(r"= (\S+) (all-gather|all-reduce|all-to-all|collective-permute)\(", text)
    assert sends
    assert {kind for _, kind in sends} <= {"all-gather", "all-reduce"}
    arrays = [sizes for shape, _ in sends for sizes in re.findall(r"\[([\d,]+)\]", shape)]
    for sizes in arrays:  # a number of each member, and not its factors
        assert math.prod(map(int, sizes.split(","))) <= 8


def test_a_mesh_of_members_trains_a_model_that_keeps_its_rows_split():
    config = models.DecoderConfig(
        vocab_size=16, dim=8, layers=2, heads=2, kv_heads=2, head_dim=4, ff_dim=8, max_length=8
    )
    model = models.build(config)
    params = models.init(config, jax.random.key(0))
    ids = jax.random.randint(jax.random.key(1), (4, 8), 0, 16)

    def init(member, lifted, key):
        return {"params": params, "adapter": lifted.init(key, params)}

    def loss(lifted):
        def of(variables, batch, key):
            logits = lifted(variables["params"], variables["adapter"], batch["ids"])
            return jnp.square(logits).mean(), {}

        return of

    def losses(**options):
        members = by_seed(4, targets=("q_proj", "up_proj"))
        sweep = training.make_sweep(
            model.apply, params, ids, members=members, steps=3, init=init, loss=loss, **options
        )
        data = lambda member: training_batches({"ids": np.asarray(ids)}, 4, seed=member.seed)
        return training.train_sweep(sweep, data, console=sweeping.QUIET).losses

    mesh = training.make_mesh({"data": 2, "fsdp": 2}, devices=jax.devices()[:4])
    np.testing.assert_allclose(losses(mesh=mesh), losses(), rtol=1e-5)


@pytest.mark.parametrize("chunk", [0, 1])
def test_some_members_of_a_mesh_are_scored_whatever_their_number(chunk):
    members = by_seed(4)
    batch = {k: v[:6] for k, v in sweeping.examples("colours").items()}

    def score(**options):
        sweep = sweeping.sweep(members, STEPS, **options)
        state, frozen = sweep.start()
        outputs = sweep.outputs(lambda v, batch: sweeping.logits(sweep.lifted, v, batch))
        return np.asarray(
            outputs(training.join(state.trainable, frozen), batch, np.array([0, 2, 3]))
        )

    mesh = training.make_mesh({"data": 4}, devices=jax.devices()[:4])
    near(score(mesh=mesh, chunk=chunk), score(chunk=0))


class Killed(Exception):
    pass


class Mortal:
    """Batches that end the run after some steps."""

    def __init__(self, batches, life):
        self._batches, self._life = batches, life

    def __next__(self):
        self._life -= 1
        if self._life < 0:
            raise Killed
        return next(self._batches)

    def __getattr__(self, name):
        return getattr(self._batches, name)


def test_a_resumed_sweep_ends_with_the_same_bits(tmp_path):
    sweep = sweeping.sweep(by_seed(3), 8)
    options = {"checkpoint_every": 2, "console": sweeping.QUIET}
    whole = training.train_sweep(sweep, sweeping.data, workdir=tmp_path / "whole", **options)
    mortal = lambda m: Mortal(sweeping.data(m), 5)
    with pytest.raises(Killed):
        training.train_sweep(sweep, mortal, workdir=tmp_path / "killed", **options)
    again = training.train_sweep(sweep, sweeping.data, workdir=tmp_path / "killed", **options)
    for name, run in whole.runs.items():
        assert run.rows == again.runs[name].rows
        jax.tree.map(np.testing.assert_array_equal, run.variables, again.runs[name].variables)
    options |= {"members": [*sweep.members[:2], member("other", seed=9)]}
    with pytest.raises(ValueError, match=r"another run.*members"):
        training.train_sweep(sweep, sweeping.data, workdir=tmp_path / "killed", **options)


def test_members_are_scored_together_on_their_own_tasks():
    members = [
        member("colours"),
        member("shapes", ("fc1",), "shapes", seed=1),
        member("more colours", ("o_proj",), seed=2),
    ]
    tasks = {
        name: Task(name, "", tuple(map(str, range(classes))), (), (), "accuracy")
        for name, classes in sweeping.CLASSES.items()
    }
    sets = {name: sweeping.examples(name) for name in tasks}
    sweep = sweeping.sweep(members, STEPS)
    outputs = sweep.outputs(lambda v, batch: sweeping.logits(sweep.lifted, v, batch))
    evaluate = lambda variables: score_members(outputs, members, tasks, sets, 16, variables)
    options = {"evaluate": evaluate, "evaluate_every": 6, "console": sweeping.QUIET}
    result = training.train_sweep(sweep, sweeping.data, **options)
    for run in result.runs.values():
        rows = [row for row in run.rows if "eval/accuracy" in row]
        assert [row["step"] for row in rows] == [6, 12]
        examples = sets[run.member.task]
        found = sweeping.logits(run.lifted, run.variables, {"x": jnp.asarray(examples["x"])})
        expected = find_metric("accuracy")(np.asarray(found).argmax(-1), examples["label"])
        assert rows[-1]["eval/accuracy"] == pytest.approx(expected)
