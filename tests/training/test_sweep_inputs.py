"""What cannot be swept together is refused before anything is compiled, by field and members."""

import numpy as np
import pytest

import lora_jax as lora
from lora_jax import training
from lora_jax.data.loader import training_batches
from lora_jax.training.sweep_members import by_task
from tests.training import sweeping
from tests.training.sweeping import member

GROUPED = {"head": {"name": "lion"}}

UNFIT = {
    "no members": ([], "at least one member"),
    "one name twice": ([member("a"), member("a", seed=1)], "'a' is the name of several"),
    "a schedule": (
        [member("a"), member("b", schedule="cosine")],
        r"'a' and 'b' cannot share.*optimizer.schedule is 'linear' and 'cosine'",
    ),
    "a warm-up": ([member("a"), member("b", warmup=0.2)], "optimizer.warmup is 0.1 and 0.2"),
    "a clip": ([member("a"), member("b", clip=None)], "optimizer.clip is 1.0 and None"),
    "an optimiser": (
        [member("a", rule="adamw"), member("b", rule="muon")],
        "optimizer.name is 'adamw' and 'muon'",
    ),
    "an optimiser of a group": (
        [member("a"), member("b", groups=GROUPED)],
        "optimizer.groups.head.name is 'adamw' and 'lion'",
    ),
    "a field that no optimiser has": (
        [member("a"), member("b", learning_rat=1.0)],
        "member 'b': optimizer has no field 'learning_rat'; nearest: learning_rate",
    ),
    "a method": (
        [member("a"), member("b", method=lora.DoRA(2, 4))],
        "'a' and 'b' cannot share a program at .*q_proj.*LoRA and DoRA have different arrays",
    ),
    "a field of a method": (
        [member("a", method=lora.VeRA(4)), member("b", method=lora.VeRA(8))],
        "method.rank is 4 and 8",
    ),
    "a dtype": (
        [member("a"), member("b", method=lora.LoRA(2, dtype="bfloat16"))],
        "method.dtype is .* and 'bfloat16'",
    ),
    "a target that there is not": (
        [member("a"), member("b", ("q_pro",))],
        "member 'b': .*q_pro.*q_proj",
    ),
    "a rank that a weight does not allow": (
        [member("a"), member("b", method=lora.LoRA(9))],
        "rank 9 is larger than .* allows",
    ),
    "muon over padding": (
        [member("a", rule="muon"), member("b", method=lora.LoRA(4), rule="muon")],
        "'muon' looks at whole arrays, and adapter/.*/a of 'a' is smaller",
    ),
}


@pytest.mark.parametrize(("members", "message"), UNFIT.values(), ids=UNFIT)
def test_members_that_cannot_share_a_program_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        sweeping.sweep(members, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"chunk": -1}, "chunk = -1"),
        ({"on_divergence": "wait"}, "on_divergence = 'wait'"),
        ({"ranks": {"q_pro": 4}}, "q_proj"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sweeping.sweep([member("a")], **{"steps": 4, **options})


def test_a_mesh_that_does_not_divide_the_members_is_refused():
    mesh = training.make_mesh({"data": 8})
    with pytest.raises(ValueError, match=r"3 members do not divide by mesh.data = 8; 8 would"):
        sweeping.sweep([member(name) for name in "abc"], 4, mesh=mesh)
    mesh = training.make_mesh({"data": 2, "fsdp": 4})
    with pytest.raises(ValueError, match="chunk = 2 does not divide the 3 members of each device"):
        sweeping.sweep([member(name) for name in "abcdef"], 4, mesh=mesh, chunk=2)


OTHERS = {
    "too many": ([member("a"), member("b")], "made for 1 members, not for 2"),
    "another weight": ([member("a", ("fc1",))], "'a' adapts layers/fc1/kernel, which this sweep"),
    "a larger rank": ([member("a", method=lora.LoRA(4))], "rank 4 at .* has room for 2"),
    "dropout": ([member("a", method=lora.LoRA(2, dropout=0.1))], "'a' needs 'keep'"),
    "LoRA+": ([member("a", lora_plus=4.0)], "lora_plus: no member had it"),
    "a frozen A": ([member("a", method=lora.LoRAFA(2))], "'a' does not train .*q_proj/kernel/a"),
    "more classes": ([member("a", outputs=5)], r"'a' does not fit .*head.*\(5,\)"),
}


@pytest.mark.parametrize(("members", "message"), OTHERS.values(), ids=OTHERS)
def test_other_members_that_do_not_fit_a_program_are_refused(members, message):
    sweep = sweeping.sweep([member("first")], 4)
    with pytest.raises(ValueError, match=message):
        sweep.start(members)


def test_batches_of_different_shapes_are_refused():
    def data(member):
        rows = {"x": np.zeros((6, sweeping.DIM + member.seed), np.float32)}
        return training_batches(rows, 6, seed=0)

    sweep = sweeping.sweep([member("a"), member("b", seed=1)], 4)
    with pytest.raises(ValueError, match=r"batches of 'a' and 'b' differ.*x: float32\[6, 8\]"):
        training.train_sweep(sweep, data, console=sweeping.QUIET)


def test_metrics_of_no_member_are_refused():
    sweep = sweeping.sweep([member("a")], 1)
    options = {"evaluate": lambda _: {"b": {"accuracy": 1.0}}, "console": sweeping.QUIET}
    with pytest.raises(ValueError, match="metrics of 'b', which is no member"):
        training.train_sweep(sweep, sweeping.data, **options)


def test_a_grid_makes_a_member_of_every_combination():
    grid = {
        "targets": (("q_proj", "v_proj"), ()),
        "rank": (2, 8),
        "learning_rate": (1e-3,),
        "groups.head.multiplier": (2.0,),
        "seed": (0, 1),
    }
    shared = {"method": lora.LoRA(alpha=4), "optimizer": {"warmup": 0}, "outputs": 2}
    members = training.make_members({"grid": grid}, **shared)
    assert len(members) == 8
    one = members[3]
    assert one.name == (
        "targets=q_proj+v_proj rank=8 learning_rate=0.001 groups.head.multiplier=2.0 seed=1"
    )
    assert (one.targets, one.seed, one.outputs) == (("q_proj", "v_proj"), 1, 2)
    assert one.method == lora.LoRA(8, 4)
    assert one.optimizer == {
        "warmup": 0,
        "learning_rate": 1e-3,
        "groups": {"head": {"multiplier": 2.0}},
    }


def test_a_list_makes_the_members_that_it_says():
    listed = [{"name": "mine", "rank": 2}, {"seed": 3, "method": lora.DoRA(4)}]
    mine, other = training.make_members({"members": listed}, targets=("q_proj",))
    assert (mine.name, mine.method.rank) == ("mine", 2)
    assert (other.name, other.method) == ("seed=3 method=DoRA(rank=4, alpha=16)", lora.DoRA(4))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "either a grid or a list"),
        ({"grid": {"rank": (1,)}, "members": [{"rank": 2}]}, "either a grid or a list"),
        ({"grid": {"rank": ()}}, r"grid.rank = \(\)"),
        ({"grid": {"targets": "q_proj"}}, "grid.targets = 'q_proj': give a sequence"),
        ({"grid": {"rnk": (1,)}}, "no field 'rnk'; nearest: rank"),
    ],
)
def test_a_config_that_says_no_members_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        training.make_members(config)


def test_members_are_numbered_by_task():
    members = [member("a"), member("b", task="shapes"), member("c")]
    found = {task: index.tolist() for task, index in by_task(members).items()}
    assert found == {"colours": [0, 2], "shapes": [1]}
