"""A directory tree as comparable values."""

from __future__ import annotations

import hashlib
import os
import stat

Entry = dict[str, object]


def describe(path: bytes, *, times: bool = True) -> Entry:
    """Everything that an archive can say of one entry; times in ns, not of whiteouts (they have none)."""
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    out: Entry = {"kind": oct(kind), "mode": oct(stat.S_IMODE(st.st_mode)), "owner": (st.st_uid, st.st_gid)}
    whiteout = kind == stat.S_IFCHR and st.st_rdev == 0
    if times and not whiteout:
        out["mtime"] = st.st_mtime_ns
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        out["device"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
    if kind == stat.S_IFLNK:
        out["target"] = os.readlink(path)
    if kind == stat.S_IFREG:
        with open(path, "rb") as f:
            out["content"] = hashlib.file_digest(f, "sha256").hexdigest()
        out["size"] = st.st_size
    if kind != stat.S_IFDIR:
        out["links"] = st.st_nlink
    names = os.listxattr(path, follow_symlinks=False)
    out["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False) for n in sorted(names)}
    return out


def tree(root: str, *, times: bool = True) -> dict[bytes, Entry]:
    """All entries below root by relative name, and the groups of hard links."""
    out: dict[bytes, Entry] = {}
    inodes: dict[int, list[bytes]] = {}
    top = os.fsencode(root)
    for here, dirs, files in os.walk(top):
        for name in dirs + files:
            full = os.path.join(here, name)
            rel = os.path.relpath(full, top)
            out[rel] = describe(full, times=times)
            st = os.lstat(full)
            if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
                inodes.setdefault(st.st_ino, []).append(rel)
    for names in inodes.values():
        for name in names:
            out[name]["same"] = sorted(names)
    return out
