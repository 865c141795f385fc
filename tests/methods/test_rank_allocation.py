"""AdaLoRA's budget and choice of ranks: by hand, and against PEFT's RankAllocator over a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.methods import Budget, allocate, drop_ranks, init_allocation, orthogonality

BUDGET = Budget(total_steps=20, target_rank=2, warmup=3, final=5, every=2)


def random_factors(seed, layers=3, rank=4):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(layers, *shape)), jnp.float32)
    return {path: {"a": draw(6, rank), "e": draw(rank), "b": draw(rank, 5)} for path in ("q", "v")}


def test_the_budget_falls_with_the_cube_of_the_time_left():
    ranks = BUDGET.ranks(24, 12)
    assert list(ranks[:4]) == [24] * 4
    assert ranks[9] == 12 + int(12 * (1 - 6 / 12) ** 3)
    assert list(ranks[15:]) == [12] * 6
    assert (np.diff(ranks) <= 0).all()


def test_as_many_ranks_are_left_as_the_budget_says_and_the_last_choice_stands():
    state, step = init_allocation(random_factors(0)), jax.jit(allocate, static_argnums=0)
    for i in range(1, 21):
        state, factors = step(BUDGET, state, random_factors(i), random_factors(100 + i), i)
        alive = sum(int((arrays["e"] != 0).sum()) for arrays in factors.values())
        chosen = 3 < i <= 15 and (i % 2 == 0 or i == 15)
        assert alive == (BUDGET.ranks(24, 12)[i] if chosen else 12 if i > 15 else 24)
        if i == 15:
            last = state.kept
    assert all((state.kept[path] == last[path]).all() for path in last)


def test_dropping_ranks_leaves_the_update_as_it_was_and_their_gradients_at_zero():
    state, factors = init_allocation(random_factors(0)), random_factors(1)
    state, masked = allocate(BUDGET, state, factors, random_factors(2), 14)
    dropped = drop_ranks(state.kept, masked)

    def updates(factors):
        return jnp.concatenate(
            [jnp.einsum("lir,lr,lro->lio", *(x[n] for n in "aeb")) for x in factors.values()]
        )

    assert (updates(dropped) == updates(masked)).all()
    gradients = jax.grad(lambda f: updates(f).sum())(dropped)
    for path, kept in state.kept.items():
        assert 0 < kept.sum() < kept.size
        for name, axis in (("a", 1), ("b", 2)):
            assert not np.asarray(gradients[path][name]).any(axis=axis)[~kept].any()
        assert not np.asarray(gradients[path]["e"])[~kept].any()


def test_a_budget_without_steps_to_choose_in_is_refused():
    with pytest.raises(ValueError, match="leave none of the 10 steps"):
        Budget(total_steps=10, warmup=5, final=5)


def test_orthogonality_is_zero_for_orthogonal_factors_alone():
    factors = {"w": {"a": jnp.eye(4)[:, :2], "e": jnp.ones(2), "b": jnp.eye(2, 6)}}
    assert float(orthogonality(factors)) == 0.0
    with pytest.raises(ValueError, match="none of the factors"):
        orthogonality({"w": {"a": jnp.ones(3)}})


@pytest.mark.torch
def test_it_keeps_the_ranks_that_peft_keeps_over_a_run():
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("q", "v"):
                layers = [torch.nn.Linear(6, 5, bias=False) for _ in range(3)]
                setattr(self, name, torch.nn.ModuleList(layers))

        def forward(self, x):
            return x

    fields = {"init_r": 4, "target_r": 2, "tinit": 3, "tfinal": 5, "deltaT": 2, "total_step": 20}
    names = [f"{name}.{i}" for name in "qv" for i in range(3)]
    config = peft.AdaLoraConfig(target_modules=names, **fields)
    model = peft.get_peft_model(Layers(), config).base_model

    def each(factors):
        for path, arrays in factors.items():
            for i in range(3):
                layer = getattr(model.model, path)[i]
                yield layer.lora_A["default"], np.asarray(arrays["a"][i]).T
                yield layer.lora_B["default"], np.asarray(arrays["b"][i]).T
                yield layer.lora_E["default"], np.asarray(arrays["e"][i])[:, None]

    step, state = jax.jit(allocate, static_argnums=0), init_allocation(random_factors(0))
    for i in range(1, 21):
        factors, gradients = random_factors(i), random_factors(100 + i)
        for (parameter, value), (_, gradient) in zip(each(factors), each(gradients), strict=True):
            parameter.data = torch.tensor(value)
            parameter.grad = torch.tensor(gradient)
        model.update_and_allocate(i)
        state, masked = step(BUDGET, state, factors, gradients, i)
        for parameter, value in each(masked):
            np.testing.assert_array_equal(parameter.detach().numpy(), value, err_msg=str(i))
