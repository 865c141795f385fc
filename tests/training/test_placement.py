"""A run on a mesh: everything in its place, and the numbers of one device."""

import functools
import itertools
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import lora_jax as lora
from lora_jax import hub, training
from lora_jax.data.packing import pack, pad
from lora_jax.lifting import path_name
from lora_jax.training import classifier, language_model
from tests.lifting import programs

FIXTURES = Path(__file__).parent.parent / "fixtures"
STEPS, ROWS, LENGTH, VOCABULARY = 20, 16, 12, 40
TARGETS = ("q_proj", "o_proj", "fc2")
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 1, "tensor": 8},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}
# Nearly all of the time of a tiny model is its compilation.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def texts(rng, count):
    """Examples of 2 to 6 tokens, of which the first is given and the others are learnt."""
    for length in rng.integers(2, 7, count):
        ids = rng.integers(5, VOCABULARY, length).astype(np.int32)
        yield {"ids": ids, "trained": (np.arange(length) > 0).astype(np.int32)}


def classified(rng):
    ids = rng.integers(5, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
    mask = (np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (ROWS, 1))).astype(np.int32)
    return {"ids": ids * mask, "mask": mask, "type_ids": 0 * mask, "label": ids[:, 0] % 3}


def padded(rng):
    return pad(list(texts(rng, ROWS)), LENGTH)


def packed(rng):
    rows = pack(list(texts(rng, 5 * ROWS)), LENGTH)
    return {name: values[:ROWS] for name, values in rows.items()}


def encoder(base):
    """What trains of BERT with a new head, and its loss."""
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), "int32")
    lifted = lora.lift(
        base.apply, base.params, ids, ids, ids, method=lora.LoRA(rank=4), targets=TARGETS
    )
    init = lambda base, key: classifier.init_variables(base, lifted, 3, key)
    outputs = classifier.make_outputs(base, lifted, "mean")
    return lifted, init, partial(classifier.loss, outputs), training.LORA


def decoder(base):
    """What trains of a decoder, and its loss."""
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), "int32")
    lifted = lora.lift(base.apply, base.params, ids, method=lora.LoRA(rank=4), targets=TARGETS)
    init = lambda base, key: language_model.init_variables(base, lifted, key)
    outputs = language_model.make_outputs(base, lifted)
    rules = [("adapter/.*", "adapter"), ("params/.*", None)]
    return lifted, init, partial(language_model.loss, outputs), rules


def start(name, config, devices=8, micro_batches=1, **options):
    """A run that is ready: its step, its arguments and what it knows of its model."""
    mesh = training.make_mesh(config, jax.devices()[:devices])
    base = hub.load_model(FIXTURES / name, mesh=mesh, **options)
    lifted, init, loss, rules = encoder(base) if name == "bert" else decoder(base)
    key = jax.random.key(0)
    variables = training.place(mesh, base, init, key, lifted.sites)
    labels = training.label(variables, rules)
    optimizer = training.make_optimizer({"learning_rate": 1e-2, "warmup": 2}, labels, STEPS)
    state, frozen, shardings = training.place_state(mesh, variables, labels, optimizer, key)
    step = training.make_step(loss, optimizer, shardings, micro_batches)
    return step, state, frozen, shardings


def train(name, make_batch, config, devices=8, **options):
    """The losses of a run."""
    step, state, frozen, shardings = start(name, config, devices, **options)
    rng = np.random.default_rng(0)
    batches = [training.place_batch(make_batch(rng), shardings.batch) for _ in range(STEPS)]
    step = step.lower(state, frozen, batches[0]).compile(QUICK)
    losses = []
    for batch in batches:
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    return losses


@functools.cache
def alone(name, make_batch, quantize=None):
    """The losses of one device."""
    losses = train(name, make_batch, None, 1, quantize=quantize and dict(quantize))
    assert len(set(losses)) == STEPS
    return losses


