"""The real all-MiniLM-L6-v2: its embeddings, and what they are worth on real sentence pairs."""

import csv
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

from lora_jax import hub, models

RECORDED = Path(__file__).parent.parent / "fixtures" / "minilm.npz"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="module")
def minilm(minilm_dir):
    return hub.load_model(minilm_dir, sha256=SHA256, scan=False)


@pytest.fixture(scope="module")
def embed(minilm):
    @jax.jit
    def vectors(params, ids, mask):
        return models.normalize(models.pool(minilm.apply(params, ids, mask), mask, "mean"))

    def embed(texts, length):
        encoded = minilm.tokenizer.encode(texts, length=length)
        return np.asarray(vectors(minilm.params, encoded.ids, encoded.mask))

    return embed


def test_the_tokenizer_gives_the_ids_of_the_original(minilm):
    recorded = np.load(RECORDED)
    encoded = minilm.tokenizer.encode(recorded["sentences"].tolist())
    assert np.array_equal(encoded.ids, recorded["input_ids"])


def test_sentence_embeddings_are_those_of_the_original(embed):
    recorded = np.load(RECORDED)
    wanted = recorded["embeddings"]
    found = embed(recorded["sentences"].tolist(), length=64)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-5


def embed_by_length(embed, tokenizer, texts):
    """Embeds texts in batches of similar length, which spares most of the padding."""
    lengths = tokenizer.encode(texts).mask.sum(1)
    vectors = np.empty((len(texts), 384), np.float32)
    for lower, length, size in ((0, 16, 256), (16, 32, 128), (32, 96, 64)):
        rows = np.flatnonzero((lower < lengths) & (lengths <= length))
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            padded = np.resize(chosen, size)  # one shape, one compilation
            vectors[chosen] = embed([texts[i] for i in padded], length)[: len(chosen)]
    return vectors


@pytest.mark.needs_data
def test_cosines_rank_the_pairs_of_sts_b_as_people_do(embed, minilm, data_dir):
    with (data_dir / "glue" / "STS-B" / "dev.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [row[column] for column in ("sentence1", "sentence2") for row in rows]
    vectors = embed_by_length(embed, minilm.tokenizer, texts)
    cosines = (vectors[: len(rows)] * vectors[len(rows) :]).sum(1)
    scores = [float(row["score"]) for row in rows]
    assert len(scores) == 1500
    assert spearmanr(cosines, scores).statistic > 0.85
