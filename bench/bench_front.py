"""Our gRPC server (front, native connection, calls on the loop) beside grpc.aio's, asked by the same client.

    python bench/bench_front.py [--calls 3000] [--megabytes 64]

A server process has both, with the same handlers; this process calls them in turn, one call at a time, over one channel
each: median and p99, the ratio of the medians, and the server's CPU time per call. Then the same with 16 and with 200
calls in flight, and one call with a large answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from pycrio._native.calls import CallServer, Limits
from pycrio._native.front import Front
from pycrio._native.run import Child, spawn

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Call = Callable[[bytes], bytes]


async def serve(where: pathlib.Path, ready: int) -> None:
    async def echo(request: bytes, _: object) -> bytes:
        return request

    async def size(request: bytes, _: object) -> bytes:
        return bytes(int(request))

    server = grpc.aio.server(options=UNLIMITED)
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(echo), "Size": grpc.unary_unary_rpc_method_handler(size)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("b", methods),))
    server.add_insecure_port(f"unix:{where}/grpc.sock")
    await server.start()
    calls = CallServer({b"/b/Echo": echo, b"/b/Size": size}, Limits(1 << 30, 1 << 30))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where / "crio.sock"))
        listener.listen(64)
        with Front(listener.fileno(), calls.start(), "@none"):
            os.write(ready, b"x")
            await server.wait_for_termination()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has had (man 5 proc)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(calls: dict[str, Call], pid: int, n: int) -> None:
    for name, call in calls.items():
        before = cpu(pid)
        for _ in range(n):
            call(b"x" * 100)
        print(f"{name:8} CPU of the server per call: {(cpu(pid) - before) / n * 1e6:.0f} µs")


def sequential(calls: dict[str, Call], n: int, payload: bytes) -> None:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(n + 100):
        for name, call in calls.items():
            begin = time.perf_counter()
            call(payload)
            if i >= 100:
                taken[name].append((time.perf_counter() - begin) * 1e6)
    for name, values in taken.items():
        p99 = statistics.quantiles(values, n=100)[98]
        print(f"{name:8} {len(payload):6} B  median {statistics.median(values):7.0f} µs   p99 {p99:7.0f} µs")
    aio, ours = (statistics.median(taken[name]) for name in ("grpc.aio", "ours"))
    print(f"ratio {ours / aio:.2f}")


def concurrent_calls(calls: dict[str, Any], n: int, width: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(5):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(max(1, n // 5 // width)):
                for answer in [call.future(b"x" * 100) for _ in range(width)]:
                    answer.result()
            rates[name].append(max(1, n // 5 // width) * width / (time.perf_counter() - begin))
    for name, values in rates.items():
        print(f"{name:8} {width} in flight: {statistics.median(values):7.0f} calls/s")


def bulk(calls: dict[str, Call], megabytes: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(5):
        for name, call in calls.items():
            begin = time.perf_counter()
            call(str(megabytes << 20).encode())
            rates[name].append(megabytes / (time.perf_counter() - begin))
    for name, values in rates.items():
        print(f"{name:8} one answer of {megabytes} MiB: {statistics.median(values):7.0f} MiB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--serve", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, 3))
        return
    with tempfile.TemporaryDirectory() as name:
        where = pathlib.Path(name)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        server = spawn([sys.executable, __file__, "--serve", name], fds={2: 2, 3: write_end})
        os.close(write_end)
        try:
            if os.read(read_end, 1) != b"x":
                raise SystemExit("the server did not start")
            sockets = {"grpc.aio": where / "grpc.sock", "ours": where / "crio.sock"}
            channels = {k: grpc.insecure_channel(f"unix:{v}", options=UNLIMITED) for k, v in sockets.items()}
            echo: dict[str, Any] = {k: c.unary_unary("/b/Echo", None, None) for k, c in channels.items()}
            sequential(echo, options.calls, b"x" * 100)
            sequential(echo, options.calls, b"x" * 16384)
            cost(echo, server.pid, options.calls)
            concurrent_calls(echo, options.calls, 16)
            concurrent_calls(echo, options.calls, 200)
            bulk({k: c.unary_unary("/b/Size", None, None) for k, c in channels.items()}, options.megabytes)
            for channel in channels.values():
                channel.close()
        finally:
            os.close(read_end)
            server.kill_group()
            asyncio.run(reap(server))


async def reap(child: Child) -> None:
    await child.wait()


if __name__ == "__main__":
    main()