def settings():
    """Eight of the 64 combinations of a mesh and four settings: an orthogonal array.

    With x, y and z of 0 and 1 the mesh is number 2x + y, and the settings are z, x + z, y + z and
    x + y + z modulo 2. So any two of the five columns hold every pair of their values, and packing,
    accumulation and remat all eight combinations.
    """
    for x, y, z in itertools.product((0, 1), repeat=3):
        yield {
            "mesh": list(MESHES)[2 * x + y],
            "make_batch": (padded, packed)[z],
            "micro_batches": (1, 2)[(x + z) % 2],
            "remat": ("none", "full")[(y + z) % 2],
            "scan": (True, False)[(x + y + z) % 2],
        }


def test_the_settings_that_are_tried_hold_every_pair_and_all_of_three():
    tried = list(settings())
    for pair in itertools.combinations(tried[0], 2):
        values = [{one[name] for one in tried} for name in pair]
        assert {tuple(one[name] for name in pair) for one in tried} == set(
            itertools.product(*values)
        )
    three = ("make_batch", "micro_batches", "remat")
    assert len({tuple(one[name] for name in three) for one in tried}) == 8
    assert {one["mesh"] for one in tried} == MESHES.keys()


@pytest.mark.parametrize(
    "options",
    list(settings()),
    ids=lambda o: "-".join(getattr(x, "__name__", str(x)) for x in o.values()),
)
def test_mesh_packing_accumulation_remat_and_scan_change_no_loss(options):
    options = dict(options)
    mesh, make_batch = options.pop("mesh"), options.pop("make_batch")
    losses = train("llama", make_batch, MESHES[mesh], **options)
    np.testing.assert_allclose(losses, alone("llama", make_batch), rtol=1e-5)


def test_nor_does_a_mesh_change_those_of_an_encoder():
    losses = train("bert", classified, MESHES["mixed"])
    np.testing.assert_allclose(losses, alone("bert", classified), rtol=1e-5)


def test_experts_are_split_and_train_as_on_one_device():
    losses = train("mixtral", packed, MESHES["mixed"])
    np.testing.assert_allclose(losses, alone("mixtral", packed), rtol=1e-5)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_is_split_and_trains_as_on_one_device(kind):
    quantize = {"kind": kind, "block": 8}
    losses = train("llama", packed, MESHES["mixed"], quantize=quantize)
    expected = alone("llama", packed, tuple(quantize.items()))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    _, _, frozen, _ = start("llama", MESHES["mixed"], quantize=quantize)
    codes = frozen["params"]["layers"]["q_proj"]["kernel"].codes
    assert codes.sharding.spec == P(None, "fsdp", "tensor")
    assert codes.addressable_shards[0].data.size == codes.size // 4


def test_weights_factors_and_moments_are_where_the_rules_say():
    _, state, frozen, _ = start("bert", MESHES["mixed"])
    layers = frozen["params"]["layers"]
    assert layers["q_proj"]["kernel"].sharding.spec == P(None, "fsdp", "tensor")
    assert layers["o_proj"]["kernel"].sharding.spec == P(None, "tensor", "fsdp")
    expected = {
        "layers/q_proj/kernel": {"a": P(None, "fsdp", None), "b": P(None, None, "tensor")},
        "layers/o_proj/kernel": {"a": P(None, "tensor", None), "b": P(None, None, "fsdp")},
    }
    moments = [(path_name(path), x) for path, x in jax.tree.leaves_with_path(state.opt_state)]
    for path, factors in expected.items():
        for name, spec in factors.items():
            assert state.trainable["adapter"][path][name].sharding.spec == spec, (path, name)
            own = [x for where, x in moments if where.endswith(f"adapter/{path}/{name}")]
            assert [x.sharding.spec for x in own] == [spec] * 2, (path, name)  # Adam has two


