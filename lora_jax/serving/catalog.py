"""The base and its adapters by name: loaded and unloaded while texts are written."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lora_jax import hub
from lora_jax.adapters import AdapterPool
from lora_jax.api import lift
from lora_jax.lifting import Lifted
from lora_jax.models import restack
from lora_jax.nearest import nearest
from lora_jax.serving.directories import AdapterRoot
from lora_jax.serving.engine_thread import EngineThread
from lora_jax.serving.errors import ApiError

_LIFTS = 8  # kept for adapters that are alike
_NAME = re.compile(r"[\w][\w.:@+-]*(?:/[\w.:@+-]+)*", re.ASCII)


class Card(NamedTuple):
    """A model that clients may name.

    Attributes:
      name: of the base or an adapter.
      created: when it was loaded, in seconds of Unix time.
      root: the directory of an adapter under the root of all; the name of the base itself.
      parent: the base of an adapter; None for the base.
    """

    name: str
    created: int
    root: str
    parent: str | None


class Catalog:
    """The models that clients may name.

    Args:
      model: the base.
      pool: of the adapters of that base; only the thread touches it.
      thread: that runs the engine over that pool.
      name: of the base.
      root: where adapters lie; None: none can be loaded.
      most: adapters at a time.
    """

    def __init__(
        self,
        model: hub.Pretrained,
        pool: AdapterPool,
        thread: EngineThread,
        *,
        name: str,
        root: AdapterRoot | None,
        most: int,
    ) -> None:
        self.base, self.cards = name, {name: Card(name, int(time.time()), name, None)}
        self._model, self._pool, self._thread = model, pool, thread
        self._root, self._most = root, most
        self._lifts: dict[Any, Lifted] = {}  # of adapters with the same targets and ranks
        self._changing = asyncio.Lock()

    @property
    def adapters(self) -> int:
        """How many are loaded."""
        return len(self.cards) - 1

    def check_known(self, name: str) -> None:
        """Raises `ApiError`, which has the nearest names, where no model has that name."""
        if name not in self.cards:
            near = nearest(name, self.cards, 3)
            raise ApiError(
                404,
                f"no model {name[:80]!r}; nearest: {', '.join(map(repr, near))}",
                code="model_not_found",
                param="model",
            )

    async def load(self, name: str, path: str, *, replace: bool = False) -> Card:
        """Loads an adapter from a directory under the root.

        Args:
          name: what clients are to call it.
          path: of its directory, relative to the root.
          replace: whether it may take the place of the adapter of that name. Texts that are being
            written are finished with the old one.

        Raises:
          ApiError: it is not there, does not fit, or the name or all places are taken.
        """
        async with self._changing:
            self._check_name(name, replace)
            if self._root is None:
                raise ApiError(400, "this server has no root of adapters: it loads none")
            try:
                place, lifted, factors = await asyncio.to_thread(self._read, self._root, path)
                await self._thread.call(self._pool.add, name, lifted, factors)
            except (ValueError, FileNotFoundError) as error:
                raise ApiError(400, str(error), code="bad_adapter", param="lora_path") from error
            self.cards[name] = Card(name, int(time.time()), place, self.base)
            return self.cards[name]

    async def load_all(self, paths: Sequence[str]) -> None:
        """Loads adapters under the names of their directories.

        Raises:
          ValueError: one cannot be loaded.
        """
        for path in paths:
            try:
                await self.load(path, path)
            except ApiError as error:
                raise ValueError(f"adapter {path!r}: {error}") from error

    async def unload(self, name: str) -> None:
        """Forgets an adapter. Texts that are being written are finished; those that wait are not.

        Raises:
          ApiError: there is none of that name.
        """
        async with self._changing:
            self.check_known(name)
            if name == self.base:
                raise ApiError(400, f"{name!r} is the base, which cannot be unloaded")
            del self.cards[name]  # first: no request may come between
            await self._thread.call(self._pool.remove, name)

    def _read(self, root: AdapterRoot, path: str) -> tuple[str, Lifted, Any]:
        """Where an adapter lies under the root, the lift that it was made for, and its factors."""
        with root.copied(path) as (directory, place):
            try:
                return str(place), *self._read_files(directory)
            except (ValueError, FileNotFoundError) as error:
                said = str(error).replace(str(directory), str(Path("ROOT") / place))
                raise ValueError(said) from error

    def _read_files(self, directory: Path) -> tuple[Lifted, Any]:
        apply, params = self._model.apply, self._model.params
        shapes = jax.eval_shape(restack, params)
        methods = hub.load_peft_config(directory, apply, shapes)
        alike = tuple(sorted(methods.items()))
        if alike not in self._lifts:  # tracing the model takes most of the time
            ids = jax.ShapeDtypeStruct((1, 2), "int32")
            self._lifts[alike] = lift(apply, shapes, ids, targets=methods)
            if len(self._lifts) > _LIFTS:
                self._lifts.pop(next(iter(self._lifts)))
        lifted = self._lifts[alike]
        return lifted, hub.load_peft(directory, lifted, params=restack(params))

    def _check_name(self, name: str, replace: bool) -> None:
        if len(name) > 128 or not _NAME.fullmatch(name):
            raise ApiError(
                400,
                f"lora_name = {name[:80]!r}; a name is up to 128 letters, digits and any of "
                "_ . : @ + - /",
                param="lora_name",
            )
        if name == self.base or (name in self.cards and not replace):
            raise ApiError(
                400, f"there is a model {name!r} already; unload it first", param="lora_name"
            )
        if name not in self.cards and self.adapters >= self._most:
            raise ApiError(
                400,
                f"{self.adapters} adapters are loaded, and no more may be: unload one",
                code="too_many_adapters",
            )
