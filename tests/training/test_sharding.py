import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK
from jax.sharding import PartitionSpec as P

import lora_jax as lora
from lora_jax import training
from lora_jax.lifting import path_name
from lora_jax.training import make_mesh, variable_shardings

LAYERS, DIM, WIDE, RANK, BATCH = 2, 16, 32, 2, 8

RULES = [
    (r"params/layers/up/kernel", P(None, "fsdp", "tensor")),
    (r"params/layers/down/kernel", P(None, "tensor", "fsdp")),
    (r"params/out", P("fsdp", None)),
]


def model(params, x):
    def layer(x, weights):
        hidden = jax.nn.relu(x @ weights["up"]["kernel"])
        return x + hidden @ weights["down"]["kernel"], None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    return x @ params["out"]


def params():
    up, down, out = jax.random.split(jax.random.key(0), 3)
    return {
        "layers": {
            "up": {"kernel": jax.random.normal(up, (LAYERS, DIM, WIDE)) / DIM**0.5},
            "down": {"kernel": jax.random.normal(down, (LAYERS, WIDE, DIM)) / WIDE**0.5},
        },
        "out": jax.random.normal(out, (DIM, 3)),
    }


def batch(step):
    rng = np.random.default_rng(step)
    x = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    return {"x": x, "y": x[:, :3]}


def lift():
    method = lora.LoRA(rank=RANK, alpha=8)
    return lora.lift(model, params(), jnp.ones((BATCH, DIM)), method=method, targets=("up", "down"))


def variables(lifted):
    return {"params": params(), "adapter": lifted.init(jax.random.key(1), params())}


def train(mesh=None, steps=20, **config):
    """Trains the lifted model, and returns its losses, its state and its shardings."""
    lifted = lift()

    def loss_fn(variables, batch, key):
        y = lifted(variables["params"], variables["adapter"], batch["x"])
        return jnp.mean((y - batch["y"]) ** 2), {}

    tree = variables(lifted)
    labels = training.label(tree, [("adapter/.*", "adapter"), ("params/.*", None)])
    config = {"learning_rate": 1e-2, "warmup": 0, **config}
    optimizer = training.make_optimizer(config, labels, steps)
    shardings = None
    if mesh:
        placed = variable_shardings(mesh, tree, RULES, lifted.sites)
        tree = jax.device_put(tree, placed)
    state, frozen = training.init_state(tree, labels, optimizer, jax.random.key(2))
    if mesh:
        shardings = training.step_shardings(mesh, placed, labels, optimizer, state)
        state = jax.device_put(state, shardings.state)
    batches = [jax.device_put(batch(n), shardings and shardings.batch) for n in range(steps)]
    step, losses = training.make_step(loss_fn, optimizer, shardings), []
    step = step.lower(state, frozen, batches[0]).compile(QUICK)
    for now in batches:
        state, metrics = step(state, frozen, now)
        losses.append(float(metrics["loss"]))
    return losses, state, shardings


def test_the_mesh_takes_all_devices_on_its_data_axis_unless_told():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh({"data": -1, "tensor": 4}).shape) == {"data": 2, "fsdp": 1, "tensor": 4}
    assert dict(make_mesh({"data": 1}, jax.devices()[:1]).shape)["data"] == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": 3}, r"mesh data=3 x fsdp=1 x tensor=1 needs 3 devices and there are 8; "),
        ({"data": -1, "fsdp": 3}, r"a multiple of 3 devices and there are 8; .*: 1, 2, 4, 8"),
        ({"data": -1, "fsdp": -1}, "one of them may be -1"),
        ({"data": 0}, "sizes are positive"),
        ({"model": 8}, r"mesh.model: no such axis; the axes are data, fsdp, tensor"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(config)


def test_factors_take_the_sharding_of_the_weight_axes_they_carry():
    lifted = lift()
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    placed = variable_shardings(mesh, variables(lifted), RULES, lifted.sites)
    up, down = (placed["adapter"][f"layers/{name}/kernel"] for name in ("up", "down"))
    assert up["a"].spec == P(None, "fsdp", None)
    assert up["b"].spec == P(None, None, "tensor")
    assert down["a"].spec == P(None, "tensor", None)
    assert down["b"].spec == P(None, None, "fsdp")
    assert placed["params"]["out"].spec == P("fsdp", None)


A, B = P(None, "fsdp", None), P(None, None, "tensor")
LORA, REBASED = {"a": A, "b": B}, {"a": A, "b": B, "a0": A, "b0": B}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (lora.LoRA(rank=2), LORA),
        (lora.LoRA(ranks=(2, 1)), LORA),
        (lora.LoRAFA(rank=2), LORA),
        (lora.HiRA(rank=2), LORA),
        (lora.PiSSA(rank=2), REBASED),
        (lora.OLoRA(rank=2), REBASED),
        (lora.DoRA(rank=2), {**LORA, "m": P(None, "tensor")}),
        (lora.AdaLoRA(rank=2), {**LORA, "e": P(None, None)}),
        (lora.LoHa(rank=2), {"a1": A, "b1": B, "a2": A, "b2": B}),
        (
            lora.VeRA(rank=7),
            {
                "a": P("fsdp", None),
                "b": P(None, "tensor"),
                "d": P(None, None),
                "g": P(None, "tensor"),
            },
        ),
        (lora.IA3(), {"l": P(None, "tensor")}),
        (lora.IA3(feedforward=True), {"l": P(None, "fsdp")}),
        (lora.MiSS(rank=4), {"b": B}),
        (lora.Full(), {"d": P(None, "fsdp", "tensor")}),
        # Blocks, and Kronecker factors, hold parts of the weight's axes.
        (lora.GraLoRA(rank=4, k=2), {"a": P(*[None] * 4), "b": P(*[None] * 4)}),
        (lora.LoKr(rank=2), {"w1": P(*[None] * 3), "w2_a": P(*[None] * 3)}),
    ],
    ids=lambda value: str(value) if not isinstance(value, dict) else "",
)
def test_the_arrays_of_every_method_follow_the_axes_of_the_weight_that_they_carry(method, expected):
    lifted = lora.lift(model, params(), jnp.ones((BATCH, DIM)), method=method, targets=("up",))
    (site,) = lifted.sites
    variables = {"params": params(), "adapter": {site.path: dict(site.arrays)}}
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    placed = variable_shardings(mesh, variables, RULES, lifted.sites)["adapter"][site.path]
    for name, spec in expected.items():
        assert placed[name].spec == spec, name


