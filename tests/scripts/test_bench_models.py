"""The benchmark of models: what it makes of the times it took."""

import sys

import pytest

from scripts import bench_models


def test_compile_times_are_medians_with_their_ratio_to_the_shallowest():
    table = bench_models.compile_table({12: [2.0, 9.0, 1.0], 48: [2.5, 2.5]})
    assert table.splitlines()[2:] == ["| 12 | 2.00 | 1.00 |", "| 48 | 2.50 | 1.25 |"]


def test_decoding_is_what_writing_takes_beyond_reading():
    shape = bench_models.Shape(batch=2, prompt=100, new=11)
    reading = {"lora_jax": [0.5, 9.0, 1.0], "transformers": [2.0]}
    writing = {"lora_jax": [1.5, 11.0, 1.5], "transformers": [4.0]}
    found = bench_models.rates(reading, writing, shape)
    assert found["prefill"] == {"lora_jax": 200, "transformers": 100}
    assert found["decode"] == {"lora_jax": 20, "transformers": 10}
    assert bench_models.text_rows(found, "float32").splitlines() == [
        "| prefill, float32 | 200 | 100 | 2.00 |",
        "| decode, float32 | 20 | 10 | 2.00 |",
    ]


def test_without_torch_it_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    bench_models.bench_texts(bench_models.Shape(), 1, 1, False)
    assert "torch and transformers not installed: nothing to compare" in capsys.readouterr().out


def test_options_out_of_range_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_models.py", "--new", "1"])
    with pytest.raises(SystemExit):
        bench_models.main()
    assert "--new at least 2" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_both_continue_the_same_prompts_with_the_same_tokens():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    original = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    shape = bench_models.Shape(batch=2, prompt=5, new=4)
    both = bench_models.make_contenders(original, shape, "float32", scan=False)
    wanted, found = (both[name].write() for name in ("transformers", "lora_jax"))
    assert found.tolist() == wanted.tolist()
    reading, writing = bench_models.measure_texts(both, rounds=2)
    assert {len(times) for times in (*reading.values(), *writing.values())} == {2}
