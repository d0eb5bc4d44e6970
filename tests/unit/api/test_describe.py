"""Debug lines tell what was asked for and no secrets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.describe import describe
from tests.unit.api import cri_table, strategies


def test_fields_are_named() -> None:
    request = pb.ExecSyncRequest(container_id="abc", cmd=["sh", 'say "hi"\n'], timeout=3)
    assert describe(request) == 'ExecSyncRequest: {container_id: "abc", cmd: ["sh", "say \\"hi\\"\\n"], timeout: 3}'


def test_maps_enums_and_inner_messages() -> None:
    item = pb.PodSandbox(
        id="p", state=pb.SANDBOX_NOTREADY, labels={"b": "2", "a": "1"}, metadata=pb.PodSandboxMetadata(name="n")
    )
    said = 'PodSandbox: {id: "p", metadata: {name: "n"}, state: SANDBOX_NOTREADY, labels: {"a": "1", "b": "2"}}'
    assert describe(item) == said


def test_secrets_and_bytes_are_left_out() -> None:
    secrets = {f: f"geheim-{f}" for m, f in cri_table.REDACTED if m == "AuthConfig"}
    assert len(secrets) == 4
    pull = pb.PullImageRequest(auth=pb.AuthConfig(username="joe", **secrets))
    assert "geheim" not in describe(pull)
    assert '"joe"' in describe(pull)
    env = pb.ContainerConfig(envs=[pb.KeyValue(key="TOKEN", value=b"geheim")])
    assert describe(env) == 'ContainerConfig: {envs: [{key: "TOKEN", value: [FILTERED]}]}'


def test_long_texts_are_cut() -> None:
    assert len(describe(pb.VersionRequest(version="x" * 10_000))) < 1200


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(cri_table.MESSAGES)).flatmap(strategies.message))
def test_any_message_can_be_described(message: object) -> None:
    assert describe(message).startswith(type(message).__name__)  # type: ignore[arg-type]
