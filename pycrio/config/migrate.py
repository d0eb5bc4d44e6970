"""What becomes of deprecated keys, and the values that follow from other values."""

from __future__ import annotations

from dataclasses import replace

from pycrio.config import units
from pycrio.config.decode import RUNTIMES, Draft
from pycrio.config.options import BY_KEY, HANDLER, ROWS, Row
from pycrio.config.values import HandlerConf

_R = "crio.runtime."
_LOWEST_TIMEOUT = 30


def migrate(draft: Draft) -> None:
    """Warn once per deprecated or unbuilt key, move what has a successor there, and fill in what follows."""
    for row in ROWS:
        _warn(draft, row)
    _move(draft)
    _floors(draft)
    for name in list(draft.handlers):
        _inherit(draft, name)
    for name, handler in draft.handlers.items():
        draft.handlers[name] = _handler(draft, handler)
    for key in ("conmon", "conmon_cgroup", "conmon_env"):
        _drop(draft, _R + key)


def _warn(draft: Draft, row: Row) -> None:
    origin = draft.origins.get(row.key)
    if origin is None or origin.kind == "storage.conf":
        return
    if row.deprecated:
        draft.warnings.append(f"{origin}: {row.key} is deprecated: {row.deprecated}")
    if row.later and draft.values[row.key] != row.unused:
        draft.warnings.append(f"{origin}: {row.key} has no effect: this version lacks {row.later}")


def _drop(draft: Draft, key: str) -> None:
    """Back to the default: its successor has the value now."""
    draft.values[key] = BY_KEY[key].default
    draft.origins.pop(key, None)


def _move(draft: Draft) -> None:
    values, origins = draft.values, draft.origins
    extra = draft.text("crio.network.plugin_dir")
    if extra:
        values["crio.network.plugin_dirs"] = tuple(dict.fromkeys((*draft.texts("crio.network.plugin_dirs"), extra)))
        origins["crio.network.plugin_dirs"] = origins["crio.network.plugin_dir"]
        _drop(draft, "crio.network.plugin_dir")
    if "crio.stats.stats_collection_period" in origins:
        if "crio.stats.collection_period" not in origins:
            values["crio.stats.collection_period"] = values["crio.stats.stats_collection_period"]
            origins["crio.stats.collection_period"] = origins["crio.stats.stats_collection_period"]
        _drop(draft, "crio.stats.stats_collection_period")
    if _R + "enable_criu_support" in origins:
        level = "crio.checkpoint_restore.container_level_enabled"
        if values[_R + "enable_criu_support"] is False:
            values[level] = "none"
            origins[level] = origins[_R + "enable_criu_support"]
        _drop(draft, _R + "enable_criu_support")
    _drop(draft, _R + "default_mounts")
    _drop(draft, "crio.image.insecure_registries")


def _floors(draft: Draft) -> None:
    values = draft.values
    for key in ("crio.api.grpc_max_send_msg_size", "crio.api.grpc_max_recv_msg_size"):
        if draft.number(key) <= 0:
            values[key] = BY_KEY[key].default
    stop = draft.number(_R + "ctr_stop_timeout")
    if stop < _LOWEST_TIMEOUT:
        origin = draft.origins[_R + "ctr_stop_timeout"]
        draft.warnings.append(f"{origin}: {_R}ctr_stop_timeout is raised from {stop} to {_LOWEST_TIMEOUT} seconds")
        values[_R + "ctr_stop_timeout"] = _LOWEST_TIMEOUT
    if not values[_R + "default_runtime"]:
        values[_R + "default_runtime"] = BY_KEY[_R + "default_runtime"].default
    if not values["crio.image.short_name_mode"]:
        values["crio.image.short_name_mode"] = BY_KEY["crio.image.short_name_mode"].default


def _inherit(draft: Draft, name: str) -> None:
    default = draft.handlers.get(str(draft.values[_R + "default_runtime"]))
    handler = draft.handlers[name]
    if handler.inherit_default_runtime and default is not None and default.name != name:
        draft.handlers[name] = replace(
            handler,
            # An empty path of the default handler means its own name, not that of the heir.
            runtime_path=default.runtime_path or default.name,
            runtime_type=default.runtime_type,
            runtime_config_path=default.runtime_config_path,
            runtime_root=default.runtime_root,
        )


def _handler(draft: Draft, handler: HandlerConf) -> HandlerConf:
    for row in HANDLER:
        _warn_field(draft, handler, row)
    cgroup = draft.text(_R + "conmon_cgroup") or handler.monitor_cgroup
    if draft.text(_R + "cgroup_manager") == "systemd":
        cgroup = cgroup or "system.slice"
    elif cgroup == "system.slice":
        cgroup = ""
    memory = _min_memory(draft, handler)
    timeout = handler.container_create_timeout or HandlerConf("").container_create_timeout
    key = f"{RUNTIMES}.{handler.name}.container_create_timeout"
    if 0 < timeout < _LOWEST_TIMEOUT and handler.runtime_type != "pod":
        draft.warnings.append(f"{draft.origins[key]}: {key} is raised from {timeout} to {_LOWEST_TIMEOUT} seconds")
        timeout = _LOWEST_TIMEOUT
    return replace(
        handler,
        runtime_type=handler.runtime_type or "oci",
        monitor_path=draft.text(_R + "conmon") or handler.monitor_path,
        monitor_cgroup=cgroup,
        monitor_env=draft.texts(_R + "conmon_env") or handler.monitor_env,
        container_min_memory=memory,
        container_create_timeout=timeout,
    )


def _min_memory(draft: Draft, handler: HandlerConf) -> str:
    default = HandlerConf("").container_min_memory
    try:
        units.size(handler.container_min_memory or default)
    except ValueError as error:
        key = f"{RUNTIMES}.{handler.name}.container_min_memory"
        draft.warnings.append(f"{draft.origins.get(key, 'default')}: {key}: {error}; {default} is used")
        return default
    return handler.container_min_memory or default


def _warn_field(draft: Draft, handler: HandlerConf, row: Row) -> None:
    key = f"{RUNTIMES}.{handler.name}.{row.name}"
    origin = draft.origins.get(key)
    if origin is None:
        return
    if row.deprecated:
        draft.warnings.append(f"{origin}: {key} is deprecated: {row.deprecated}")
    if row.later and getattr(handler, row.name) != row.unused:
        draft.warnings.append(f"{origin}: {key} has no effect: this version lacks {row.later}")
