"""Text from a model, end to end as a user asks for it."""

import json

import pytest

from experiments import generate
from tests.experiments.command import run

SHORT = ["--config=configs/generate.py", "--config.prompt=Once upon a time"]


@pytest.fixture(scope="module")
def stories(data_dir):
    return data_dir / "stories260k"


@pytest.mark.needs_data
@pytest.mark.slow
def test_a_story_is_told_as_its_model_documents_it(stories, tmp_path):
    said = run(
        "generate",
        *SHORT,
        f"--config.model={stories / 'stories260K.bin'}",
        "--config.max_new_tokens=60",
        f"--workdir={tmp_path / 'run'}",
    )
    documented = (stories / "stories260K.md").read_text(encoding="utf-8").split("```")[3]
    story = documented[documented.index("Once") :]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (text,) = results["texts"]
    assert len(text["tokens"]) == 60
    assert story.startswith(text["prompt"] + text["text"])
    assert text["prompt"] + text["text"] in said
    assert results["config"]["max_new_tokens"] == 60


@pytest.mark.needs_data
@pytest.mark.slow
def test_prompts_of_a_file_are_continued_beam_by_beam(stories, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Once upon a time\n\nLily saw\n")
    said = run(
        "generate",
        "--config=configs/generate.py",
        f"--config.model={stories / 'stories260K.bin'}",
        f"--config.prompts={prompts}",
        "--config.max_new_tokens=12",
        "--config.beams=4",
        "--config.sequences=2",
        f"--workdir={tmp_path / 'run'}",
    )
    texts = json.loads((tmp_path / "run" / "results.json").read_text())["texts"]
    assert [text["prompt"] for text in texts] == ["Once upon a time"] * 2 + ["Lily saw"] * 2
    assert texts[0]["score"] >= texts[1]["score"]
    for text in texts:
        assert text["text"] in said


@pytest.mark.needs_data
@pytest.mark.slow
def test_the_plan_says_what_would_happen_and_nothing_is_written(stories, tmp_path):
    said = run(
        "generate",
        *SHORT,
        f"--config.model={stories / 'stories260K.bin'}",
        "--dry_run",
        f"--workdir={tmp_path / 'run'}",
    )
    for part in ("llama, 260,032", "float32", "' Once'", "at most 128", "temperature=0.0", "MiB"):
        assert part in said
    assert not (tmp_path / "run").exists()


@pytest.mark.needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.sampling.temperture=1.0", "temperture"),
        ("--config.model=storeis", "no directory 'storeis'"),
    ],
)
def test_a_mistake_is_explained_in_one_line(flag, message):
    said = run("generate", *SHORT, flag, succeeds=False)
    assert message in said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling.top_p": 7.0}, "top_p = 7.0; it must be above 0"),
        ({"max_new_tokens": 600}, "leave room for .* new ones"),
        ({"chat": True}, "no chat template"),
        ({"prompt": ""}, "give --config.prompt=TEXT"),
        ({"prompts": "two.txt"}, "give --config.prompt=TEXT"),
        ({"model": ""}, "give --config.model"),
        ({"image": "picture.png"}, "picture.png"),
        ({"beams": 2, "sampling.temperature": 1.0}, "set one of them to 0"),
        ({"beams": 2, "early_stopping": "soon"}, "early_stopping = 'soon'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_generated(stories, settings, message):
    config = generate.defaults()
    config.model, config.prompt = str(stories / "stories260K.bin"), "Once upon a time"
    config.update_from_flattened_dict(settings)
    with pytest.raises((ValueError, OSError), match=message):
        generate.main(config, None)
