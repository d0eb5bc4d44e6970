"""Does a wheel that was built from the sdist work? `make dist-check` builds both, has auditwheel put the libraries into
the wheel, and calls this with their directory.

The wheel is unpacked beside nothing of the checkout; dependencies come from the interpreter that runs this.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ("pycrio-exec", "pycrio-monitor", "pycrio-nsexec", "pycrio-pause", "pycrio-task")
PROBE = """
import importlib, pkgutil, sys
import pycrio
assert "@DIR@" in pycrio.__file__, pycrio.__file__
for module in pkgutil.walk_packages(pycrio.__path__, "pycrio."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from pycrio.wiring import program
import os
for name in @PROGRAMS@:
    assert os.access(program(name), os.X_OK), name
from pycrio.__main__ import main
sys.exit(main(["version"]) or main(["config", "--default"]))
"""


def check(directory: pathlib.Path) -> None:
    """Raise when something is missing from the sdist or does not work in the wheel."""
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*-manylinux*.whl")
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
        member = archive.extractfile(next(name for name in archive.getnames() if name.endswith("/pycrio/_build.py")))
        assert member is not None
        told = re.search(r"'gitCommit': '([0-9a-f]{40})'", member.read().decode())
    needed = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.[ch]")}
    needed |= {str(p.relative_to(ROOT)) for p in (ROOT / "pycrio").rglob("*.py[xi]*") if p.suffix in {".pyx", ".pyi"}}
    needed |= {str(p.relative_to(ROOT)) for p in (ROOT / "pycrio" / "_native").glob("*.pxd")}
    missing = sorted(needed - shipped)
    assert not missing, f"the sdist lacks {missing}"
    assert told, "the sdist does not know its commit"
    subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{told[1]}^{{commit}}"], check=True)
    with tempfile.TemporaryDirectory(prefix="pycrio-dist-") as scratch:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                target = pathlib.Path(archive.extract(info, scratch))
                if not info.is_dir():
                    target.chmod((info.external_attr >> 16) & 0o777 or 0o644)
        for name in PROGRAMS:
            program = pathlib.Path(scratch, "pycrio", "_native", "bin", name)
            assert program.stat().st_mode & 0o111, f"{name} is not executable in the wheel"
        for extension in pathlib.Path(scratch, "pycrio", "_native").glob("*.so"):
            check_libraries(extension, scratch)
        probe = PROBE.replace("@DIR@", scratch).replace("@PROGRAMS@", repr(PROGRAMS))
        done = subprocess.run(
            [sys.executable, "-c", probe],
            cwd=scratch,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": scratch},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert "[crio.runtime]" in done.stdout
        facts = dict(line.partition(":")[::2] for line in done.stdout.splitlines())
        assert facts["GitCommit"].strip() == told[1], "the wheel does not know its commit"
        assert facts["BuildDate"].strip().endswith("Z")
    print(f"{sdist.name} and {wheel.name}: complete, imports, programs and commands work")


def check_libraries(extension: pathlib.Path, scratch: str) -> None:
    """Raise when a compiled module takes more from the machine than the C library and what Python itself stands on."""
    linked = subprocess.run(["ldd", extension], capture_output=True, text=True, check=True).stdout
    foreign = []
    for line in linked.splitlines():
        name, _, place = line.strip().partition(" => ")
        if place and not place.startswith(scratch) and not re.match(r"lib(c|m|pthread|dl|rt)\.so\.", name):
            foreign.append(line.strip())
    assert not foreign, f"{extension.name} needs libraries of the machine: {foreign}"


if __name__ == "__main__":
    check(pathlib.Path(sys.argv[1]))
