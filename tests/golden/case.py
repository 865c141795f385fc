"""A small random model of the original implementation, and how ours is held against it.

`record` needs torch and transformers; `check` needs neither. So the same cases run from recorded
files everywhere, and live where the original implementation is installed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lora_jax import hub, models
from lora_jax.hub.families import FAMILIES
from lora_jax.hub.params import read_params
from lora_jax.hub.safetensors import open_tensors

# Ten times the usual: gates, softmaxes and norms are then far from linear.
INIT_RANGE = 0.3

# Nearly all of the time of a tiny model is its compilation, which is so seven times faster.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

Inputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One model and its inputs.

    Args:
        make: makes the model of transformers; called with torch seeded.
        inputs: `inputs(rng)` makes its inputs by their names in transformers.
        arguments: the names of those inputs that our `apply` takes, in its order.
        named: our keyword arguments, by the names of those inputs.
        settings: further keyword arguments of our `apply` that are no arrays.
        derive: `derive(config, inputs)` makes further keyword arguments from the inputs.
        output: the field of its output to compare.
        mask: name of the input that says which positions of the output count; None: all do.
        options: for `hub.load_model`.
        generate: settings of `generate` of transformers, by a name of ours; the tokens it makes
            are recorded as `tokens:NAME`.
        prompts: like `inputs`, what `generate` starts from (transformers pads it at the left);
            recorded as `prompt:INPUT`. None: the inputs themselves.
        tokenizer: writes a tokenizer.json into the directory of the model; None: there is none.
        tolerance: largest relative error of the output, in the 2-norm.
        live_seed: of the weights and inputs that are compared live; not those recorded.
    """

    make: Callable[[], Any]
    inputs: Callable[[np.random.Generator], Inputs]
    arguments: tuple[str, ...] = ("input_ids", "attention_mask")
    named: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    derive: Callable[[Any, Inputs], dict[str, Any]] | None = None
    output: str = "logits"
    mask: str | None = "attention_mask"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generate: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    prompts: Callable[[np.random.Generator], Inputs] | None = None
    tokenizer: Callable[[Path], None] | None = None
    tolerance: float = 1e-5
    live_seed: int = 1

    def keywords(self, config: Any, inputs: Inputs) -> dict[str, Any]:
        """The arrays that our `apply` takes by name."""
        derived = {} if self.derive is None else self.derive(config, inputs)
        return {ours: inputs[theirs] for ours, theirs in self.named.items()} | derived


def texts(
    rng: np.random.Generator, vocabulary: int, *lengths: int, pad_id: int = 0, left: bool = False
) -> Inputs:
    """Random token ids from 5 upwards, padded to one length, and their mask."""
    longest = max(lengths)
    mask = np.array([[1] * n + [0] * (longest - n) for n in lengths], np.int32)
    mask = mask[:, ::-1].copy() if left else mask
    ids = rng.integers(5, vocabulary, mask.shape)
    return {"input_ids": np.where(mask, ids, pad_id).astype(np.int32), "attention_mask": mask}


def record(case: Case, directory: Path, seed: int = 0) -> None:
    """Saves a model as transformers does, with what it computes and its gradients beside it."""
    import torch

    torch.manual_seed(seed)
    model = case.make().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases are ones and zeros otherwise
            torch.nn.init.normal_(parameter, parameter.mean().item(), INIT_RANGE)
    rng = np.random.default_rng(seed)
    inputs = case.inputs(rng)
    output = getattr(model(**_tensors(inputs)), case.output)
    probe = rng.normal(size=output.shape).astype(np.float32)
    if case.mask is not None:
        real = inputs[case.mask]
        probe *= real.reshape(*real.shape, *[1] * (probe.ndim - real.ndim))
    (output * torch.tensor(probe)).sum().backward()
    expected = inputs | {"expected": output.detach().numpy(), "probe": probe}
    prompts = inputs if case.prompts is None else case.prompts(rng)
    for name, settings in case.generate.items():
        with torch.no_grad():
            tokens = model.generate(**_tensors(prompts), **settings)
        expected[f"tokens:{name}"] = tokens.numpy().astype(np.int32)
    if case.generate:
        expected |= {f"prompt:{name}": value for name, value in prompts.items()}
    model.save_pretrained(directory)
    if case.tokenizer is not None:
        case.tokenizer(directory)
    # The gradients go through the names and layouts of a checkpoint, so they are saved as one.
    with torch.no_grad():
        for parameter in model.parameters():
            gradient = parameter.grad
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
    model.save_pretrained(directory / "gradients")
    for file in (directory / "gradients").glob("*.json"):
        file.unlink()
    np.savez_compressed(directory / "expected.npz", **expected)


def _tensors(inputs: Inputs) -> dict[str, Any]:
    import torch

    tensors = {name: torch.tensor(value) for name, value in inputs.items()}
    return {name: t.long() if t.dtype == torch.int32 else t for name, t in tensors.items()}


def load(case: Case, directory: Path) -> tuple[hub.Pretrained, Any, Inputs]:
    """Our model of a recorded directory, the gradients of the original as params, and the rest."""
    model = hub.load_model(directory, **case.options)
    table = FAMILIES[model.config.model_type].names(model.config)
    with open_tensors(directory / "gradients") as tensors:
        gradients = read_params(tensors, table, models.build(model.config).shapes)
    return model, gradients, dict(np.load(directory / "expected.npz"))


def check(case: Case, directory: Path) -> None:
    """Checks that our output and the gradient of every parameter are those of the original."""
    model, wanted, expected = load(case, directory)
    args = [expected[name] for name in case.arguments]
    named = case.keywords(model.config, expected)
    probe = expected["probe"]

    def loss(params: Any) -> Any:
        output = model.apply(params, *args, **named, **case.settings)
        return (output * probe).sum(), output

    found, output = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(model.params)
    real = probe != 0
    assert error(np.where(real, output, 0), np.where(real, expected["expected"], 0)) < (
        case.tolerance
    )
    # The gradient of a key's bias, for one, is rounding alone: a softmax does not see it.
    floor = 1e-5 * max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(wanted))
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        distance = np.linalg.norm(np.asarray(ours) - theirs)
        assert distance < 1e-4 * np.linalg.norm(theirs) + floor, jax.tree_util.keystr(path)


def error(found: Any, wanted: Any) -> float:
    """The relative error in the 2-norm."""
    return float(np.linalg.norm(np.asarray(found) - wanted) / np.linalg.norm(wanted))
