"""Generates pycrio/api/_pb from protos/runtime/v1/api.proto (``make proto``; needs grpcio-tools).

Only messages are generated: handlers are registered from a table (pycrio/api/methods.py), so that list answers can
be bytes which were serialised before. With a directory as argument the files go there instead.
"""

from __future__ import annotations

import importlib.resources
import pathlib
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent
PROTO = "runtime/v1/api.proto"
PRIVATE = ROOT.parent / "pycrio" / "api" / "_pb"
FILES = ("api_pb2.py", "api_pb2.pyi")


def generate(target: pathlib.Path) -> None:
    """Write the two generated modules into a directory; RuntimeError when the compiler rejects the proto."""
    from grpc_tools import protoc

    include = str(importlib.resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{ROOT}", f"-I{include}", f"--python_out={scratch}", f"--pyi_out={scratch}", PROTO]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed on {PROTO}: its complaint is above")
        for name in FILES:
            shutil.copyfile(pathlib.Path(scratch, PROTO).parent / name, target / name)


if __name__ == "__main__":
    generate(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else PRIVATE)