@pytest.mark.parametrize("mesh", ["fsdp", "tensor", "mixed"])
def test_no_whole_weight_is_sent_that_the_base_does_not_send(mesh):
    """Held against the base alone, differentiated down to its first norm."""
    mesh = training.make_mesh(MESHES[mesh])
    base = hub.load_model(FIXTURES / "bert", mesh=mesh)
    lifted, init, _, _ = encoder(base)
    variables = training.place(mesh, base, init, jax.random.key(0), lifted.sites)
    batch = training.place_batch(
        classified(np.random.default_rng(0)),
        jax.sharding.NamedSharding(mesh, P(("data", "fsdp"))),
    )

    def loss(outputs, variables):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return classifier.loss(outputs, variables, batch, jax.random.key(0))[0]

    alone = classifier.make_outputs(base, None, "mean")
    with_factors = classifier.make_outputs(base, lifted, "mean")

    def of_the_norm(norm, params):
        return loss(alone, {**variables, "params": {**params, "embed_norm": norm}})

    def of_the_factors(factors, params):
        return loss(with_factors, {**variables, "params": params, "adapter": factors})

    params = variables["params"]
    theirs, ours = (
        jax.jit(jax.grad(function)).lower(argument, params).compile(QUICK)
        for function, argument in (
            (of_the_norm, params["embed_norm"]),
            (of_the_factors, variables["adapter"]),
        )
    )
    extra = programs.communicated(ours) - programs.communicated(theirs)
    shapes = {site.shape for site in lifted.sites} | {site.shape[1:] for site in lifted.sites}
    whole = {f"f32[{','.join(map(str, shape))}]" for shape in shapes}
    assert programs.communicated(theirs).total() > 0
    assert not {array for _, array in extra} & whole


def test_outputs_of_an_evaluation_are_whole_and_those_of_one_device():
    batch = classified(np.random.default_rng(1))
    found = {}
    for devices, config in ((1, None), (8, MESHES["mixed"])):
        mesh = training.make_mesh(config, jax.devices()[:devices])
        base = hub.load_model(FIXTURES / "bert", mesh=mesh)
        lifted, init, _, _ = encoder(base)
        variables = training.place(mesh, base, init, jax.random.key(0), lifted.sites)
        outputs = training.on_mesh(mesh, classifier.make_outputs(base, lifted, "mean"))
        found[devices] = outputs(variables, batch)
        assert found[devices].sharding.is_fully_replicated
    np.testing.assert_allclose(found[8], found[1], rtol=1e-5, atol=1e-6)


def test_one_process_reads_all_rows():
    assert training.process_rows(training.make_mesh({"data": 8}), 16) == list(range(16))
    assert training.process_rows(training.make_mesh({"data": 1, "tensor": 8}), 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (12, r"batch_size = 12 does not divide by mesh data x fsdp = 8; 8 or 16 would"),
        (3, r"batch_size = 3 does not divide by mesh data x fsdp = 8; 8 would"),
        (0, r"batch_size = 0 does not divide by mesh data x fsdp = 8; 8 would"),
    ],
)
def test_a_batch_that_the_devices_cannot_share_is_refused(size, message):
    with pytest.raises(ValueError, match=message):
        training.process_rows(training.make_mesh({"data": 4, "fsdp": 2}), size)


@pytest.mark.parametrize(
    ("size", "parts", "message"),
    [
        (24, 2, r"batch_size = 24 does not divide by micro_batches x mesh .* = 16; 16 or 32 would"),
        (24, 0, "micro_batches = 0: at least 1"),
    ],
)
def test_nor_may_a_batch_have_parts_that_they_cannot_share(size, parts, message):
    with pytest.raises(ValueError, match=message):
        training.process_rows(training.make_mesh({"data": 4, "fsdp": 2}), size, parts)


def test_a_model_that_the_mesh_does_not_divide_is_refused_before_it_is_read():
    mesh = training.make_mesh({"data": 1, "tensor": 3}, jax.devices()[:3])
    with pytest.raises(
        ValueError,
        match=r"params/embed/embedding has shape \(40, 16\): axis 0 does not divide by mesh "
        r"tensor = 3; of 3 devices these would fit: 1, 2",
    ):
        hub.load_model(FIXTURES / "llama", mesh=mesh)


def test_a_model_takes_a_mesh_or_shardings_of_its_own():
    with pytest.raises(ValueError, match="a mesh, or the sharding of each parameter, not both"):
        hub.load_model(
            FIXTURES / "llama", mesh=training.make_mesh(), sharding=lambda path, shape: None
        )
