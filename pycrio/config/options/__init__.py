"""Every option of pycrio as a row, one module per TOML table, in the order in which they are printed."""

from __future__ import annotations

from pycrio.config.options import (
    api,
    checkpoint_restore,
    command_line,
    handlers,
    image,
    metrics,
    network,
    nri,
    root,
    runtime,
    stats,
    tracing,
)
from pycrio.config.options.row import Kind, Reload, Row, Rule, Value

FILE_ROWS: tuple[Row, ...] = (
    *root.ROWS,
    *api.ROWS,
    *runtime.ROWS,
    *checkpoint_restore.ROWS,
    *image.ROWS,
    *network.ROWS,
    *metrics.ROWS,
    *tracing.ROWS,
    *nri.ROWS,
    *stats.ROWS,
)
ROWS: tuple[Row, ...] = (*FILE_ROWS, *command_line.ROWS)
BY_KEY: dict[str, Row] = {row.key: row for row in ROWS}
BY_FLAG: dict[str, Row] = {flag: row for row in ROWS for flag in row.flags}
HANDLER: tuple[Row, ...] = handlers.HANDLER
WORKLOAD: tuple[Row, ...] = handlers.WORKLOAD
RESOURCES: tuple[Row, ...] = handlers.RESOURCES

__all__ = [
    "BY_FLAG",
    "BY_KEY",
    "FILE_ROWS",
    "HANDLER",
    "RESOURCES",
    "ROWS",
    "WORKLOAD",
    "Kind",
    "Reload",
    "Row",
    "Rule",
    "Value",
]
