"""The encoders beside the original implementation in float64, where only a formula can differ."""

import jax
import numpy as np
import pytest
import tokenizers

from lora_jax import hub

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

torch = pytest.importorskip("torch", reason="torch is not installed: no live comparison")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
}


def save(model, directory):
    model.save_pretrained(directory)
    words = tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")
    tokenizers.Tokenizer(words).save(str(directory / "tokenizer.json"))


def batch(config, *lengths):
    rng = np.random.default_rng(0)
    mask = np.array([[1] * n + [0] * (max(lengths) - n) for n in lengths], np.int32)
    ids = rng.integers(2, config.vocab_size, mask.shape).astype(np.int32)
    types = rng.integers(0, config.type_vocab_size, mask.shape).astype(np.int32)
    return np.where(mask, ids, config.pad_token_id).astype(np.int32), mask, types


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
@jax.enable_x64(True)
def test_hidden_states_and_gradients_equal_those_of_torch(family, activation, tmp_path):
    torch.manual_seed(0)
    types = {"type_vocab_size": 1} if family == "roberta" else {}
    config = transformers.AutoConfig.for_model(family, **SIZES, **types, hidden_act=activation)
    original = transformers.AutoModel.from_config(config).eval()
    save(original, tmp_path)
    original.double()
    model = hub.load_model(tmp_path, dtype="float64")
    inputs = batch(config, 17, 9, 1)
    probe = np.random.default_rng(1).normal(size=(3, 17, 24))
    probe *= inputs[1][..., None]

    ids, mask, type_ids = (torch.tensor(x, dtype=torch.long) for x in inputs)
    wanted = original(input_ids=ids, attention_mask=mask, token_type_ids=type_ids)[0]
    (wanted * torch.tensor(probe)).sum().backward()

    def loss(params):
        hidden = model.apply(params, *inputs)
        return (hidden * probe).sum(), hidden

    gradients, found = jax.jit(jax.grad(loss, has_aux=True))(model.params)
    assert relative(found, wanted.detach().numpy()) < 1e-12
    layers = original.encoder.layer
    for path, weights in {
        "q_proj": [layer.attention.self.query.weight for layer in layers],
        "v_proj": [layer.attention.self.value.weight for layer in layers],
        "fc2": [layer.output.dense.weight for layer in layers],
    }.items():
        stacked = np.stack([weight.grad.numpy().T for weight in weights])
        assert relative(gradients["layers"][path]["kernel"], stacked) < 1e-12, path
    words = original.embeddings.word_embeddings.weight.grad.numpy()
    assert relative(gradients["embed"]["embedding"], words) < 1e-12


def relative(found, wanted):
    return float(np.linalg.norm(np.asarray(found) - wanted) / np.linalg.norm(wanted))
