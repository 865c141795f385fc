"""The papers' full-size runs: their settings, their parameters on shapes, and their plans."""

import json
import math
from pathlib import Path

import jax
import pytest
from data.chat_model import make_tokenizer
from data.tasks.built import BUILT, put_all
from safetensors.numpy import load_file, save_file

from configs import deberta_xxl, e2e_gpt2, glue_roberta, gpt3_lora, nova_style
from experiments import finetune, finetune_text
from lora_jax import hub, training
from lora_jax.evaluation import BeamSearch
from lora_jax.training.classifier import init_variables

FIXTURES = Path(__file__).parent / "fixtures"
PUBLISHED = FIXTURES / "published"
ROBERTA_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
ROBERTA_BASE |= {"intermediate_size": 3072}
GPT2_MEDIUM = {"n_embd": 1024, "n_layer": 24, "n_head": 16}
GPT2_LARGE = {"n_embd": 1280, "n_layer": 36, "n_head": 20}


def count_trained(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


# What the paper and its released files count; e2e's large is 36 layers x 2 x 2 x 1280 x 4.
@pytest.mark.parametrize(
    ("experiment", "config", "model", "changed", "count"),
    [
        (finetune, glue_roberta.get_config("base-cola"), "roberta_large", ROBERTA_BASE, 294_912),
        (finetune, glue_roberta.get_config("large-cola"), "roberta_large", {}, 786_432),
        (finetune, deberta_xxl.get_config("cola"), "deberta_v2_xxlarge", {}, 4_718_592),
        (finetune_text, e2e_gpt2.get_config("medium-dart"), "gpt2_xl", GPT2_MEDIUM, 393_216),
        (finetune_text, e2e_gpt2.get_config("large-dart"), "gpt2_xl", GPT2_LARGE, 737_280),
    ],
)
def test_the_adapter_has_as_many_parameters_as_published(experiment, config, model, changed, count):
    fields = json.loads((PUBLISHED / f"{model}.json").read_text())["config"] | changed
    base = hub.abstract_model(fields, dtype=config.model.dtype, scan=config.model.scan)
    lifted = experiment.lift(config, base)
    factors = jax.eval_shape(lifted.init, jax.random.key(0), base.params)
    assert count_trained(factors) == count


def test_the_head_of_roberta_has_its_dense_layer():
    config = glue_roberta.get_config("base-stsb")
    fields = json.loads((PUBLISHED / "roberta_large.json").read_text())["config"] | ROBERTA_BASE
    base = hub.abstract_model(fields)
    make = lambda key: init_variables(base, None, 1, key, dense=config.head.dense)["head"]
    assert count_trained(jax.eval_shape(make, jax.random.key(0))) == 768 * 769 + 769


def test_settings_are_those_of_the_tables():
    mnli = glue_roberta.get_config("base-mnli")
    assert (mnli.batch_size, mnli.length, mnli.method.alpha) == (16, 512, 8.0)
    assert mnli.steps == 30 * 24_544
    assert mnli.evaluate_every == 24_544
    large = glue_roberta.get_config("large-rte")
    assert (large.batch_size, large.length, large.method.alpha) == (8, 512, 16.0)
    assert glue_roberta.get_config("large-cola").optimizer.learning_rate == 2e-4
    e2e = e2e_gpt2.get_config("medium-e2e_nlg")
    assert e2e.steps == 5 * 5258
    wanted = BeamSearch(beams=10, length_penalty=0.9, no_repeat_ngram=4)
    assert finetune_text.search_of(e2e) == wanted
    assert finetune_text.search_of(finetune_text.defaults()) is None, "greedy"
    xxl = deberta_xxl.get_config("rte")
    assert (xxl.method.rank, xxl.optimizer.warmup, xxl.optimizer.learning_rate) == (16, 50, 2.6e-4)


@pytest.mark.parametrize(
    "module", [glue_roberta, deberta_xxl, e2e_gpt2, nova_style, gpt3_lora], ids=lambda m: m.__name__
)
def test_every_run_loads_has_a_schedule_and_an_optimiser(module):
    labels = {"adapter": {"a": "adapter", "b": "adapter"}, "head": {"kernel": "head"}}
    for run in module.RUNS:
        config = module.get_config(run)
        named = labels if "head" in config else {"adapter": labels["adapter"]}
        training.make_optimizer(config.optimizer, named, config.steps, tokens_per_step=10_000)
    with pytest.raises(ValueError, match="nearest"):
        module.get_config("nothing")


def make_model(fixture, directory):
    """A small model of the family, with a table and places for texts, and a tokenizer."""
    make_tokenizer(directory)
    fields = json.loads((FIXTURES / fixture / "config.json").read_text())
    fields["vocab_size"] = 400
    tensors = load_file(FIXTURES / fixture / "model.safetensors")
    for name in tensors:
        if any(part in name for part in ("word_embeddings", "wte", "embed_tokens", "lm_head")):
            tensors[name] = tensors[name].repeat(10, axis=0)
        if any(part in name for part in ("position_embeddings", "wpe")):
            tensors[name] = tensors[name].repeat(50, axis=0)[:600]
            for field in ("n_positions", "n_ctx", "max_position_embeddings"):
                if field in fields:
                    fields[field] = len(tensors[name])
    if "max_position_embeddings" in fields and fields["model_type"] in ("qwen3", "deberta-v2"):
        fields["max_position_embeddings"] = 4096
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(fields))
    return str(directory)


@pytest.mark.needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "run", "fixture", "said"),
    [
        (glue_roberta, "base-cola", "roberta", "8,551 training, 1,043 test"),
        (deberta_xxl, "stsb", "deberta", "5,749 training, 1,500 test"),
        (e2e_gpt2, "medium-e2e_nlg", "gpt2", "42,061 training, 630 test"),
        (nova_style, "medmcqa", "qwen3", "3,331 training, 852 test"),
        (gpt3_lora, "wikisql", "qwen3", "training"),
    ],
)
def test_the_plan_of_a_recipe_on_a_small_model_of_its_family(
    module, run, fixture, said, data_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LORA_JAX_DATA", str(data_dir))
    config = module.get_config(run)
    config.model.path = make_model(fixture, tmp_path / "model")
    config.method.rank = min(config.method.rank, 8)  # what so small a weight allows
    config.mesh.data = 2
    config.mesh.tensor = 4
    if run == "medmcqa":  # of which the training file is not here
        config.task.options.unlock()
        config.task.options.split = "validation"
    if run == "wikisql":
        put_all(tmp_path / "wikisql", BUILT["wikisql"][0])
        config.task.options.unlock()
        config.task.options.directory = str(tmp_path / "wikisql")
    is_text = "encoding" in config
    if is_text:
        config.train_examples = config.evaluation_examples = 64
        config.encoding.truncate = "middle"
    (finetune_text if is_text else finetune).main(config, None)
    plan = capsys.readouterr().out
    assert said in plan
    assert f"{config.steps} steps of {config.batch_size} examples" in plan
