"""How the next token is chosen: the likeliest, or one drawn among the likely."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from lora_jax.evaluation.rules import Rules, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(Rules):
    """Greedy decoding, or with a temperature above 0 random sampling.

    Args:
        temperature: 0 takes the likeliest token; otherwise logits are divided by it before one
            is drawn.
        top_k: draw among this many of the likeliest tokens; 0: among all.
        top_p: draw among the fewest tokens that together have this probability, in (0, 1].
        min_p: draw among tokens with at least this fraction of the likeliest one's probability,
            in [0, 1].

    The filters act in this order, each on what the one before has left.

    Raises:
        ValueError: a setting is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or positive")
        require(self.top_k >= 0, "top_k", self.top_k, "a number of tokens, or 0 for all")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, and at most 1 (all tokens)")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 (all tokens) to 1")

    @property
    def greedy(self) -> bool:
        """Whether nothing is random."""
        return self.temperature == 0

    def choose(
        self,
        logits: Float[Array, "rows vocab"],
        keys: Key[Array, " rows"] | None,
        step: Int[Array, ""] | int,
    ) -> Int[Array, " rows"]:
        """Chooses a token for each row.

        Args:
            logits: scores of the next token, after the rules.
            keys: a key for each row; None if greedy.
            step: number of tokens generated so far; each has its own randomness.

        Returns:
            Token ids.
        """
        if self.greedy or keys is None:
            return logits.argmax(axis=-1).astype(jnp.int32)
        logits = logits / self.temperature
        if self.top_k:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p > 0:
            logits = keep_min_p(logits, self.min_p)
        # One key a row: what a row says does not hang on who else is in the batch.
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def keep_top_k(logits: Float[Array, "rows vocab"], k: int) -> Float[Array, "rows vocab"]:
    """Sets all but the k highest logits of each row to -inf; equals of the k-th stay too.

    Source: Fan et al., 2018, section 5.4.
    """
    lowest = lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits < lowest, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "rows vocab"], p: float) -> Float[Array, "rows vocab"]:
    """Keeps the fewest tokens that together have probability p or more; -inf for the others.

    Source: Holtzman et al., 2019, section 3.1.
    """
    order = jnp.argsort(logits, axis=-1)
    ascending = jnp.take_along_axis(logits, order, axis=-1)
    below = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
    dropped = (below <= 1 - p).at[:, -1].set(False)  # one is always left
    rows = jnp.arange(logits.shape[0])[:, None]
    return logits.at[rows, order].set(jnp.where(dropped, -jnp.inf, ascending))


def keep_min_p(logits: Float[Array, "rows vocab"], p: float) -> Float[Array, "rows vocab"]:
    """Keeps tokens with at least p times the probability of the likeliest; -inf for the others.

    Source: Nguyen et al., 2024, section 3.
    """
    return jnp.where(logits < logits.max(axis=-1, keepdims=True) + jnp.log(p), -jnp.inf, logits)
