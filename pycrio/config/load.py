"""Collects the configuration: defaults, storage.conf, main file, drop-ins, environment, flags, in rising order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pycrio.config import check, decode, documents, migrate, storage_conf
from pycrio.config.options import BY_KEY, ROWS, Value
from pycrio.config.options.handlers import BUILT_IN
from pycrio.config.values import Config, HandlerConf, Origin, Sources
from pycrio.errors import ConfigError

Settings = Mapping[str, tuple[Value, Origin]]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the host says about defaults; tests give their own."""

    systemd: bool
    selinux: bool
    storage_files: tuple[str, ...] = storage_conf.FILES


def host_facts() -> HostFacts:
    """Look at this host: is systemd in charge, is SELinux enabled."""
    return HostFacts(os.path.isdir("/run/systemd/system"), os.path.exists("/sys/fs/selinux/enforce"))


def load(
    flags: Settings, environ: Mapping[str, str], host: HostFacts | None = None, *, read_files: bool = True
) -> Config:
    """The effective configuration of a daemon with these flags and environment.

    ``read_files`` False leaves crio.conf and its drop-ins out (``pycrio config --default``). Raises ConfigError with
    every fault that was found.
    """
    settings, faults = from_environment(environ)
    if faults:
        raise ConfigError(faults)
    settings.update(flags)
    sources = _sources(settings) if read_files else Sources()
    return _build(sources, settings, environ, host or host_facts())


def reread(config: Config, environ: Mapping[str, str], host: HostFacts | None = None) -> Config:
    """What the files of ``config`` say now, without flags and environment: the SIGHUP view. Raises ConfigError."""
    sources = config.sources
    again = Sources(sources.main, sources.main_required, sources.drop_in_dir)
    return _build(again, {}, environ, host or host_facts())


def from_environment(environ: Mapping[str, str]) -> tuple[dict[str, tuple[Value, Origin]], list[str]]:
    """Values that environment variables give, and what is wrong with them. An empty number counts as not given."""
    out: dict[str, tuple[Value, Origin]] = {}
    faults: list[str] = []
    for row in ROWS:
        for name in row.env:
            text = environ.get(name)
            if text is None or (not text and row.kind in {"int", "duration"}):
                continue
            origin = Origin("env", name)
            if not text and row.kind == "bool":
                out[row.key] = (False, origin)
                break
            try:
                out[row.key] = (decode.from_text(row, text), origin)
            except ValueError as error:
                faults.append(f"{origin}: {error}")
            break
    return out, faults


def _sources(settings: Settings) -> Sources:
    def path(key: str) -> str:
        return str(settings[key][0] if key in settings else BY_KEY[key].default)

    main = path("cli.config")
    return Sources(main, "cli.config" in settings and bool(main), path("cli.config_dir"))


def _build(sources: Sources, settings: Settings, environ: Mapping[str, str], host: HostFacts) -> Config:
    draft = decode.Draft({row.key: row.default for row in ROWS})
    draft.values["crio.runtime.cgroup_manager"] = "systemd" if host.systemd else "cgroupfs"
    draft.values["crio.runtime.selinux"] = host.selinux
    stored = storage_conf.defaults(environ, host.storage_files)
    decode.apply_settings(draft, stored)
    defaults = dict(draft.values)
    for name, fields in BUILT_IN.items():
        draft.handlers[name] = HandlerConf(name, **fields)  # type: ignore[arg-type]
    files = _read_files(draft, sources)
    decode.apply_settings(draft, settings)
    migrate.migrate(draft)
    read = Sources(sources.main, sources.main_required, sources.drop_in_dir, files)
    config = Config(draft.values, defaults, draft.origins, draft.handlers, draft.workloads, tuple(draft.warnings), read)
    return check.checked(config, draft.faults)


def _read_files(draft: decode.Draft, sources: Sources) -> tuple[str, ...]:
    paths = [sources.main] if sources.main and (sources.main_required or os.path.exists(sources.main)) else []
    paths += _drop_ins(draft, sources.drop_in_dir)
    for path in paths:
        try:
            decode.apply_document(draft, documents.read(path))
        except FileNotFoundError:
            draft.fault(path, "", "does not exist")
        except OSError as error:
            draft.fault(path, "", f"cannot be read: {error.strerror}")
    return tuple(paths)


def _drop_ins(draft: decode.Draft, directory: str) -> list[str]:
    """Every file below the directory; names are compared level by level, as a walk in lexical order meets them."""
    if not directory or not os.path.isdir(directory):
        return []
    found: list[str] = []

    def failed(error: OSError) -> None:
        draft.fault(str(error.filename), "", f"cannot be read: {error.strerror}")

    for top, _, names in os.walk(directory, onerror=failed):
        found += [os.path.join(top, name) for name in names]
    odd = [path for path in found if os.path.exists(path) and not os.path.isfile(path)]
    for path in odd:  # a fifo would keep us waiting for ever
        draft.fault(path, "", "is not a regular file")
    return sorted(set(found) - set(odd), key=lambda path: path.split("/"))
