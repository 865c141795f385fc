"""`Lifted`: a function with a tree of factors beside its frozen params."""

from __future__ import annotations

import dataclasses
import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lora_jax.lifting import dense
from lora_jax.lifting.algebra import Delta, Dropout, Factor
from lora_jax.lifting.describe import describe, fallback_sentence, few
from lora_jax.lifting.interpreter import Fallback, Interpreter
from lora_jax.lifting.packed import is_packed, unpacked
from lora_jax.lifting.program import Program, discover, path_name, run_abstractly, trace
from lora_jax.lifting.roles import Weight
from lora_jax.lifting.site import (
    Method,
    Site,
    bias_of,
    check_arrays,
    check_finite,
    check_gathered,
    make_site,
)

Factors = Mapping[str, Mapping[str, Any]]


class DenseFallbackError(ValueError):
    """`strict=True`, and a weight is used in a way that needs the dense W + ΔW."""


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, so that jit can cache it
class Lifted:
    """``g(params, factors, *args) == f(params with W replaced by W + ΔW, *args)``.

    Made by `lora_jax.lift`. Call it inside `jax.jit`: each call traces `f` anew.

    Attributes:
      function: `f`, as it was given.
      sites: the adapted weights, in the order of the params tree.
      num_base_parameters: entries of all arrays of the params tree.
      strict: whether a fallback to the dense W + ΔW is an error.
    """

    function: Callable[..., Any]
    sites: tuple[Site, ...]
    num_base_parameters: int
    strict: bool = False
    _reported: set[Fallback] = dataclasses.field(default_factory=set, repr=False)

    def init(
        self, key: jax.Array, params: Any, gathered: Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, jax.Array]]:
        """New factors; ΔW is zero wherever the method starts at zero.

        Args:
          key: a PRNG key. A site's arrays depend on it and on the site's path alone.
          params: the frozen params (methods that start from W look at them).
          gathered: for methods that start from data, what a pass over some batches found out about
            each site, by path (`gather_inputs`, `gather_gradients`).

        Returns:
          ``{path: {name: array}}``, a plain pytree.

        Raises:
          ValueError: a method starts from data and nothing was gathered for its site.
        """
        gathered = {} if gathered is None else gathered
        check_gathered(self.sites, gathered)
        weights = self._weights(params)
        return {
            site.path: site.method.init(
                _key_for(key, site.path),
                dataclasses.replace(weights[site.path], gathered=gathered.get(site.path)),
            )
            for site in self.sites
        }

    def __call__(
        self, params: Any, factors: Factors, *args: Any, rng: jax.Array | None = None, **kwargs: Any
    ) -> Any:
        """What `f` returns, with every site's W replaced by W + ΔW.

        Args:
          params: as `f` takes them; never changed.
          factors: as `init` makes them.
          *args: the other arguments of `f`.
          rng: a PRNG key that switches dropout on; without it there is none.
          **kwargs: the other keyword arguments of `f`.

        Raises:
          ValueError: the factors do not fit the params, or `strict` and a dense fallback.
        """
        deltas = self._deltas(self._weights(params), factors, rng)
        interpreter = Interpreter()
        result = trace(self.function, params, args, kwargs).run(interpreter, deltas)
        self._report(interpreter.fallbacks)
        return result

    def merge(self, params: Any, factors: Factors) -> Any:
        """New params with W + ΔW in place of each W, computed in fp32; `params` is untouched.

        Quantised weights are dequantised in fp32, adapted or not: the new params are plain arrays
        in the types that the weights had before they were quantised.

        Raises:
          ValueError: a new weight would hold NaN or Inf (seen where arrays are concrete).
        """
        return _replace(params, self._deltas(self._weights(params), factors), dense.apply_delta)

    def unmerge(self, merged: Any, factors: Factors) -> Any:
        """The base of merged params whose base is gone: W' - ΔW, exact to one rounding of W'.

        Each entry is off by at most ε·(|W'| + |W| + |ΔW|), where ε is the spacing of the weight's
        type at 1 (2⁻²³ in fp32, 2⁻⁷ in bf16): the roundings of W', of the result and of fp32 sums.
        Where the base is at hand keep using it: `merge` never changes it.

        Raises:
          ValueError: the method's ΔW depends on the base (DoRA).
        """
        weights = {
            path: dataclasses.replace(weight, value=None)
            for path, weight in self._weights(merged).items()
        }
        return _replace(merged, self._deltas(weights, factors), dense.remove_delta)

    def __str__(self) -> str:
        return describe(self.sites, self.num_base_parameters)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Paths, within the tree of factors, of the arrays that never train."""
        return tuple(f"{site.path}/{name}" for site in self.sites for name in site.frozen)

    # -- what fits what

    def _weights(self, params: Any) -> dict[str, Weight]:
        """The sites' weights with their values, after checking that params are those lifted."""
        flat, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_packed)
        leaves = {path_name(path): leaf for path, leaf in flat}
        lifted = [site.weight for site in self.sites]
        lifted += [site.bias for site in self.sites if site.bias is not None]
        weights = {}
        for weight in lifted:
            if weight.path not in leaves:
                raise ValueError(f"params have no weight {weight.path!r}, which was lifted")
            leaf = leaves[weight.path]
            if tuple(leaf.shape) != weight.shape:
                raise ValueError(
                    f"params[{weight.path!r}] has shape {tuple(leaf.shape)}, "
                    f"but {weight.shape} was lifted"
                )
            weights[weight.path] = dataclasses.replace(weight, value=leaf)
        return weights

    def _deltas(
        self, weights: Mapping[str, Weight], factors: Factors, rng: jax.Array | None = None
    ) -> dict[str, Delta]:
        self._check_factors(factors)
        return _all_deltas(self.sites, factors, weights, rng)

    def _check_factors(self, factors: Factors) -> None:
        expected = {site.path for site in self.sites}
        if missing := sorted(expected - set(factors)):
            raise ValueError(f"factors have no entry for {few(missing)}, which this lift adapts")
        if unknown := sorted(set(factors) - expected):
            raise ValueError(f"factors hold {few(unknown)}, which this lift does not adapt")
        for site in self.sites:
            check_arrays(site, factors[site.path])

    def _report(self, fallbacks: Mapping[Fallback, None]) -> None:
        """Says each (weight, primitive) once in the life of this function."""
        if self.strict and fallbacks:
            raise DenseFallbackError("\n".join(map(fallback_sentence, fallbacks)))
        for fallback in fallbacks:
            if fallback not in self._reported:
                self._reported.add(fallback)
                warnings.warn(fallback_sentence(fallback), stacklevel=3)


