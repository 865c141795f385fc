"""The image tower of Qwen2.5-VL: images of any size, attention in windows (Bai et al., 2025)."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import attention
from lora_jax.models.checks import check_name
from lora_jax.models.layers import DTYPES, Linear, RMSNorm
from lora_jax.models.qwen2_5_vl_plan import VisionPlan
from lora_jax.models.rope import Rope, Tables, rotate
from lora_jax.models.stack import REMAT_POLICIES, run_stack, stack_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """What makes one image tower different from another.

    Args:
        dim: width of the hidden state, a multiple of four times `heads`.
        layers: number of layers.
        heads: number of attention heads.
        ff_dim: width inside the feed-forward block.
        out_dim: width of the vectors that go to the decoder.
        channels: channels of an image.
        patch: pixels that a patch is high and wide.
        frames: frames that a patch is long.
        merge: patches of a square of `merge` × `merge` become one token.
        window: height and width in squares of the windows that patches look around in.
        full_layers: numbers of the layers whose patches look at the whole image.
        activation: of the gate of the feed-forward block, a name in `ACTIVATIONS`.
        theta: base of the rotary positions.
        eps: added to the mean square in normalisation.
        dtype: name of the type of activations and of the operands of products.
        scan: scan over the layers; otherwise unroll them.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: sizes do not fit each other, or a name is unknown.
    """

    dim: int = 1280
    layers: int = 32
    heads: int = 16
    ff_dim: int = 3420
    out_dim: int = 3584
    channels: int = 3
    patch: int = 14
    frames: int = 2
    merge: int = 2
    window: int = 4
    full_layers: tuple[int, ...] = (7, 15, 23, 31)
    activation: str = "silu"
    theta: float = 10000.0
    eps: float = 1e-6
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        check_name("dtype", self.dtype, DTYPES)
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("remat", self.remat, REMAT_POLICIES)
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim {self.dim} is not a multiple of four times heads {self.heads}")
        if self.window < 1:
            raise ValueError("a window is smaller than a square of merged patches")
        if any(not 0 <= number < self.layers for number in self.full_layers):
            raise ValueError(f"full_layers {self.full_layers} are not among {self.layers} layers")

    @property
    def patch_numbers(self) -> int:
        """How many numbers a patch is made of."""
        return self.channels * self.frames * self.patch**2


class Layer(nnx.Module):
    """Self-attention and a gated feed-forward block, each added to its unnormalised input."""

    def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(RMSNorm, config.dim, eps=config.eps, dtype=config.dtype)
        self.attention_norm = norm()
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, config.dim)
        self.v_proj = linear(config.dim, config.dim)
        self.o_proj = linear(config.dim, config.dim)
        self.mlp_norm = norm()
        self.gate_proj = linear(config.dim, config.ff_dim)
        self.up_proj = linear(config.dim, config.ff_dim)
        self.down_proj = linear(config.ff_dim, config.dim)
        self.config = config

    def __call__(
        self,
        hidden: Float[Array, "patches dim"],
        plan: VisionPlan,
        turn: Tables,
        full: Bool[Array, ""],
    ) -> Float[Array, "patches dim"]:
        """Applies the layer.

        Args:
            hidden: output of the layer before.
            plan: which patches look at each other.
            turn: cosines and sines of the rotary positions.
            full: whether patches look at their whole image, or at their window.

        Returns:
            The hidden states.
        """
        x = self.attention_norm(hidden)
        by_head = (1, len(x), self.config.heads, -1)
        q, k, v = (p(x).reshape(by_head) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = rotate(q, turn)[0], rotate(k, turn)[0], v[0]
        # No weight goes into the branches: adapters stay factored.
        mixed = lax.cond(
            full,
            lambda q, k, v: _attend(q, k, v, plan.images, plan.in_images, self.config.dtype),
            lambda q, k, v: _attend(q, k, v, plan.windows, plan.in_windows, self.config.dtype),
            q,
            k,
            v,
        )
        hidden = hidden + self.o_proj(mixed.reshape(x.shape))
        x = self.mlp_norm(hidden)
        activate = ACTIVATIONS[self.config.activation]
        return hidden + self.down_proj(activate(self.gate_proj(x)) * self.up_proj(x))


class QwenVisionTower(nnx.Module):
    """Patches to hidden states.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs) -> None:
        self.patches = Linear(
            config.patch_numbers, config.dim, dtype=config.dtype, rngs=rngs, bias=False
        )
        self.layers = stack_layers(functools.partial(Layer, config), config.layers, rngs)
        self.config = config

    def __call__(
        self, pixels: Float[Array, "patches numbers"], plan: VisionPlan
    ) -> Float[Array, "patches dim"]:
        """Reads the patches of all images of a batch.

        Args:
            pixels: the patches, as `hub.PatchProcessor` orders them.
            plan: of these images.

        Raises:
            ValueError: the plan is of other images, or the patches have another size.
        """
        config = self.config
        wanted = (len(plan.places), config.patch_numbers)
        if pixels.shape != wanted:
            raise ValueError(
                f"pixels have the shape {pixels.shape}, but the plan and the model take {wanted}"
            )
        turn = self.turn(plan)
        return run_stack(
            self.layers,
            lambda layer, hidden, full: layer(hidden, plan, turn, full),
            self.patches(pixels),
            scan=config.scan,
            remat=config.remat,
            each=jnp.array([number in config.full_layers for number in range(config.layers)]),
        )

    def turn(self, plan: VisionPlan) -> Tables:
        """Half of a head's pairs turn with the row of a patch, half with its column."""
        config = self.config
        frequencies = Rope(theta=config.theta).frequencies(config.dim // config.heads // 2)
        angles = plan.places[..., None].astype(jnp.float32) * frequencies
        angles = angles.reshape(1, len(plan.places), -1)
        return jnp.cos(angles), jnp.sin(angles)


class Merger(nnx.Module):
    """Squares of patches to embeddings of the decoder.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        width = config.dim * config.merge**2
        self.norm = RMSNorm(config.dim, eps=config.eps, dtype=config.dtype)
        self.fc1 = linear(width, width)
        self.fc2 = linear(width, config.out_dim)

    def __call__(self, hidden: Float[Array, "patches dim"]) -> Float[Array, "squares out_dim"]:
        """Joins the patches of each square."""
        squares = self.norm(hidden).reshape(-1, self.fc1.kernel.shape[0])
        return self.fc2(ACTIVATIONS["gelu"](self.fc1(squares)))


def _attend(
    q: Float[Array, "patches heads head_dim"],
    k: Float[Array, "patches heads head_dim"],
    v: Float[Array, "patches heads head_dim"],
    groups: Int[Array | np.ndarray, "groups size"],
    slots: Int[Array | np.ndarray, " patches"],
    dtype: str,
) -> Float[Array, "patches heads head_dim"]:
    """Attention inside each group of patches."""
    q, k, v = (jnp.take(x, jnp.maximum(groups, 0), axis=0) for x in (q, k, v))
    allowed = jnp.asarray(groups >= 0)[:, None, None, :]
    mixed = attention(q, k, v, allowed, dtype)
    return jnp.take(mixed.reshape(-1, *q.shape[2:]), slots, axis=0)