def test_an_array_that_no_rule_matches_is_on_every_device():
    lifted = lift()
    placed = variable_shardings(make_mesh(), variables(lifted), [], lifted.sites)
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(placed))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("params/outt", P())], r"sharding rule 'params/outt' matches nothing"),
        ([("params/out", P(None, None, "fsdp"))], r"params/out has shape \(16, 3\): too few axes"),
        (
            [("params/out", P(None, ("fsdp", "tensor")))],
            r"params/out has shape \(16, 3\): axis 1 does not divide by mesh fsdp x tensor = 8; "
            r"of 8 devices these would fit: 1, 3",
        ),
    ],
)
def test_rules_that_do_not_fit_the_arrays_are_refused(rules, message):
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    with pytest.raises(ValueError, match=message):
        variable_shardings(mesh, variables(lift()), rules)


MUON = {"name": "muon", "options": {"consistent_rms": 0.2}}
ADAFACTOR = {"name": "adafactor", "options": {"min_dim_size_to_factor": 2}, "ema": 0.9}


# Muon looks at whole matrices, and Adafactor at their rows and columns, wherever their parts lie.
@pytest.mark.parametrize("optimizer", [MUON, ADAFACTOR], ids=["muon", "adafactor"])
def test_rules_that_look_at_whole_arrays_make_on_a_mesh_the_numbers_of_one_device(optimizer):
    alone, _, _ = train(**optimizer)
    losses, state, shardings = train(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), **optimizer)
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
    assert losses[-1] < losses[0]
    moments = jax.tree.leaves_with_path(state.opt_state)
    wanted = jax.tree.leaves(shardings.state.opt_state)
    for (_, x), where in zip(moments, wanted, strict=True):
        assert x.sharding.is_equivalent_to(where, x.ndim)
    # What has the shape of a factor lies where it does: Muon's moment, and the average. Sums over
    # rows and columns are small, and whole on every device.
    factors = jax.tree.leaves(state.trainable)
    like = [x for _, x in moments if x.ndim == 3]
    assert [x.sharding for x in like] == [x.sharding for x in factors]
    sums = [x for path, x in moments if "v_row" in path_name(path) and x.ndim == 2]
    assert all(x.sharding.is_fully_replicated for x in sums)
    assert len(sums) == (4 if optimizer is ADAFACTOR else 0)


def test_moments_live_where_their_factors_do():
    _, state, _ = train(make_mesh({"data": 1, "fsdp": 4, "tensor": 2}), steps=1)
    up = state.trainable["adapter"]["layers/up/kernel"]
    assert up["a"].addressable_shards[0].data.shape == (LAYERS, DIM // 4, RANK)
    shards = [x.addressable_shards[0].data.shape for x in jax.tree.leaves(state.opt_state)]
    assert shards.count((LAYERS, DIM // 4, RANK)) == 2


def test_a_sharded_state_is_restored_into_its_shardings(tmp_path):
    _, state, _ = train(make_mesh({"data": 1, "fsdp": 4, "tensor": 2}), steps=2)

    class Nothing:
        def __next__(self):
            return None

        def get_state(self):
            return None

        def set_state(self, state):
            assert state is None

    with training.Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(state, Nothing())
        restored = checkpoints.restore(state, Nothing())
    for x, y in zip(
        jax.tree.leaves(restored.trainable), jax.tree.leaves(state.trainable), strict=True
    ):
        np.testing.assert_array_equal(x, y)
        assert x.sharding == y.sharding
