"""What generated text must not do: repeat itself, or end too early."""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules that hold for sampling and for beam search.

    Args:
        stop_ids: tokens that end a text; None takes those of the model, () lets it run on.
        min_new_tokens: a text has at least this many new tokens before the one that ends it.
        repetition_penalty: above 1 makes tokens of the text less likely to come again, prompt
            included; 1 changes nothing.
        no_repeat_ngram: no sequence of this many tokens comes twice, prompt included; 0 allows it.

    Raises:
        ValueError: a setting is out of its range.
    """

    stop_ids: tuple[int, ...] | None = None
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        require(self.min_new_tokens >= 0, "min_new_tokens", self.min_new_tokens, "0 or more")
        require(self.no_repeat_ngram >= 0, "no_repeat_ngram", self.no_repeat_ngram, "0 or more")
        penalty = self.repetition_penalty
        require(penalty > 0, "repetition_penalty", penalty, "positive; 1.0 changes nothing")

    def enforce(
        self,
        scores: Float[Array, "rows vocab"],
        text: Int[Array, "rows columns"],
        end: Int[Array, ""],
        step: Int[Array, ""],
    ) -> Float[Array, "rows vocab"]:
        """Lowers the scores of next tokens that break a rule.

        Args:
            scores: logits or log probabilities of the next token.
            text: tokens so far, side by side up to column `end`; -1 before and after them.
            end: the column that the next token will take.
            step: number of tokens generated so far.

        Returns:
            The scores, -inf where a token is forbidden.
        """
        if self.repetition_penalty != 1:
            scores = penalize(scores, text, self.repetition_penalty)
        if self.no_repeat_ngram:
            scores = forbid_repeats(scores, text, end, self.no_repeat_ngram)
        if self.min_new_tokens and self.stop_ids:
            unstoppable = scores.at[:, jnp.array(self.stop_ids)].set(-jnp.inf)
            scores = jnp.where(step < self.min_new_tokens, unstoppable, scores)
        return scores


def penalize(
    scores: Float[Array, "rows vocab"], text: Int[Array, "rows columns"], penalty: float
) -> Float[Array, "rows vocab"]:
    """Divides positive scores of tokens in the text by the penalty, and multiplies negative ones.

    Args:
        scores: logits or log probabilities.
        text: token ids; -1 where there is none.
        penalty: above 1 makes tokens of the text less likely.

    Returns:
        The scores after the penalty.

    Source: Keskar et al., 2019, section 4.1.

    >>> penalize(jnp.array([[2.0, -2.0, 2.0]]), jnp.array([[0, 1, -1]]), 2.0).tolist()
    [[1.0, -4.0, 2.0]]
    """
    penalized = jnp.where(scores < 0, scores * penalty, scores / penalty)
    return jnp.where(_among(text, scores), penalized, scores)


def forbid_repeats(
    scores: Float[Array, "rows vocab"],
    text: Int[Array, "rows columns"],
    end: Int[Array, ""] | int,
    size: int,
) -> Float[Array, "rows vocab"]:
    """Forbids each token that would complete a sequence of `size` tokens which the text has.

    Args:
        scores: logits or log probabilities.
        text: token ids, side by side up to column `end`; -1 before and after them.
        end: the column that the next token will take.
        size: length of the sequences that may come once only, at least 1.

    Returns:
        The scores, -inf where a token is forbidden.

    Source: Paulus et al., 2017, section 2.5.

    >>> forbid_repeats(jnp.zeros((1, 3)), jnp.array([[1, 2, 1, -1]]), 3, 2).tolist()
    [[0.0, 0.0, -inf]]
    """
    windows = text.shape[1] - size + 1
    if windows < 1:
        return scores
    # Clamped at the start of a short text, where nothing can repeat yet.
    last = lax.dynamic_slice_in_dim(text, end - size + 1, size - 1, axis=1)
    same = jnp.broadcast_to(jnp.asarray(end >= size), (text.shape[0], windows))
    for i in range(size - 1):
        same = same & (text[:, i : i + windows] == last[:, i : i + 1])
    completing = jnp.where(same, text[:, size - 1 :], -1)
    return jnp.where(_among(completing, scores), -jnp.inf, scores)


def require(holds: bool, field: str, value: object, wanted: str) -> None:
    """Raises ValueError unless the value of a setting is as wanted."""
    if not holds:
        raise ValueError(f"{field} = {value!r}; it must be {wanted}")


def _among(tokens: Int[Array, "rows columns"], scores: Float[Array, "rows vocab"]) -> Array:
    """Which tokens of the vocabulary each row names; -1 names none."""
    rows, vocab = scores.shape
    named = jnp.zeros((rows, vocab), bool)
    # -1 would count from the end of the vocabulary.
    tokens = jnp.where(tokens < 0, vocab, tokens)
    return named.at[jnp.arange(rows)[:, None], tokens].set(True, mode="drop")
