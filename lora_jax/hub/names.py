"""How the tensors of a family are called in Hugging Face checkpoints, as data."""

from collections.abc import Mapping
from typing import NamedTuple


class Stored(NamedTuple):
    """One of our parameters and the tensors it is read from.

    Args:
        path: our '/'-joined path.
        name: name of the tensor; with `{layer}` in it, one tensor per layer, to be stacked.
        transpose: whether the file holds the axes of one tensor in reverse order.
    """

    path: str
    name: str
    transpose: bool = False

    @property
    def stacked(self) -> bool:
        """Whether there is one tensor per layer."""
        return "{layer}" in self.name

    def names(self, shape: tuple[int, ...]) -> list[str]:
        """The names of the tensors that make up a parameter of the given shape."""
        layers = shape[0] if self.stacked else 1
        return [self.name.format(layer=layer) for layer in range(layers)]


class Names(NamedTuple):
    """The table of a family.

    Args:
        stored: one row per parameter.
        prefixes: what may stand before every name, depending on the class that saved the file.
        renames: older spellings of the end of a name, and what they became.
        unused: regular expressions of tensors that are known and not needed.
    """

    stored: tuple[Stored, ...]
    prefixes: tuple[str, ...] = ()
    renames: Mapping[str, str] = {}
    unused: tuple[str, ...] = ()

    def canonical(self, name: str) -> str:
        """Removes the prefix of a tensor name and brings older spellings up to date.

        >>> Names((), prefixes=("bert.",), renames={".gamma": ".weight"}).canonical("bert.n.gamma")
        'n.weight'
        """
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        for old, new in self.renames.items():
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name
