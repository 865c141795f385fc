# mypy: disable-error-code="import-not-found, import-untyped"
"""Records what bitsandbytes makes of a matrix, for the tests; needs torch and bitsandbytes.

python scripts/record_bitsandbytes.py
"""

from pathlib import Path

import numpy as np

OUT = Path(__file__).parent.parent / "tests" / "fixtures" / "bitsandbytes" / "nf4.npz"


def weight() -> np.ndarray:
    """An [out, in] matrix of 320 blocks, so two groups; some outputs are large, some blocks zero.

    Returns:
        The same matrix wherever it is made.
    """
    w = np.random.default_rng(0).normal(size=(80, 256)).astype(np.float32) / 50
    w[5] *= 20
    w[7, :64] = 0
    return w


def main() -> None:
    """Quantises the matrix and writes codes, scales, tables and a few rows of the result."""
    import torch
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        torch.tensor(weight()), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        OUT,
        codes=packed.numpy().reshape(80, 128),
        scales=state.absmax.numpy().reshape(80, 4),
        groups=state.state2.absmax.numpy(),
        offset=state.offset.numpy(),
        table=state.code.numpy(),
        scale_table=state.state2.code.numpy(),
        first_rows=functional.dequantize_4bit(packed, state).numpy()[:8],
    )


if __name__ == "__main__":
    main()
