"""Whatever a plugin answers: the config stays one, or the plugin's answer is a failure that is foreseen."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.drivers.nri import describe
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.apply import Helpers, apply
from pycrio.drivers.nri.merge import Change, Creation
from pycrio.errors import PycrioError
from pycrio.model.nri import NriContainer
from tests.unit.drivers.nri.support import container, document, nothing, pod

TEXTS = st.sampled_from(
    ["", "-", "-A", "A", "PATH", "/data", "-/data", "/dev/null", "-/dev/null", "uts", "-uts", "own"]
)
F = FieldDescriptor
NUMBERS = {
    F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_UINT32: st.integers(0, 2**32 - 1),
    F.TYPE_UINT64: st.integers(0, 2**64 - 1),
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_ENUM: st.integers(-1, 20),
}


@st.composite
def filled(draw: st.DrawFn, descriptor: Descriptor) -> Any:
    """A message with some of its fields set to anything."""
    message = getattr(pb, descriptor.name)()
    for field in (
        []
        if not descriptor.fields
        else draw(st.lists(st.sampled_from(list(descriptor.fields)), unique_by=lambda f: f.number, max_size=6))
    ):
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            for key in draw(st.lists(TEXTS, max_size=3)):
                value = field.message_type.fields_by_name["value"]
                if value.message_type is None:
                    entries[key] = draw(TEXTS)
                else:
                    entries[key].CopyFrom(draw(filled(value.message_type)))
            continue
        one = filled(field.message_type) if field.message_type is not None else NUMBERS.get(field.type, TEXTS)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(one, max_size=3)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(one))
        else:
            setattr(message, field.name, draw(one))
    return message


@settings(deadline=None, max_examples=150)
@given(st.lists(filled(pb.CreateContainerResponse.DESCRIPTOR), min_size=1, max_size=2))
def test_any_adjustment(answers: list[pb.CreateContainerResponse]) -> None:
    view = container()
    creation = Creation(describe.pod(pod()), describe.container(view))
    made = document()
    try:
        for number, answer in enumerate(answers):
            creation.take(answer, f"{number:02}-p")
        apply(made, creation.adjust, Helpers(lambda key: True, nothing, lambda source: "shared"))
    except PycrioError:
        return
    json.dumps(made)
    describe.container(NriContainer(view.record, made))
    for update in creation.updates.by_id.values():
        json.dumps(describe.resources_document(update.linux.resources))


@settings(deadline=None, max_examples=100)
@given(st.lists(filled(pb.UpdateContainerResponse.DESCRIPTOR), min_size=1, max_size=2))
def test_any_update(answers: list[pb.UpdateContainerResponse]) -> None:
    change = Change(describe.pod(pod()), describe.container(container()), describe.resources({"cpu": {"shares": 2}}))
    try:
        for number, answer in enumerate(answers):
            change.take(answer, f"{number:02}-p")
    except PycrioError:
        return
    json.dumps(describe.resources_document(change.request.linux_resources))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        answer = pb.CreateContainerResponse.FromString(data)
    except DecodeError:
        return
    creation = Creation(describe.pod(pod()), describe.container(container()))
    try:
        creation.take(answer, "00-p")
        apply(document(), creation.adjust, Helpers(lambda key: True, nothing, lambda source: "shared"))
    except PycrioError:
        pass
