"""Chat templates: where they lie, what they see, and that transformers renders the same."""

import json
import shutil
from pathlib import Path

import pytest

from lora_jax import hub
from lora_jax.hub import chat

FIXTURES = Path(__file__).parent.parent / "fixtures"
ASKED = [{"role": "user", "content": "Why <b> & 'so'?"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    *ASKED,
    {"role": "assistant", "content": "  Because.  ", "tool_calls": None},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "a < b: naïve"}}]

# In the manner of Llama 3, Mistral, Gemma and Qwen: the parts of the language that they use.
TEMPLATES = {
    "headers": """{{ bos_token }}{% for m in messages %}
    <|start|>{{ m['role'] }}<|end|>

{{ m['content'] | trim if m['content'] is string else 'parts' }}<|eot|>
{%- endfor %}
{% if add_generation_prompt %}<|start|>assistant<|end|>{% endif %}""",
    "namespaces": """{%- set ns = namespace(n=0, last='') -%}
{%- for m in messages -%}
  {%- if m.role == 'system' %}{% continue %}{% endif -%}
  {%- set ns.n = ns.n + 1 -%}{%- set ns.last = m.role -%}
  {%- if loop.index0 > 8 %}{% break %}{% endif -%}
[{{ ns.n }}:{{ m.role }}{{ '' if loop.last else ',' }}]
{%- endfor -%}{{ ns.last }}{{ eos_token }}""",
    "tools": """{% if tools %}{{ tools | tojson }}|{{ tools[0] | tojson(indent=2) }}{% endif %}
{{- documents | default('none', true) }}{{ dict(a=1).items() | list }}""",
    "parts": """{% macro part(p) %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}
{%- endif %}{%- endmacro %}{% for m in messages %}{% generation %}
{% if m.content is string %}{{ m.content }}{% else %}
{% for p in m.content %}{{ part(p) }}{% endfor %}{% endif %}{% endgeneration %}
{% endfor %}
{{- 'thinking' if enable_thinking is defined and enable_thinking else 'quick' }}
{{- messages[1:] | map(attribute='role') | join('/') }}
{{- messages[::-1][0].tool_calls is defined }}""",
}


@pytest.fixture
def copy(tmp_path):
    """A directory with a tokenizer and its special tokens, in both of their spellings."""
    shutil.copy(FIXTURES / "bert" / "tokenizer.json", tmp_path)
    end = {"__type": "AddedToken", "content": "</s>", "special": True}
    fields = {"bos_token": "<s>", "eos_token": end, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    return tmp_path


def set_template(directory, template):
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def test_special_tokens_and_the_opening_of_the_answer_are_filled_in(copy):
    set_template(copy, TEMPLATES["headers"])
    text = hub.Tokenizer(copy).apply_chat_template(ASKED, add_generation_prompt=True)
    assert text == (
        "<s>    <|start|>user<|end|>\n\nWhy <b> & 'so'?<|eot|><|start|>assistant<|end|>"
    )


def test_a_template_may_lie_in_a_file_of_its_own_which_counts_first(copy):
    set_template(copy, "from the config")
    assert hub.Tokenizer(copy).apply_chat_template(ASKED) == "from the config"
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "from json"}))
    assert hub.Tokenizer(copy).apply_chat_template(ASKED) == "from json"
    (copy / "chat_template.jinja").write_text("from jinja")
    assert hub.Tokenizer(copy).apply_chat_template(ASKED) == "from jinja"


def test_of_several_templates_the_one_for_tools_is_taken_when_there_are_tools(copy):
    names = ("default", "tool_use", "rag")
    set_template(copy, [{"name": name, "template": f"as {name}"} for name in names])
    tokenizer = hub.Tokenizer(copy)
    assert tokenizer.apply_chat_template(ASKED) == "as default"
    assert tokenizer.apply_chat_template(ASKED, tools=TOOLS) == "as tool_use"
    assert tokenizer.apply_chat_template(ASKED, template="rag") == "as rag"
    with pytest.raises(
        ValueError, match="no chat template 'raf'; the model has: default, tool_use"
    ):
        tokenizer.apply_chat_template(ASKED, template="raf")


def test_a_model_without_a_template_says_so(copy):
    with pytest.raises(ValueError, match="no chat template 'default'; the model has: none"):
        hub.Tokenizer(copy).apply_chat_template(ASKED)


@pytest.mark.parametrize("template", [3, [{"name": "default"}]])
def test_a_template_that_is_no_text(copy, template):
    set_template(copy, template)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template is neither"):
        hub.Tokenizer(copy).apply_chat_template(ASKED)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "is not valid Jinja"),
        ("{{ messages[0].content.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely"),
        ("{{ dict.__globals__.sys }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns.__x = 1 %}", "may not set '__x'"),
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_an_error_of_one_kind(template, message):
    with pytest.raises(ValueError, match=message):
        chat.render(template, ASKED)


def test_a_conversation_has_a_message():
    with pytest.raises(ValueError, match="at least one message"):
        chat.render("", [])


def test_a_template_sees_data_only_never_the_objects_of_the_caller():
    class Picture:
        def save(self):
            raise AssertionError

    message = {"role": "user", "content": [Picture(), True, 1.5, ("a",), {"k": None}]}
    found = chat.render("{{ messages[0].content }}", [message])
    assert found == "['<Picture>', True, 1.5, ['a'], {'k': None}]"


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_transformers_renders_the_same(copy, name, prompt):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    set_template(copy, TEMPLATES[name])
    ours = hub.Tokenizer(copy)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(copy)
    settings = {"add_generation_prompt": prompt, "enable_thinking": prompt}
    settings["tools"] = TOOLS if prompt else None
    found = ours.apply_chat_template(TALK, **settings)
    assert found == theirs.apply_chat_template(TALK, tokenize=False, **settings)
    ids = theirs.apply_chat_template(TALK, tokenize=True, return_dict=True, **settings)["input_ids"]
    assert ours.encode([found], special=False).ids[0].tolist() == ids


@pytest.mark.parametrize(
    "template",
    ["{% for %}", "{{ none | shout }}", "{{ 1 + 'a' }}", "{{ 1 // 0 }}", "{{ 'a'.index('b') }}"],
)
def test_a_template_that_fails_is_told_from_one_that_refuses(template):
    with pytest.raises(chat.BrokenTemplateError):
        chat.render(template, ASKED)
    with pytest.raises(ValueError, match="refuses this conversation: no robots") as error:
        chat.render("{{ raise_exception('no robots') }}", ASKED)
    assert not isinstance(error.value, chat.BrokenTemplateError)
