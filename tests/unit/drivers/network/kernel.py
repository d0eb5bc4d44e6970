"""A stand-in for nft, iptables and conntrack that keeps tables in memory: what the driver writes, it reads again."""

from __future__ import annotations

import asyncio
import errno
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio._native.base import NativeError
from pycrio._native.run import Completed

_ELEMENT = re.compile(r"(add|delete) element (\S+ \S+) (\S+) \{ (.*) \}")
_PARTS = re.compile(r'(.*?)(?: comment "(.*?)")?(?: : (.*))?')

Elements = dict[str, tuple[str, str]]


@dataclass
class Kernel:
    """``tables``: family and name → map or set → key → (comment, value). ``calls``: programs that ran, with the verb.
    ``fail`` maps a program to what it says; ``missing`` programs do not exist; ``hold`` stops nft before it commits."""

    tables: dict[str, dict[str, Elements]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    saved: dict[str, str] = field(default_factory=dict)
    fail: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    hold: asyncio.Event | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 0) -> Completed:
        """In place of ``_native.run.run``."""
        assert timeout > 0
        name = argv[0]
        self.calls.append(" ".join(argv))
        if name in self.missing:
            raise NativeError(errno.ENOENT, "No such file or directory", name)
        if name in self.fail:
            return Completed(1, b"", self.fail[name].encode(), False, False)
        if name == "nft":
            return await self._nft(list(argv[1:]), stdin.decode())
        if name.endswith("-save"):
            return Completed(0, self.saved.get(name.partition("-")[0], "*nat\nCOMMIT\n").encode(), b"", False, False)
        if name.endswith("-restore"):
            self.scripts.append(stdin.decode())
        return Completed(0, b"", b"", False, False)

    async def _nft(self, argv: list[str], script: str) -> Completed:
        if argv == ["-j", "list", "tables"]:
            names = [dict(zip(("family", "name"), t.split(), strict=True)) for t in self.tables]
            return self._answer([{"table": t} for t in names])
        if argv[:3] == ["-j", "list", "table"]:
            return self._answer(self._listed(" ".join(argv[3:])))
        assert argv == ["-f", "-"]
        if self.hold is not None:
            self.held.set()
            await self.hold.wait()
        self.scripts.append(script)
        tables = {t: {n: dict(e) for n, e in names.items()} for t, names in self.tables.items()}
        try:
            for line in script.splitlines():
                self._apply(tables, line)
        except KeyError as e:
            return Completed(1, b"", f"Error: Could not process rule: {e.args[0]}".encode(), False, False)
        self.tables = tables
        return Completed(0, b"", b"", False, False)

    def _apply(self, tables: dict[str, dict[str, Elements]], line: str) -> None:
        match = _ELEMENT.fullmatch(line)
        if match is None:
            words = line.split()
            table = " ".join(words[2:4])
            if words[:2] == ["add", "table"]:
                tables.setdefault(table, {})
            elif words[:2] == ["delete", "table"]:
                if tables.pop(table, None) is None:
                    raise KeyError("No such file or directory")
            elif words[1] in ("map", "set"):
                tables[table].setdefault(words[4], {})
            return
        verb, table, name, rest = match.groups()
        parts = _PARTS.fullmatch(rest)
        assert parts is not None
        key, comment, value = parts.groups()
        if table not in tables or name not in tables[table]:
            raise KeyError("No such file or directory")
        elements = tables[table][name]
        if verb == "delete":
            if key not in elements:
                raise KeyError("No such file or directory")
            del elements[key]
        elif elements.setdefault(key, (comment or "", value or ""))[1] != (value or ""):
            raise KeyError("File exists")

    def _listed(self, table: str) -> list[Mapping[str, Any]]:
        out: list[Mapping[str, Any]] = []
        for name, elements in self.tables[table].items():
            if name == "localnets":
                out.append({"set": {"name": name, "elem": [json.loads(key) for key in elements]}})
                continue
            rows: list[Any] = []
            for key, (comment, value) in elements.items():
                entry: Any = {"concat": _numbers(key)}
                entry = {"elem": {"val": entry, "comment": comment}} if comment else entry
                rows.append([entry, {"concat": _numbers(value)}] if value else entry)
            out.append({"map" if name.endswith("ports") else "set": {"name": name, "elem": rows}})
        return out

    def _answer(self, items: Sequence[Mapping[str, Any]]) -> Completed:
        return Completed(0, json.dumps({"nftables": [{"metainfo": {}}, *items]}).encode(), b"", False, False)

    def ports(self, family: str = "ip") -> dict[str, str]:
        """Key → value of everything that is open."""
        names = self.tables.get(f"{family} crio-hostports", {})
        return {k: v for n in ("hostports", "hostipports") for k, (_, v) in names.get(n, {}).items()}

    def hairpins(self, family: str = "ip") -> list[str]:
        return sorted(k.split(" ")[0] for k in self.tables.get(f"{family} crio-hostports", {}).get("hairpins", {}))

    def changes(self) -> list[str]:
        """Programs that changed something; forgotten afterwards."""
        found = [c for c in self.calls if "list" not in c and "-save" not in c]
        self.calls.clear()
        return found


def _numbers(text: str) -> list[str | int]:
    return [int(word) if word.isdigit() else word for word in text.split(" . ")]
