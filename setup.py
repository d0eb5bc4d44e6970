"""Build of the compiled core: one extension per C unit and the programs; and of pycrio/_build.py, which tells
``pycrio version`` what was built.

Everything is found by the tables below; project metadata is in pyproject.toml. Environment:

PYCRIO_UNITS   comma separated names: build only these extensions and programs (for work on one unit)
PYCRIO_DEBUG   1: no optimisation, assertions on; "asan": with AddressSanitizer and UBSan as well
CC, LDFLAGS    compiler and linker flags, as usual
PYCRIO_STATIC_CC   compiler of the static programs; by default musl-gcc where it is installed and CC is not set, else CC
SOURCE_DATE_EPOCH  seconds since the epoch that count as the time of the build
"""

from __future__ import annotations

import datetime
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
import time

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).parent.resolve()
CSRC = pathlib.Path("csrc")

VERSION = re.search(r'^version = "(.+)"$', (HERE / "pyproject.toml").read_text(), re.MULTILINE).group(1)  # type: ignore[union-attr]

# extension -> (C units it compiles in, libraries it links)
UNITS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "base": ((), ()),
    "inotify": ((), ()),
    "untar": (("untar",), ("isal", "zstd", "crypto", "bz2", "lzma")),
    "mounts": (("mounts",), ()),
    "ns": (("ns",), ()),
    "logmux": (("logmux",), ()),
    "proc": (("proc",), ()),
    "front": (("front",), ()),
    "rpc": (("rpc",), ("nghttp2",)),
}

# compiler and linker flags of a program without libc: not even musl's 40 kB, for what runs once per pod or per probe
BARE = (
    ("-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", f'-DPC_VERSION="{VERSION}"'),
    ("-static", "-nostdlib", "-nostartfiles", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"),
)

# program -> (C units, extra compiler flags, extra linker flags)
PROGRAMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    # -O2 after the common -Os: the log path is a hot loop
    "pycrio-monitor": (("monitor", "logmux"), ("-O2", f'-DPC_VERSION="{VERSION}"'), ("-static",)),
    "pycrio-task": (("task",), (f'-DPC_VERSION="{VERSION}"',), ("-static",)),
    "pycrio-nsexec": (("nsexec",), (f'-DPC_VERSION="{VERSION}"',), ("-static",)),
    "pycrio-exec": (("exec",), BARE[0], BARE[1]),
    "pycrio-pause": (("pause",), BARE[0], BARE[1]),
}

WARN = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Wstrict-prototypes", "-Wundef"]
DEBUG = os.environ.get("PYCRIO_DEBUG", "")
OPT = ["-O0", "-g", "-DPC_DEBUG=1"] if DEBUG else ["-O2", "-g1", "-DNDEBUG"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"] if DEBUG == "asan" else []


def wanted(name: str) -> bool:
    """True when PYCRIO_UNITS is unset or lists the extension or program."""
    chosen = os.environ.get("PYCRIO_UNITS", "")
    return not chosen or name in chosen.split(",")


def sources(units: tuple[str, ...]) -> list[str]:
    return [str(p) for unit in units for p in sorted((CSRC / unit).glob("*.c"))]


# Every file below csrc/ is a dependency of every extension: crude, but an sdist made from this list is complete.
DEPENDS = sorted(str(p) for p in CSRC.rglob("*") if p.is_file())


def extensions() -> list[Extension]:
    out = []
    for name, (units, libraries) in UNITS.items():
        pyx = f"pycrio/_native/{name}.pyx"
        if not wanted(name) or not pathlib.Path(pyx).exists():
            continue
        out.append(
            Extension(
                f"pycrio._native.{name}",
                [pyx, *sources(units)],
                include_dirs=["csrc"],
                libraries=list(libraries),
                depends=DEPENDS,
                define_macros=[("_GNU_SOURCE", "1")],
                extra_compile_args=["-std=gnu11", "-fvisibility=hidden", *OPT, *SANITIZE],
                extra_link_args=["-pthread", *SANITIZE],
            )
        )
    return cythonize(
        out,
        language_level=3,
        compiler_directives={"embedsignature": True, "binding": True, "freethreading_compatible": False},
        build_dir="build/cython",
    )


def git(*words: str) -> str | None:
    """What git says about this checkout; None where there is no checkout or no git."""
    if not (HERE / ".git").exists():  # a source tree inside of somebody else's checkout is not that checkout
        return None
    try:
        done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def static_compiler() -> list[str]:
    """The compiler of programs that are linked statically.

    With musl they start in a fraction of the time: glibc asks the processor about itself at every start, and in a
    virtual machine each of these dozens of questions (cpuid) goes to the hypervisor, half a millisecond together. They
    also have an eighth of the size and half of the memory.
    """
    chosen = os.environ.get("PYCRIO_STATIC_CC")
    if not chosen and not os.environ.get("CC") and not DEBUG and shutil.which("musl-gcc"):
        chosen = "musl-gcc"
    if not chosen:
        return []
    # musl's wrapper hides the kernel's headers, which lie beside those of the system's libc.
    done = subprocess.run(["cc", "-print-multiarch"], check=True, capture_output=True, text=True)
    places = ["/usr/include", f"/usr/include/{done.stdout.strip()}"]
    return [*chosen.split(), *(word for place in places for word in ("-idirafter", place))]


def moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def source() -> dict[str, str]:
    """Commit, its date and the state of the tree: from git, else as the sdist has them."""
    commit, date = git("rev-parse", "HEAD"), git("log", "-1", "--format=%ct")
    changed = git("status", "--porcelain", "--untracked-files=no")
    if commit and date:
        state = "unknown" if changed is None else "dirty" if changed else "clean"
        return {"gitCommit": commit, "gitCommitDate": moment(int(date)), "gitTreeState": state}
    written: dict[str, dict[str, str]] = {}
    if (HERE / "pycrio" / "_build.py").exists():
        exec((HERE / "pycrio" / "_build.py").read_text(), written)
    known = written.get("FACTS", {})
    return {key: known.get(key, "unknown") for key in ("gitCommit", "gitCommitDate", "gitTreeState")}


def write_facts(package: pathlib.Path) -> None:
    """Write ``_build.py`` into the package's directory."""
    libraries = sorted({library for _, needed in UNITS.values() for library in needed})
    facts = source() | {
        "buildDate": moment(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())),
        "linkmode": "dynamic",
        "buildTags": ",".join([*libraries, *(["debug"] if DEBUG else []), *(["asan"] if SANITIZE else [])]),
        "ldFlags": os.environ.get("LDFLAGS", ""),
    }
    lines = [f"    {key!r}: {value!r},\n" for key, value in facts.items()]
    tmp = package / f"_build.py.{os.getpid()}"  # builds of single units run side by side
    tmp.write_text(f'"""What was built; written by setup.py."""\n\nFACTS = {{\n{"".join(lines)}}}\n')
    os.replace(tmp, package / "_build.py")


