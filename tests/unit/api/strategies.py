"""Hypothesis strategies: models for round trips, and request messages of any shape."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from pycrio.api._pb import api_pb2 as pb
from pycrio.model.image import ImageSpec
from pycrio.model.mount import Mount, Propagation
from pycrio.model.resources import HugepageLimit, Resources
from pycrio.model.security import IdMapping, NamespaceMode, NamespaceOptions, UserNamespace

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MAPS = st.dictionaries(TEXT, TEXT, max_size=3)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)

SPECS = st.builds(ImageSpec, TEXT, MAPS, TEXT, TEXT, TEXT)
MAPPINGS = st.lists(st.builds(IdMapping, UINT32, UINT32, UINT32), max_size=2).map(tuple)
RESOURCES = st.builds(
    Resources,
    cpu_period=INT64,
    cpu_quota=INT64,
    cpu_shares=INT64,
    memory_limit=INT64,
    oom_score_adj=INT64,
    cpuset_cpus=TEXT,
    cpuset_mems=TEXT,
    hugepages=st.lists(st.builds(HugepageLimit, TEXT, st.integers(0, 2**64 - 1)), max_size=3).map(tuple),
    unified=MAPS,
    memory_swap_limit=INT64,
)
NAMESPACES = st.builds(
    NamespaceOptions,
    network=st.sampled_from(NamespaceMode),
    pid=st.sampled_from(NamespaceMode),
    ipc=st.sampled_from(NamespaceMode),
    target_id=TEXT,
    userns=st.none()
    | st.builds(UserNamespace, st.sampled_from([NamespaceMode.POD, NamespaceMode.NODE]), MAPPINGS, MAPPINGS),
)
MOUNTS = st.builds(
    Mount,
    container_path=TEXT,
    host_path=TEXT,
    readonly=st.booleans(),
    selinux_relabel=st.booleans(),
    propagation=st.sampled_from(Propagation),
    uid_mappings=MAPPINGS,
    gid_mappings=MAPPINGS,
    recursive_read_only=st.booleans(),
    image=st.none() | SPECS.filter(lambda s: bool(s.image)),
    image_sub_path=TEXT,
    mount_options=st.lists(TEXT, max_size=2).map(tuple),
)

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXT | st.just("x\0y"),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=12),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_UINT32: UINT32,
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 70),
}


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is None:
        return _SCALARS[field.type]
    return _fields(field.message_type, depth - 1)


@st.composite
def _fields(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> dict[str, Any]:
    """A dictionary of field values for a message; fields are left out freely, deeper messages end at ``depth``."""
    values: dict[str, Any] = {}
    for field in descriptor.fields:
        entry = field.message_type if field.message_type and field.message_type.GetOptions().map_entry else None
        if (depth <= 0 and field.message_type is not None and entry is None) or not draw(st.booleans()):
            continue
        if entry is not None:
            values[field.name] = draw(MAPS)
        elif field.is_repeated:
            values[field.name] = draw(st.lists(_value(field, depth), max_size=2))
        else:
            values[field.name] = draw(_value(field, depth))
    return values


def message(name: str, depth: int = 4) -> st.SearchStrategy[Any]:
    """Messages of a type, with anything that the wire can carry in them."""
    kind = getattr(pb, name)
    return _fields(kind.DESCRIPTOR, depth).map(lambda values: kind(**values))
