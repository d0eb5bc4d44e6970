"""Rows of ``[crio.checkpoint_restore]``."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

ROWS = (
    Row(
        "crio.checkpoint_restore.container_level_enabled",
        "string",
        "checkpoint_restore",
        "What is allowed with checkpoints of containers: checkpoint_restore, checkpoint_only (no restore) or none. "
        "Without the criu program it is none.",
        flags=("--checkpoint-restore-container-level-enabled",),
        env=("CONTAINER_CHECKPOINT_RESTORE_CONTAINER_LEVEL_ENABLED",),
        rules=(rules.one_of("none", "checkpoint_only", "checkpoint_restore"),),
    ),
)
