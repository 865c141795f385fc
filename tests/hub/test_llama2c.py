"""Files of llama2.c: the real one tells its story, those written here hold what was written."""

import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import hub, models

MAGIC = 0x616B3432
DIM, FF_DIM, LAYERS, HEADS, KV_HEADS, WORDS, LENGTH = SIZES = (16, 24, 2, 2, 1, 300, 10)
HEAD = DIM // HEADS


def weights(rng, *, tied):
    """Random weights by their names in llama2.c, stacked over layers, as [out, in]."""

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    found = {
        "tok_embeddings": normal(WORDS, DIM),
        "attention_norm": normal(LAYERS, DIM),
        "wq": normal(LAYERS, DIM, DIM),
        "wk": normal(LAYERS, KV_HEADS * HEAD, DIM),
        "wv": normal(LAYERS, KV_HEADS * HEAD, DIM),
        "wo": normal(LAYERS, DIM, DIM),
        "ffn_norm": normal(LAYERS, DIM),
        "w1": normal(LAYERS, FF_DIM, DIM),
        "w2": normal(LAYERS, DIM, FF_DIM),
        "w3": normal(LAYERS, FF_DIM, DIM),
        "norm": normal(DIM),
    }
    return found if tied else found | {"output": normal(WORDS, DIM)}


def quantize(tensor, group=8):
    """Int8 and its scales, and what they stand for."""
    grouped = tensor.reshape(-1, group)
    scale = np.abs(grouped).max(axis=1) / 127
    whole = np.round(grouped / scale[:, None]).astype(np.int8)
    return whole, scale, (whole * scale[:, None]).reshape(tensor.shape)


def write(path, version, tensors, tied):
    """Writes the weights in a layout, and returns those that a reader should find."""
    tensors = dict(tensors)
    order = ["wq", "wk", "wv", "wo", "w1", "w2", "w3"]
    if version == 0:
        *sizes, words, length = SIZES
        parts = [struct.pack("<7i", *sizes, words if tied else -words, length)]
        names = ["tok_embeddings", "attention_norm", *order[:4], "ffn_norm", *order[4:], "norm"]
        parts += [tensors[name].tobytes() for name in names]
        parts.append(np.full((2, LENGTH, HEAD // 2), np.nan, np.float32).tobytes())
        parts += [] if tied else [tensors["output"].tobytes()]
        path.write_bytes(b"".join(parts))
        return tensors
    header = struct.pack("<Ii7iBi", MAGIC, version, *SIZES, tied, 8 if version == 2 else 0)
    parts = [header.ljust(256, b"\0")]
    parts += [tensors[name].tobytes() for name in ("attention_norm", "ffn_norm", "norm")]
    for name in ["tok_embeddings", *order, *([] if tied else ["output"])]:
        if version == 1:
            parts.append(tensors[name].tobytes())
            continue
        layers = tensors[name].reshape(-1, *tensors[name].shape[-2:])
        for i, layer in enumerate(layers):
            whole, scale, layers[i] = quantize(layer)
            parts += [whole.tobytes(), scale.astype(np.float32).tobytes()]
    path.write_bytes(b"".join(parts))
    return tensors


def forward(w, ids):
    """The model as llama2.c computes it: one text, rotations of adjacent pairs."""

    def norm(x, scale):
        return scale * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    def rotate(x):
        angle = np.arange(len(ids))[:, None] * 10_000.0 ** (-np.arange(0, HEAD, 2) / HEAD)
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def softmax(x):
        x = np.exp(x - x.max(-1, keepdims=True))
        return x / x.sum(-1, keepdims=True)

    x = w["tok_embeddings"][ids].astype(np.float64)
    for i in range(LAYERS):
        y = norm(x, w["attention_norm"][i])
        q = rotate((y @ w["wq"][i].T).reshape(len(ids), HEADS, HEAD))
        k = rotate((y @ w["wk"][i].T).reshape(len(ids), KV_HEADS, HEAD))
        v = (y @ w["wv"][i].T).reshape(len(ids), KV_HEADS, HEAD)
        scores = np.einsum("qhd,sd->hqs", q, k[:, 0]) / HEAD**0.5
        scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
        mixed = np.einsum("hqs,sd->qhd", softmax(scores), v[:, 0]).reshape(len(ids), DIM)
        x = x + mixed @ w["wo"][i].T
        y = norm(x, w["ffn_norm"][i])
        gate = y @ w["w1"][i].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["w3"][i].T)) @ w["w2"][i].T
    return norm(x, w["norm"]) @ w.get("output", w["tok_embeddings"]).T


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own head"])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_file_of_each_version_computes_what_llama2c_computes(tmp_path, version, tied):
    rng = np.random.default_rng(version)
    held = write(tmp_path / "m.bin", version, weights(rng, tied=tied), tied)
    model = hub.load_model(tmp_path / "m.bin")
    assert model.config.tied == tied
    ids = rng.integers(0, WORDS, 7).astype(np.int32)
    found = jax.jit(model.apply)(model.params, ids[None])[0]
    np.testing.assert_allclose(found, forward(held, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (0, "it has 0 bytes"),
        (27, "it has 27 bytes"),
        (28, "is truncated: it has 28 bytes, but its header needs"),
        (-1, "is truncated"),
    ],
)
def test_a_truncated_file(tmp_path, kept, message):
    path = tmp_path / "m.bin"
    write(path, 0, weights(np.random.default_rng(0), tied=True), tied=True)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=message):
        hub.load_model(path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\3\4" * 64, "is not a llama2.c model: its header gives dim 67324752"),
        (struct.pack("<Ii", MAGIC, 3).ljust(256, b"\0"), "of version 3, not 0, 1 or 2"),
        (struct.pack("<Ii", MAGIC, 1).ljust(100, b"\0"), "of version 1, not 0, 1 or 2, or cut"),
        (struct.pack("<7i", 16, 24, -2, 2, 1, 300, 10), "layers -2"),
        (struct.pack("<7i", 16, 24, 2, 3, 1, 300, 10), "heads 3"),
        (struct.pack("<7i", 16, 24, 2, 2, 1, 2**31 - 1, 10), "vocab_size 2147483647"),
    ],
)
def test_a_file_of_another_kind(tmp_path, start, message):
    (tmp_path / "m.bin").write_bytes(start)
    with pytest.raises(ValueError, match=message):
        hub.load_model(tmp_path / "m.bin")


