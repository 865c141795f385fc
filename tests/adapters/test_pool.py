"""A pool of adapters: each row of a batch has its own, in one program that is compiled once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import models
from lora_jax.evaluation import BeamSearch, Sampling, generate
from tests.adapters.quick import quick
from tests.tiny_decoder import tiny_decoder

CONFIG = tiny_decoder()
APPLY = models.build(CONFIG).apply
PARAMS = jax.tree.map(lambda x: x * 4, models.init(CONFIG, jax.random.key(0)))
IDS = jnp.array([[7, 11, 30, 5], [9, 21, 3, 0], [33, 2, 0, 0], [4, 8, 15, 16]])
MASK = (IDS > 0).astype(jnp.int32)
DRAWN = Sampling(temperature=1.0, top_k=20)
SHAPES = jax.eval_shape(lambda: IDS[:1])


def lift(method, targets, apply=APPLY, params=PARAMS):
    return lora.lift(apply, params, SHAPES, SHAPES, method=method, targets=targets)


def random_adapter(seed, method, targets, **options):
    lifted = lift(method, targets, **options)

    def noisy(key):
        factors = lifted.init(key, PARAMS)
        leaves, tree = jax.tree.flatten(factors)
        keys = jax.random.split(key, len(leaves))
        noise = [0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, [x + e for x, e in zip(leaves, noise, strict=True)])

    return lifted, quick(noisy, jax.random.key(seed))


ADAPTERS = {
    "queries": random_adapter(1, lora.LoRA(rank=2, alpha=4), ("q_proj",)),
    "stable": random_adapter(2, lora.LoRA(rank=3, rs=True), ("v_proj", "down_proj", "embed")),
    "layers": random_adapter(3, lora.LoRA(ranks=(1, 3), alphas=(2.0, 5.0)), ("o_proj",)),
    "dora": random_adapter(4, lora.DoRA(rank=2), ("q_proj", "up_proj")),
}
TARGETS = (lora.ALL_LINEAR, "embed")
LARGEST = lora.DoRA(rank=3)


def new_pool(slots=4, method=LARGEST, targets=TARGETS, names=tuple(ADAPTERS)):
    pool = lora.AdapterPool(lift(method, targets), PARAMS, slots=slots)
    for name in names:
        pool.add(name, *ADAPTERS[name])
    return pool


def alone(name, ids=IDS, mask=MASK):
    if name is None:
        return quick(APPLY, PARAMS, ids, mask)
    lifted, factors = ADAPTERS[name]
    return quick(lifted, PARAMS, factors, ids, mask)


def merged(name):
    if name is None:
        return PARAMS
    lifted, factors = ADAPTERS[name]
    return quick(lifted.merge, PARAMS, factors)


def routed(pool, names, ids=IDS, mask=MASK):
    return jax.jit(pool.routed)(PARAMS, pool.factors(names), ids, mask)


def check_rows(found, names):
    for row, name in enumerate(names):
        real = np.asarray(MASK[row], bool)
        np.testing.assert_allclose(found[row][real], alone(name)[row][real], rtol=2e-4, atol=2e-4)


@pytest.fixture(scope="module")
def pool():
    return new_pool()


@pytest.mark.parametrize(
    "names", [("queries", "stable", None, "dora"), ("layers", "dora", "layers", "queries")]
)
def test_each_row_is_what_its_own_adapter_makes_of_it(pool, names):
    check_rows(routed(pool, names), names)
    assert not np.allclose(alone(names[0])[0], alone(None)[0], atol=0.1)


def test_a_row_does_not_depend_on_the_adapters_beside_it(pool):
    names = ["queries", "stable", None, "dora"]
    others = ["queries", "layers", "dora", None]
    first, second = routed(pool, names), routed(pool, others)
    assert (first[0] == second[0]).all()


def test_layers_that_are_scanned_are_routed_too():
    scanned = models.build(dataclasses.replace(CONFIG, scan=True)).apply
    pool = lora.AdapterPool(lift(LARGEST, TARGETS, apply=scanned), PARAMS)
    names = ["queries", None, "dora", "layers"]
    for name in filter(None, names):
        pool.add(name, *ADAPTERS[name])
    check_rows(routed(pool, names), names)


@pytest.mark.parametrize("search", [None, DRAWN], ids=["greedy", "drawn"])
def test_generation_with_a_cache_is_that_of_each_merged_model(pool, search):
    names = ["queries", None, "dora", "stable"]
    asked = {"config": CONFIG, "max_new_tokens": 6, "search": search, "key": jax.random.key(5)}
    found = generate(pool.routed.apply, pool.variables(names), IDS, MASK, **asked)
    for row, name in enumerate(names):
        wanted = generate(APPLY, merged(name), IDS, MASK, **asked)
        assert found.tokens[row].tolist() == wanted.tokens[row].tolist()
        np.testing.assert_allclose(found.logprobs[row], wanted.logprobs[row], atol=2e-4)


def test_several_texts_of_one_prompt_have_its_adapter(pool):
    asked = {"config": CONFIG, "max_new_tokens": 4, "search": BeamSearch(beams=2), "sequences": 2}
    names = ["queries", None]
    found = generate(pool.routed.apply, pool.variables(names), IDS[:2], MASK[:2], **asked)
    for row, name in enumerate(names):
        texts = slice(2 * row, 2 * row + 2)
        wanted = generate(APPLY, merged(name), IDS[:2], MASK[:2], **asked)
        assert found.tokens[texts].tolist() == wanted.tokens[texts].tolist()


def test_an_encoder_decoder_generates_with_an_adapter_for_each_row():
    config = models.T5Config(
        vocab_size=40, dim=16, encoder_layers=1, layers=1, heads=2, head_dim=8, ff_dim=24
    )
    apply, params = models.build(config).apply, models.init(config, jax.random.key(0))
    lifted = lora.lift(
        apply, params, IDS, MASK, IDS[:, :1], method=lora.LoRA(2), targets=("q_proj", "fc2")
    )
    factors = jax.tree.map(lambda x: x + 1.0, quick(lifted.init, jax.random.key(1), params))
    pool = lora.AdapterPool(lifted, params, slots=1)
    pool.add("own", lifted, factors)
    asked = {"config": config, "max_new_tokens": 4}
    found = generate(pool.routed.apply, pool.variables(["own", None]), IDS[:2], MASK[:2], **asked)
    for row, tree in enumerate([quick(lifted.merge, params, factors), params]):
        wanted = generate(apply, tree, IDS[:2], MASK[:2], **asked)
        np.testing.assert_allclose(found.logprobs[row], wanted.logprobs[row], atol=2e-4)
    assert not np.allclose(wanted.logprobs[0], found.logprobs[0], atol=1e-2)


def test_rows_without_factors_are_refused(pool):
    with pytest.raises(ValueError, match="the batch has 4 rows, and there are factors for 3"):
        routed(pool, [None] * 3)
    with pytest.raises(ValueError, match="rows on its first axis"):
        routed(pool, [None] * 4, mask=MASK[:2])


# ---------------------------------------------------------------------------------------------
# The program


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        inner = [x for x in jax.tree.leaves(eqn.params, is_leaf=is_jaxpr) if is_jaxpr(x)]
        if not inner:
            yield eqn
        for one in inner:
            yield from equations(getattr(one, "jaxpr", one))


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def test_the_base_is_one_product_of_the_whole_batch_and_no_row_has_a_weight(pool):
    # Texts of five: no weight has as many rows as there are then tokens.
    ids, mask = (jnp.pad(x, ((0, 0), (0, 1))) for x in (IDS, MASK))
    rows, length = ids.shape
    factors = pool.factors(["queries", "stable", None, "dora"])
    traced = jax.jit(pool.routed).trace(PARAMS, factors, ids, mask)
    plain = jax.jit(APPLY).trace(PARAMS, ids, mask)
    weights = {site.shape[1:] for site in pool.routed.lifted.sites if len(site.shape) == 3}

    def products_with_weights(jaxpr):
        found = []
        for eqn in equations(jaxpr):
            shapes = [tuple(var.aval.shape) for var in eqn.invars]
            if eqn.primitive.name == "dot_general" and set(shapes) & weights:
                x = shapes[1] if shapes[0] in weights else shapes[0]
                found.append((int(np.prod(x)), *(s for s in shapes if s in weights)))
        return found

    found = products_with_weights(traced.jaxpr.jaxpr)
    assert found == products_with_weights(plain.jaxpr.jaxpr)
    assert {size for size, _ in found} == {rows * length * 16, rows * length * 24}
    # Nothing is as large as a weight for each row, in whatever order of axes.
    made = {tuple(var.aval.shape) for eqn in equations(traced.jaxpr.jaxpr) for var in eqn.outvars}
    for shape in weights:
        bad = {tuple(sorted((rows, *extra, *shape))) for extra in ((), (1,), (1, 1))}
        assert not {s for s in made if tuple(sorted(s)) in bad}
    compiled = traced.lower().compile().as_text()
    for i, o in weights:
        for a, b in ((i, o), (o, i)):
            assert f"[{rows},{a},{b}]" not in compiled


@pytest.fixture
def compilations():
    """The names of the programs that are compiled from now on."""
    names = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_adding_replacing_and_evicting_compile_nothing(compilations):
    pool = new_pool(slots=2, names=("queries", "dora"))
    run = jax.jit(pool.routed)
    # One row of the two for each: the shapes of a batch are those of the first one.
    ids, mask = IDS[:2], MASK[:2]
    run(PARAMS, pool.factors(["queries", None]), ids, mask)
    assert compilations
    compilations.clear()
    pool.add("stable", *ADAPTERS["stable"])
    pool.add("layers", *ADAPTERS["layers"])
    for names in (["stable", "dora"], ["layers", "queries"], [None, "dora"]):
        run(PARAMS, pool.factors(names), ids, mask)
    pool.add("dora", *ADAPTERS["stable"])
    replaced = run(PARAMS, pool.factors(["dora", "stable"]), ids, mask)
    pool.remove("layers")
    pool.factors(["queries", None])
    assert compilations == []
    np.testing.assert_allclose(replaced[0], alone("stable")[0], rtol=2e-4, atol=2e-4)


# ---------------------------------------------------------------------------------------------
# The device's slots


def test_the_adapter_used_longest_ago_gives_up_its_slot():
    pool = new_pool(slots=2, names=("queries", "stable", "layers"))
    first, second = pool.rows(["queries", "stable"])
    assert sorted((first, second)) == [1, 2]
    assert pool.rows(["queries"]).tolist() == [first]
    assert pool.rows(["layers", "queries"]).tolist() == [second, first]
    names = ["stable", "layers", None, "stable"]
    check_rows(routed(pool, names), names)


def test_thousands_of_adapters_share_a_few_slots():
    pool = new_pool(slots=2, method=lora.LoRA(rank=2), targets=("q_proj",), names=())
    lifted, factors = ADAPTERS["queries"]
    scale = lambda i: jax.tree.map(lambda x: np.asarray(x) * (1 + i / 1000), factors)
    for i in range(2000):
        pool.add(f"a{i}", lifted, scale(i))
    assert len(pool) == 2000
    path = lifted.sites[0].path
    for i in (0, 1999, 3, 1000, 0):
        found = pool.factors([f"a{i}"])[path]["a"][0]
        np.testing.assert_array_equal(found, np.asarray(scale(i)[path]["a"], np.float32))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(pool.slots)} == {3}


def test_an_adapter_in_use_keeps_its_slot_and_its_name():
    pool = new_pool(slots=2, names=("queries", "stable", "layers"))
    slot = pool.acquire("queries")
    for name in ("stable", "layers", "stable"):
        assert pool.rows([name])[0] != slot
    with pytest.raises(ValueError, match="the batch has 2 adapters, and the device room for 1"):
        pool.rows(["stable", "layers"])
    with pytest.raises(ValueError, match="'queries' is in use by 1"):
        pool.remove("queries")
    pool.release("queries")
    pool.remove("queries")
    assert "queries" not in pool
    assert len(set(pool.rows(["stable", "layers"]))) == 2


# ---------------------------------------------------------------------------------------------
# What does not fit


def test_what_does_not_fit_is_named():
    pool = new_pool(method=lora.LoRA(rank=2), targets=("q_proj", "o_proj"), names=("queries",))
    wrong = {
        "rank 3 at 'layers/o_proj/kernel', and the pool's largest is 2": ADAPTERS["layers"],
        "changes 'embed/embedding', which the pool has no place for": ADAPTERS["stable"],
        r"DoRA at 'layers/q_proj/kernel'.*lift the pool with DoRA\(rank=2\)": ADAPTERS["dora"],
        "slots hold LoRA and DoRA: convert it with to_lora": random_adapter(
            1, lora.LoHa(rank=2), ("q_proj",)
        ),
        "factors have no entry": (ADAPTERS["queries"][0], {}),
        "'a' of 'layers/q_proj/kernel' holds NaN or infinity in the adapter$": (
            ADAPTERS["queries"][0],
            jax.tree.map(lambda x: x * np.nan, ADAPTERS["queries"][1]),
        ),
        "'b' .* holds NaN or infinity .* once it is multiplied by its scale": (
            lift(lora.LoRA(rank=2, alpha=3e38), ("q_proj",)),
            jax.tree.map(lambda x: 100 * x, ADAPTERS["queries"][1]),
        ),
    }
    for message, adapter in wrong.items():
        with pytest.raises(ValueError, match=message):
            pool.add("new", *adapter)
    assert list(pool) == ["queries"]
    with pytest.raises(ValueError, match="no adapter 'query'; the nearest are 'queries'"):
        pool.rows(["query"])
    with pytest.raises(ValueError, match="needs a name"):
        pool.add("", *ADAPTERS["queries"])
    with pytest.raises(ValueError, match="at least 1"):
        new_pool(slots=0)
    with pytest.raises(ValueError, match="IA3"):
        lora.AdapterPool(lift(lora.IA3(), ("k_proj",)), PARAMS)


def test_an_adapter_of_another_base_is_refused():
    wide = dataclasses.replace(CONFIG, dim=24)
    params = models.init(wide, jax.random.key(0))
    other = lift(lora.LoRA(rank=1), ("q_proj",), models.build(wide).apply, params)
    pool = new_pool(names=())
    with pytest.raises(ValueError, match="made for different bases"):
        pool.add("new", other, other.init(jax.random.key(0), params))
