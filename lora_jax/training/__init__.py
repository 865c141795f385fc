"""Training: one label tree, one jitted step, one loop, and runs that resume bit for bit."""

from lora_jax.models import Unstacked, unstack
from lora_jax.training.adapter_files import read_adapter, save_adapter
from lora_jax.training.average import averaged
from lora_jax.training.best import Best
from lora_jax.training.checkpoints import Checkpoints
from lora_jax.training.identity import describe_run, versions
from lora_jax.training.labels import (
    FROZEN,
    FULL,
    HEAD_ONLY,
    LORA,
    join,
    label,
    lora_plus,
    split,
    summary,
)
from lora_jax.training.loop import Result, train
from lora_jax.training.metrics import read_rows
from lora_jax.training.objective import Objective, labelling, writing
from lora_jax.training.optimizer import Optimizer, make_optimizer, make_schedule
from lora_jax.training.placement import (
    check_batch,
    gather_whole,
    on_mesh,
    place,
    place_batch,
    place_state,
    process_rows,
)
from lora_jax.training.processes import TogetherError, connect, is_first, together
from lora_jax.training.progress import Speed, peak_memory
from lora_jax.training.sharding import (
    Shardings,
    make_mesh,
    step_shardings,
    variable_shardings,
)
from lora_jax.training.sinks import Sink, TensorBoard, WandB
from lora_jax.training.state import TrainState, init_state
from lora_jax.training.step import make_step
from lora_jax.training.sweep import Sweep, make_sweep
from lora_jax.training.sweep_members import Member, make_members
from lora_jax.training.sweep_train import MemberRun, SweepResult, train_sweep
from lora_jax.training.workdir import Resume, check_resume, open_workdir, write_json

__all__ = [
    "FROZEN",
    "FULL",
    "HEAD_ONLY",
    "LORA",
    "Best",
    "Checkpoints",
    "Member",
    "MemberRun",
    "Objective",
    "Optimizer",
    "Result",
    "Resume",
    "Shardings",
    "Sink",
    "Speed",
    "Sweep",
    "SweepResult",
    "TensorBoard",
    "TogetherError",
    "TrainState",
    "Unstacked",
    "WandB",
    "averaged",
    "check_batch",
    "check_resume",
    "connect",
    "describe_run",
    "gather_whole",
    "init_state",
    "is_first",
    "join",
    "label",
    "labelling",
    "lora_plus",
    "make_members",
    "make_mesh",
    "make_optimizer",
    "make_schedule",
    "make_step",
    "make_sweep",
    "on_mesh",
    "open_workdir",
    "peak_memory",
    "place",
    "place_batch",
    "place_state",
    "process_rows",
    "read_adapter",
    "read_rows",
    "save_adapter",
    "split",
    "step_shardings",
    "summary",
    "together",
    "train",
    "train_sweep",
    "unstack",
    "variable_shardings",
    "versions",
    "write_json",
    "writing",
]