class BuildNative(build_ext):
    """Extensions as usual, then the programs into pycrio/_native/bin."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if os.environ.get("PYCRIO_UNITS"):  # partial builds may run side by side
            self.build_temp = f"{self.build_temp}-{os.environ['PYCRIO_UNITS'].replace(',', '-')}"

    def build_extensions(self) -> None:
        # Warnings count for our C files; what Cython generates is not ours to mend.
        plain = self.compiler._compile  # type: ignore[attr-defined]

        def compile_one(
            obj: str, src: str, ext: str, cc_args: list[str], postargs: list[str], pp_opts: list[str]
        ) -> None:
            own = src.startswith("csrc/") or "/csrc/" in src
            plain(obj, src, ext, cc_args, [*postargs, *WARN, "-Werror"] if own else [*postargs, "-w"], pp_opts)

        self.compiler._compile = compile_one  # type: ignore[attr-defined]
        super().build_extensions()

    def run(self) -> None:
        super().run()
        root = HERE if self.inplace else pathlib.Path(self.build_lib)
        if self.inplace:
            write_facts(root / "pycrio")
        target = root / "pycrio" / "_native" / "bin"
        target.mkdir(parents=True, exist_ok=True)
        for name, (units, cflags, ldflags) in PROGRAMS.items():
            if wanted(name) and sources(units):
                self.program(target / name, sources(units), list(cflags), list(ldflags))

    def program(self, out: pathlib.Path, files: list[str], cflags: list[str], ldflags: list[str]) -> None:
        cc = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
        bare = "-nostdlib" in ldflags
        static = ldflags if bare or not SANITIZE else []
        sanitize = [] if bare else SANITIZE
        tmp = out.with_name(out.name + ".tmp")
        command = [
            *(cc if bare else static_compiler() or cc),
            *WARN,
            "-Werror",
            *OPT,
            "-Os" if not DEBUG else "-O0",
            "-ffunction-sections",
            "-fdata-sections",
        ]
        command += [
            "-D_GNU_SOURCE=1",
            "-Icsrc",
            *cflags,
            *sanitize,
            *files,
            "-o",
            str(tmp),
            "-Wl,--gc-sections",
            *static,
        ]
        if not DEBUG:
            command.append("-s")
        self.announce(" ".join(command), level=2)
        subprocess.run(command, check=True)
        tmp.chmod(0o755)
        os.replace(tmp, out)

    def get_outputs(self) -> list[str]:
        bin_dir = pathlib.Path(self.build_lib) / "pycrio" / "_native" / "bin"
        return [*super().get_outputs(), *(str(bin_dir / name) for name in PROGRAMS)]


class BuildPython(build_py):
    """Python files as usual, with ``_build.py``; stale compiled files of the source tree stay out of wheels."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_facts(pathlib.Path(self.build_lib) / "pycrio")
        stale = pathlib.Path(self.build_lib) / "pycrio" / "_native" / "bin"
        if stale.exists() and not self.editable_mode:
            shutil.rmtree(stale)


class SourceDist(sdist):
    """As usual, with what git knows: a source distribution has no .git."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_facts(pathlib.Path(base_dir) / "pycrio")


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython, "sdist": SourceDist},
)