def test_a_file_that_is_too_long_or_has_another_hash(tmp_path):
    path = tmp_path / "m.bin"
    write(path, 1, weights(np.random.default_rng(0), tied=True), tied=True)
    hub.load_model(path, sha256=hub.hash_file(path))
    with pytest.raises(ValueError, match="has sha256"):
        hub.load_model(path, sha256="0" * 64)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="too long"):
        hub.load_model(path)


def test_another_file_is_not_taken_for_a_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"give the directory that holds config\.json"):
        hub.load_model(tmp_path / "model.safetensors")


def test_a_model_without_its_tokens_names_the_file_that_it_lacks(tmp_path):
    write(tmp_path / "m.bin", 0, weights(np.random.default_rng(0), tied=True), tied=True)
    tokenizer = hub.load_model(tmp_path / "m.bin").tokenizer
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.bin"):
        tokenizer.encode(["a"])


# ---------------------------------------------------------------------------------------------
# The real files


@pytest.fixture(scope="module")
def story(data_dir):
    return hub.load_model(data_dir / "stories260k" / "stories260K.bin")


def documented(data_dir):
    text = (data_dir / "stories260k" / "stories260K.md").read_text()
    return re.search(r"-t 0\.0\n(.*?)\n```", text, re.DOTALL)[1]


@pytest.mark.needs_data
def test_the_real_model_tells_its_documented_story_token_by_token(story, data_dir):
    text = documented(data_dir)
    wanted = story.tokenizer.encode([text]).ids
    logits = jax.jit(story.apply)(story.params, jnp.asarray(wanted))
    # Each token is the likeliest after those before it: what greedy decoding follows.
    assert np.array_equal(np.argmax(logits[0, :-1], axis=-1), wanted[0, 1:])
    assert wanted.shape[1] > 200


@pytest.mark.needs_data
def test_the_real_model_scores_its_story_in_bfloat16_too(story, data_dir):
    model = models.build(story.config)
    assert model.shapes["layers"]["k_proj"]["kernel"].shape == (5, 64, 32)
    half = hub.load_model(
        data_dir / "stories260k" / "stories260K.bin", dtype="bfloat16", scan=False
    )
    ids = jnp.asarray(story.tokenizer.encode([documented(data_dir)[:200]]).ids)
    found = np.argmax(jax.jit(half.apply)(half.params, ids)[0, :-1], -1)
    assert np.mean(found == ids[0, 1:]) > 0.9


def merge_by_score(content, text):
    """The tokenizer of llama2.c written out: merge the best pair until there is none."""
    tokens, offset = [], 4
    while offset < len(content):
        score, size = struct.unpack("<fi", content[offset : offset + 8])
        tokens.append((content[offset + 8 : offset + 8 + size], score))
        offset += 8 + size
    by_text = {text: i for i, (text, _) in list(enumerate(tokens))[::-1]}
    ids = [1]
    for letter in " " + text if text else "":
        known = by_text.get(letter.encode())
        ids += [byte + 3 for byte in letter.encode()] if known is None else [known]
    while True:
        pairs = [
            (tokens[by_text[both]][1], -i)
            for i in range(len(ids) - 1)
            if (both := tokens[ids[i]][0] + tokens[ids[i + 1]][0]) in by_text
        ]
        if not pairs:
            return ids
        at = -max(pairs)[1]
        ids[at : at + 2] = [by_text[tokens[ids[at]][0] + tokens[ids[at + 1]][0]]]


@pytest.mark.needs_data
def test_texts_are_merged_pair_by_pair_as_llama2c_does(story, data_dir):
    content = (data_dir / "stories260k" / "tok512.bin").read_bytes()
    texts = [
        documented(data_dir),
        "",
        " two  spaces ",
        "Aaaaaah, Mississippi!!",
        "naïve 漢字 \t\n9",
    ]
    for text in texts:
        assert story.tokenizer.encode([text]).ids[0].tolist() == merge_by_score(content, text)
        assert story.tokenizer.decode(story.tokenizer.encode([text]).ids[0]) == text


@pytest.mark.needs_data
@pytest.mark.parametrize("size", [100, 3000, 6226])
def test_a_truncated_file_of_tokens(story, data_dir, tmp_path, size):
    for name in ("stories260K.bin", "tok512.bin"):
        (tmp_path / name).write_bytes((data_dir / "stories260k" / name).read_bytes())
    (tmp_path / "tok512.bin").write_bytes((tmp_path / "tok512.bin").read_bytes()[:size])
    with pytest.raises(ValueError, match=r"tok512\.bin (is truncated|has \d+ tokens)"):
        hub.load_model(tmp_path / "stories260K.bin")