def lift_weights(
    f: Callable[..., Any],
    params: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    choose: Callable[[Mapping[str, Weight], Sequence[str]], Mapping[str, Method]],
    strict: bool = False,
) -> Lifted:
    """Lifts `f` over the weights that `choose` picks.

    Args:
      f: ``f(params, *args, **kwargs)``.
      params: arrays or `jax.ShapeDtypeStruct`s; nothing is allocated.
      args: example arguments, arrays or shapes.
      kwargs: example keyword arguments.
      choose: from the weights with their roles, and the paths of all leaves, to a method for each
        weight to be adapted.
      strict: raise where a weight needs the dense W + ΔW.
    """
    program = trace(f, params, args, kwargs)
    weights = discover(program)
    chosen = choose(weights, program.paths)
    sites = [
        make_site(weights[path], chosen[path], bias_of(weights[path], chosen[path], weights))
        for path in program.paths
        if path in chosen
    ]
    fallbacks = _find_fallbacks(program, sites)
    lifted = Lifted(
        function=f,
        sites=tuple(
            dataclasses.replace(
                site,
                fallbacks=tuple((f.primitive, f.why) for f in fallbacks if site.path in _owners(f)),
            )
            for site in sites
        ),
        num_base_parameters=sum(math.prod(getattr(leaf, "shape", ())) for leaf in program.leaves),
        strict=strict,
    )
    lifted._report(fallbacks)
    return lifted


def run_packed(
    f: Callable[..., Any], params: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """``f(params, *args, **kwargs)``, each packed weight made dense where it is used."""
    interpreter = Interpreter()
    result = trace(f, params, args, kwargs).run(interpreter, {})
    for fallback in interpreter.fallbacks:
        warnings.warn(fallback_sentence(fallback), stacklevel=3)
    return result


def _replace(params: Any, deltas: Mapping[str, Delta], change: Callable[..., jax.Array]) -> Any:
    """New params in which `change(weight, delta)` stands for each weight that has a delta."""

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if name not in deltas:
            return unpacked(leaf)
        weight = change(leaf, deltas[name]).astype(leaf.dtype)
        check_finite(name, weight)
        return weight

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_packed)


def _find_fallbacks(program: Program, sites: Sequence[Site]) -> dict[Fallback, None]:
    """Where the program, run as in training on shapes alone, needs a dense weight."""
    leaves = dict(zip(program.paths, program.leaves, strict=True))
    values = {site.path: leaves[site.path] for site in sites}
    arrays = {site.path: dict(site.arrays) for site in sites}

    def deltas(arrays: Any, values: Any, rng: jax.Array) -> dict[str, Delta]:
        weights = {
            site.path: dataclasses.replace(site.weight, value=values[site.path]) for site in sites
        }
        return _all_deltas(sites, arrays, weights, rng)

    shapes = jax.eval_shape(deltas, arrays, values, jax.random.key(0))
    return run_abstractly(program, shapes, Interpreter()).fallbacks


def _all_deltas(
    sites: Sequence[Site], factors: Factors, weights: Mapping[str, Weight], rng: jax.Array | None
) -> dict[str, Delta]:
    """What the factors do to each weight, and to the biases beside some of them."""
    deltas = {
        site.path: _delta(site, factors[site.path], weights[site.path], rng) for site in sites
    }
    for site in sites:
        if site.bias is None:
            continue
        own = site.method.bias_delta(factors[site.path], site.bias)  # type: ignore[attr-defined]
        if not own.is_identity:
            other = deltas.get(site.bias.path, Delta())
            both = Delta((*other.terms, *own.terms), (*other.gain, *own.gain))
            deltas[site.bias.path] = both
    return deltas


def _delta(site: Site, arrays: Any, weight: Weight, rng: jax.Array | None) -> Delta:
    """What a site's arrays do to its weight, with dropout where a key is given."""
    fixed = {name: lax.stop_gradient(arrays[name]) for name in site.frozen}
    delta = site.method.delta({**arrays, **fixed}, weight)
    if rng is None or site.method.dropout == 0.0:
        return delta
    keep = arrays.get("keep", jnp.asarray(1.0 - site.method.dropout, float))
    return dataclasses.replace(delta, dropout=_dropout(site, rng, keep))


def _owners(fallback: Fallback) -> list[str]:
    return fallback.path.split(" + ")  # a concatenation bears the names of its parts


def _key_for(key: jax.Array, path: str) -> jax.Array:
    """A site's own key: adding a target leaves the others' initial values as they were."""
    return jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))


def _dropout(site: Site, rng: jax.Array, keep: jax.Array) -> Dropout:
    """One key for each stacked layer or expert, so that a scan slices keys like weights."""
    typed = rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)
    key = _key_for(typed, site.path)
    layers = site.weight.sizes(site.batch)
    keys = jax.random.split(key, layers) if layers else key
    return Dropout(Factor(keys, site.batch), Factor(keep, ()))
