"""Generates the private ``_pb`` packages from ``protos/`` (``make proto``; needs grpcio-tools).

Only messages are generated. For the CRI handlers are registered from a table (pycrio/api/methods.py), so that list
answers can be bytes which were serialised before; NRI plugins and shims are called by ttrpc (pycrio/ttrpc).
With a directory as argument the files of the CRI go there instead.
"""

from __future__ import annotations

import importlib.resources
import keyword
import pathlib
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent
PACKAGE = ROOT.parent / "pycrio"
PROTO = "runtime/v1/api.proto"
PRIVATE = PACKAGE / "api" / "_pb"
OTHERS: dict[pathlib.Path, tuple[str, ...]] = {
    PACKAGE / "drivers" / "nri" / "_pb": ("nri/v1alpha1/nri.proto",),
    PACKAGE / "drivers" / "shim" / "_pb": ("shim/v2/task.proto", "shim/v2/metrics1.proto", "shim/v2/metrics2.proto"),
    PACKAGE / "ttrpc" / "_pb": ("ttrpc/v1/ttrpc.proto",),
}


def generate(target: pathlib.Path, *protos: str) -> None:
    """Write the two generated modules of each proto (default: the CRI's) into a directory; RuntimeError when the
    compiler rejects one."""
    from grpc_tools import protoc

    include = str(importlib.resources.files("grpc_tools") / "_proto")
    for proto in protos or (PROTO,):
        with tempfile.TemporaryDirectory() as scratch:
            arguments = [
                "protoc",
                f"-I{ROOT}",
                f"-I{include}",
                f"--python_out={scratch}",
                f"--pyi_out={scratch}",
                proto,
            ]
            if protoc.main(arguments) != 0:
                raise RuntimeError(f"protoc failed on {proto}: its complaint is above")
            for suffix in ("_pb2.py", "_pb2.pyi"):
                made = pathlib.Path(scratch, proto).with_suffix("")
                shutil.copyfile(f"{made}{suffix}", target / f"{made.name}{suffix}")
            stub = target / f"{made.name}_pb2.pyi"
            stub.write_text(valid(stub.read_text()))


def valid(stub: str) -> str:
    """The compiler writes fields and values whose names are keywords (``class``, ``None``) as they stand, which no type
    checker can read; code reaches them with getattr."""
    lines = stub.splitlines(keepends=True)
    return "".join(line for line in lines if not keyword.iskeyword(line.partition(":")[0].strip()))


if __name__ == "__main__":
    generate(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else PRIVATE)
    if len(sys.argv) == 1:
        for place, protos in OTHERS.items():
            generate(place, *protos)
