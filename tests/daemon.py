"""A pycrio daemon of its own for a test, a benchmark or the demonstration: scratch directories, started and ended."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from tests.cri import Cri

ROOT = pathlib.Path(__file__).resolve().parent.parent
CNI_BIN = "/usr/lib/cni"
BRIDGE = """{"cniVersion":"0.4.0","name":"test","plugins":[
 {"type":"bridge","bridge":"pycrio-t0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"%s","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":"10.99.0.0/16"}]]}}]}
"""
CONFIG = """
[crio]
root = "{d}/root"
runroot = "{d}/run"
storage_driver = "overlay"
log_dir = "{d}/logs"
version_file = "{d}/version"
version_file_persist = "{d}/version-persist"
clean_shutdown_file = "{d}/clean.shutdown"
[crio.api]
listen = "{d}/crio.sock"
[crio.image]
signature_policy = "{d}/policy.json"
[crio.network]
network_dir = "{d}/net.d/"
plugin_dirs = ["{cni}"]
[crio.stats]
included_pod_metrics = ["all"]
[crio.nri]
enable_nri = false
[crio.runtime]
default_runtime = "{runtime}"
cgroup_manager = "cgroupfs"
hooks_dir = ["{d}/hooks"]
namespaces_dir = "{d}/ns"
container_exits_dir = "{d}/exits"
container_attach_socket_dir = "{d}/attach"
enable_pod_events = true
cdi_spec_dirs = ["{d}/cdi"]
{monitor}
[crio.runtime.runtimes.{runtime}]
runtime_path = "{runtime_path}"
runtime_root = "{d}/rt"
"""


class Daemon:
    """Keep ``directory`` short: sockets live below it."""

    def __init__(
        self,
        directory: str,
        *,
        runtime: str = "runc",
        monitor: str = "",
        extra: str = "",
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "pycrio"),
    ) -> None:
        self.dir = directory
        self.program = program
        self.env = dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("net.d", "hooks", "conf.d", "cdi"):
            os.makedirs(f"{directory}/{name}", exist_ok=True)
        pathlib.Path(directory, "net.d", "10-test.conflist").write_text(BRIDGE % f"{directory}/ipam")
        pathlib.Path(directory, "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        pathlib.Path(directory, "registries.conf").write_text('unqualified-search-registries = ["127.0.0.1"]\n')
        text = CONFIG.format(
            d=directory,
            cni=CNI_BIN,
            runtime=runtime,
            runtime_path=shutil.which(runtime),
            monitor=f'conmon = "{monitor}"' if monitor else "",
        )
        pathlib.Path(directory, "crio.conf").write_text(text + extra)

    @property
    def endpoint(self) -> str:
        return f"unix://{self.dir}/crio.sock"

    @property
    def log(self) -> str:
        return pathlib.Path(self.dir, "log").read_text(errors="replace")

    def insecure(self, address: str) -> None:
        """Let the daemon speak plain HTTP with a registry."""
        with open(f"{self.dir}/registries.conf", "a") as f:
            f.write(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')

    def start(self, *flags: str, wait: bool = True) -> None:
        """Start and wait until the socket answers."""
        command = [sys.executable, *self.program, "-c", f"{self.dir}/crio.conf", "-d", f"{self.dir}/conf.d"]
        command += ["--registries-conf", f"{self.dir}/registries.conf", *flags]
        with open(f"{self.dir}/log", "ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=self._environ())
        if wait:
            self.wait()

    def _environ(self) -> dict[str, str]:
        """Compiled modules are kept, as pip keeps those of an installed package: to compile is half of a start."""
        environ = {**os.environ, **self.env, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": f"{ROOT}/build/pycache"}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        return environ

    def wait(self, timeout: float = 30.0) -> None:
        """Wait for the socket, or raise with the log when the daemon ends instead."""
        assert self.process is not None
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended with code {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                with self.client(timeout=2) as cri:
                    cri.wait_ready(1)
                    cri.Version()
                return
            except Exception:
                # not yet listening: there is no event to wait for from outside, so look again
                time.sleep(0.02)
        raise TimeoutError(f"the daemon did not answer:\n{self.log[-4000:]}")

    def client(self, timeout: float = 60.0) -> Cri:
        return Cri(self.endpoint, timeout)

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def clean(self) -> None:
        """Remove every pod, stop, remove the directories."""
        if self.process is not None and self.process.poll() is None:
            with self.client() as cri:
                for item in cri.ListPodSandbox().items:
                    for found in cri.ListContainers(filter={"pod_sandbox_id": item.id}).containers:
                        cri.StopContainer(container_id=found.id, timeout=0)
                    cri.StopPodSandbox(pod_sandbox_id=item.id)
                    cri.RemovePodSandbox(pod_sandbox_id=item.id)
            self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
