"""Chat templates: messages to the text that a chat model was trained on, as transformers does."""

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from lora_jax.hub.files import read_json

DEFAULT = "default"
TEMPLATE_FOLDER = "additional_chat_templates"

Message = Mapping[str, Any]


class BrokenTemplateError(ValueError):
    """A chat template that fails by itself, and has not refused the conversation."""


def read_templates(directory: Path) -> dict[str, str]:
    """Reads the chat templates of a model.

    Args:
        directory: holds them as `chat_template.jinja` (with more in `additional_chat_templates/`),
            as `chat_template.json`, or as `chat_template` in `tokenizer_config.json`; the first of
            these that is there counts.

    Returns:
        The templates by name, `"default"` first where there is one; none for a model without.

    Raises:
        ValueError: one of the files is corrupt.
    """
    found = {}
    if (main := directory / "chat_template.jinja").is_file():
        found[DEFAULT] = main.read_text(encoding="utf-8")
    for file in sorted((directory / TEMPLATE_FOLDER).glob("*.jinja")):
        found[file.stem] = file.read_text(encoding="utf-8")
    for file in (directory / "chat_template.json", directory / "tokenizer_config.json"):
        if not found and file.is_file():
            found = _by_name(read_json(file).get("chat_template"), file)
    return found


def _by_name(template: Any, file: Path) -> dict[str, str]:
    if template is None:
        return {}
    if isinstance(template, str):
        return {DEFAULT: template}
    try:
        return {one["name"]: one["template"] for one in template}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: chat_template is neither a text nor a list of templates") from (
            error
        )


def choose_template(templates: Mapping[str, str], name: str | None, *, tools: bool) -> str:
    """Chooses among the templates of a model.

    Args:
        templates: the result of `read_templates`.
        name: the one to take; None takes `"tool_use"` if there is one and tools are given, and
            else the default.
        tools: whether tools are given.

    Raises:
        ValueError: there is no such template.
    """
    if name is None:
        name = "tool_use" if tools and "tool_use" in templates else DEFAULT
    if name not in templates:
        known = ", ".join(templates) or "none"
        raise ValueError(f"no chat template {name!r}; the model has: {known}")
    return templates[name]


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> str:
    """Renders a conversation.

    Args:
        template: in the Jinja language. It comes from strangers, so it is run in a sandbox and
            sees nothing but plain data.
        messages: each a mapping with "role" and "content".
        add_generation_prompt: end with the opening of the assistant's next turn.
        tools: JSON schemas of functions that the model may call.
        documents: texts that the model may draw on.
        **variables: what else the template reads, such as `bos_token` or `enable_thinking`.

    Returns:
        The text, special tokens spelt out: encode it without adding them again.

    Raises:
        ValueError: there is no message, or the template refuses the conversation.
        BrokenTemplateError: the template is no Jinja, or fails in another way.

    >>> render("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    ...        [{"role": "user", "content": "hi"}])
    '<user>hi'
    """
    if not messages:
        raise ValueError("a conversation has at least one message")
    chat = [
        {key: _plain(value) for key, value in message.items() if value is not None}
        for message in messages
    ]
    try:
        compiled = _compile(template)
    except jinja2.TemplateError as error:
        raise BrokenTemplateError(f"the chat template is not valid Jinja: {error}") from error
    try:
        return compiled.render(
            messages=chat,
            tools=_plain(tools),
            documents=_plain(documents),
            add_generation_prompt=add_generation_prompt,
            **{key: _plain(value) for key, value in variables.items()},
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses this conversation: {error}") from error
    except Exception as error:  # it is a program, and may fail in any way
        raise BrokenTemplateError(
            f"the chat template fails on this conversation: {type(error).__name__}: {error}"
        ) from error


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: dt.datetime.now().strftime(form),
        # Functions instead of the classes, whose attributes a template could reach.
        "dict": lambda *pairs, **named: dict(*pairs, **named),  # noqa: PLW0108
        "namespace": lambda *pairs, **named: _Namespace(*pairs, **named),  # noqa: PLW0108
    }
    return environment.from_string(template)


class _Generation(jinja2.ext.Extension):
    """The tag around what the assistant says; it marks the text and leaves it as it is."""

    tags = {"generation"}  # noqa: RUF012 (as in the class it extends)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """A namespace that takes no attribute with a leading underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set {name!r}")
        super().__setitem__(name, value)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # The filter of Jinja itself would escape <, > and & as for a web page.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _plain(value: Any) -> Any:
    """The same value made of JSON types; an image, say, becomes a word: its methods can do harm."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return f"<{type(value).__name__}>"
