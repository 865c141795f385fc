"""One lifted function for the adapters of all members of a sweep, and each member's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_jax import targets as patterns
from lora_jax.adapters import Joint, join_methods
from lora_jax.lifting import Lifted, Method, Weight, lift_weights
from lora_jax.lifting.site import Site, bias_of, frozen_arrays, make_site
from lora_jax.methods import LoRA
from lora_jax.training.sweep_members import Member

Ranks = int | Mapping[str, int] | None


@dataclasses.dataclass(frozen=True)
class JointLift:
    """What the adapters of all members become.

    Attributes:
      lifted: the function with the weights that any member adapts; None if no member has an
        adapter. Its methods are `adapters.Joint`.
      weights: all weights of the function, by path.
      paths: of all leaves of the params.
    """

    lifted: Lifted | None
    weights: Mapping[str, Weight]
    paths: Sequence[str]

    def of(self, member: Member) -> Lifted | None:
        """A member's own function, as `lora.lift` makes it; None without targets.

        Raises:
          ValueError: the member has a weight, a rank or a method that is not of this program.
        """
        chosen = chosen_methods(member, self.weights, self.paths)
        if not chosen:
            return None
        sites = {site.path: site for site in self.lifted.sites} if self.lifted else {}
        for path, method in chosen.items():
            if path not in sites:
                raise ValueError(f"{member.name!r} adapts {path}, which this sweep does not")
            _check_fits(member.name, sites[path], method)
        assert self.lifted is not None  # there are sites
        return Lifted(
            function=self.lifted.function,
            sites=tuple(
                self._site(site, chosen[path]) for path, site in sites.items() if path in chosen
            ),
            num_base_parameters=self.lifted.num_base_parameters,
            strict=self.lifted.strict,
        )

    def _site(self, site: Site, method: Method) -> Site:
        own = make_site(site.weight, method, bias_of(site.weight, method, self.weights))
        return dataclasses.replace(own, fallbacks=site.fallbacks)

    def settings(self, member: Member) -> dict[str, dict[str, Any]]:
        """The arrays that say how a member's adapter differs from the others, by path."""
        if self.lifted is None:
            return {}
        chosen = chosen_methods(member, self.weights, self.paths)
        return {
            site.path: joint_of(site).settings(chosen.get(site.path), site.weight)
            for site in self.lifted.sites
        }

    def unequal(self, members: Sequence[Member]) -> tuple[str, ...]:
        """Paths, within the adapter, of arrays that train for some members and not for others."""
        found: dict[str, None] = {}
        for member in members:
            for path in self.fixed(member):
                site, name = path.rsplit("/", 1)
                joint = next(joint_of(s) for s in self.lifted.sites if s.path == site)  # type: ignore[union-attr]
                if name not in joint.frozen:
                    found[path] = None
        return tuple(found)

    def fixed(self, member: Member) -> set[str]:
        """Paths, within the adapter, of a member's arrays that do not train."""
        chosen = chosen_methods(member, self.weights, self.paths)
        return {f"{path}/{name}" for path, own in chosen.items() for name in frozen_arrays(own)}


def lift_all(
    function: Callable[..., Any],
    params: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    members: Sequence[Member],
    ranks: Ranks = None,
) -> JointLift:
    """Lifts the weights that any member adapts, once.

    Args:
      function: `function(params, *args, **kwargs)`.
      params: arrays or shapes.
      args: example arguments.
      kwargs: example keyword arguments.
      members: of the sweep.
      ranks: ranks to leave room for, for all weights or by patterns as for `lora.lift`.

    Raises:
      ValueError: a target that matches nothing, or methods that cannot share a program.
    """
    seen: dict[str, Any] = {"weights": {}, "paths": ()}

    def choose(weights: Mapping[str, Weight], paths: Sequence[str]) -> Mapping[str, Method]:
        seen.update(weights=weights, paths=paths)
        room = _room(ranks, members, weights, paths)
        methods: dict[str, dict[str, Method]] = {}
        for member in members:
            for path, method in chosen_methods(member, weights, paths).items():
                methods.setdefault(path, {})[member.name] = method
        if isinstance(ranks, Mapping):
            for path, rank in room.items():
                methods.setdefault(path, {"ranks": LoRA(rank)})
        return {
            path: join_methods(path, own, min(room.get(path, 0), _largest(weights[path])))
            for path, own in methods.items()
        }

    lifted = lift_weights(function, params, args, kwargs, choose)
    return JointLift(lifted if lifted.sites else None, seen["weights"], seen["paths"])


def chosen_methods(
    member: Member, weights: Mapping[str, Weight], paths: Sequence[str]
) -> Mapping[str, Method]:
    """The method of each weight that a member adapts."""
    if not member.targets:
        return {}
    try:
        return patterns.choose(member.targets, member.exclude, member.method, weights, paths)
    except ValueError as error:
        raise ValueError(f"member {member.name!r}: {error}") from error


def joint_of(site: Site) -> Joint:
    """The joint method of a site of the sweep's function."""
    assert isinstance(site.method, Joint)
    return site.method


def _room(
    ranks: Ranks, members: Sequence[Member], weights: Mapping[str, Weight], paths: Sequence[str]
) -> dict[str, int]:
    if ranks is None:
        return {}
    if isinstance(ranks, int):
        adapted = [chosen_methods(member, weights, paths) for member in members]
        return {path: ranks for own in adapted for path in own}
    found: dict[str, int] = {}
    for pattern, rank in ranks.items():
        for path in patterns.match(pattern, weights, paths):
            found.setdefault(path, rank)
    return found


def _largest(weight: Weight) -> int:
    return min(weight.fan_in, weight.fan_out) if weight.ins and weight.outs else 0


def _check_fits(name: str, site: Site, method: Method) -> None:
    joint = joint_of(site)
    both = join_methods(site.path, {"the sweep": joint.method, name: method})
    own = make_site(site.weight, method).arrays
    if joint.is_lora and method.rank > joint.method.rank:  # type: ignore[attr-defined]
        raise ValueError(
            f"{name!r} has rank {method.rank} at {site.path}, and this sweep has room for "  # type: ignore[attr-defined]
            f"{joint.method.rank}: make it with ranks={{...: {method.rank}}}"  # type: ignore[attr-defined]
        )
    missing = [array for array in own if array not in site.arrays]
    missing += ["keep"] if both.drops and not joint.drops else []
    missing += ["scale of each layer"] if both.is_layered and not joint.is_layered else []
    if missing:
        raise ValueError(
            f"{name!r} needs {missing[0]!r} at {site.path}, which the program of this sweep does "
            f"not have, for no member did when it was made: make another sweep"
        )
