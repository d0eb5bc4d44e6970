"""Who runs: the CRI's fields and the image's user against passwd and group files."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.errors import InvalidRequest
from pycrio.model.container import ContainerConfig
from pycrio.model.security import ContainerSecurity, GroupsPolicy
from pycrio.spec.users import MAX_ID, resolve
from tests.fakes.node import container_config

PASSWD = (
    b"# comment:x:9:9::/:\nroot:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n"
    b"7:x:77:78:named like a number:/h:/bin/sh\nshort:x:5\nbad:x:abc:1:::\nnohome:x:6:6\n"
)
GROUP = b"root:x:0:\napp:x:1001:\naudio:x:29:app,other\nvideo:x:44:other, app\nwheel:x:10:root\nbroken:x:y:app\n"


def config(**security: object) -> ContainerConfig:
    return container_config(security=ContainerSecurity(**security))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("security", "image", "uid", "gid", "groups"),
    [
        ({}, "", 0, 0, (0, 10)),
        ({}, "app", 1000, 1001, (1001, 29)),
        ({}, "1000", 1000, 1001, (1001, 29)),
        ({}, "app:audio", 1000, 29, (29,)),
        ({}, "app:44", 1000, 44, (44, 29)),
        ({}, ":audio", 0, 29, (29, 10)),
        ({}, "7", 77, 78, (78,)),
        ({}, "4242", 4242, 0, (0,)),
        ({}, "4242:4243", 4242, 4243, (4243,)),
        ({"run_as_user": 1000}, "root", 1000, 1001, (1001, 29)),
        ({"run_as_user": 0}, "app", 0, 0, (0, 10)),
        ({"run_as_user": 4242}, "", 4242, 0, (0,)),
        ({"run_as_user": 1000, "run_as_group": 5}, "", 1000, 5, (5, 29)),
        ({"run_as_username": "app"}, "root", 1000, 1001, (1001, 29)),
        ({"run_as_username": "app", "run_as_user": 0}, "", 1000, 1001, (1001, 29)),
        ({"run_as_username": "app", "run_as_group": 0}, "", 1000, 0, (0, 29)),
        ({"run_as_username": "nohome"}, "", 6, 6, (6,)),
        ({"run_as_user": 1000, "supplemental_groups": (7, 29, 7)}, "", 1000, 1001, (7, 29, 1001)),
        ({"run_as_user": 1000, "groups_policy": GroupsPolicy.STRICT}, "", 1000, 1001, (1001,)),
    ],
)
def test_the_table(security: dict[str, object], image: str, uid: int, gid: int, groups: tuple[int, ...]) -> None:
    found = resolve(config(**security), image, PASSWD, GROUP)
    assert (found.user.uid, found.user.gid, found.user.groups) == (uid, gid, groups)


@pytest.mark.parametrize(
    ("security", "image", "text"),
    [
        ({"run_as_group": 5}, "app", "run_as_group needs run_as_user"),
        ({}, "ghost", "'ghost' is not in the image's /etc/passwd"),
        ({}, "app:ghosts", "'ghosts' is not in the image's /etc/group"),
        ({"run_as_username": "ghost"}, "", "'ghost' is not in"),
        ({"run_as_user": MAX_ID + 1}, "", "out of range"),
        ({"run_as_user": 1, "run_as_group": -5}, "", "'-5' is not in"),
        ({"run_as_user": 1, "supplemental_groups": (-1,)}, "", "out of range"),
        ({}, "99999999999999999999", "out of range"),
        ({}, "\u00b2", "is not in the image"),
        ({}, "-1", "is not in the image"),
    ],
)
def test_users_that_cannot_be(security: dict[str, object], image: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        resolve(config(**security), image, PASSWD, GROUP)


def test_unknown_ids_get_lines() -> None:
    found = resolve(config(run_as_user=4242, run_as_group=77), "", PASSWD, GROUP)
    assert found.passwd_line == "default:x:4242:77:default user:/tmp:/sbin/nologin"
    assert found.group_line == "77:x:77:"
    known = resolve(config(run_as_user=1000), "", PASSWD, GROUP)
    assert (known.passwd_line, known.group_line, known.home, known.name) == ("", "", "/home/app", "app")
    root = resolve(config(), "", b"", b"")
    assert (root.passwd_line, root.group_line, root.user.uid) == ("", "", 0)


@pytest.mark.parametrize(
    ("changes", "home"),
    [
        ({"working_dir": "/srv"}, "/srv"),
        ({"working_dir": "/srv", "envs": (("HOME", b"/h"),)}, "/h"),
        ({"envs": (("HOME", b"relative"),)}, "/tmp"),
    ],
)
def test_the_home_of_an_unknown_user(changes: dict[str, object], home: str) -> None:
    found = resolve(dataclasses.replace(config(run_as_user=4242), **changes), "", PASSWD, GROUP)  # type: ignore[arg-type]
    assert found.passwd_line.split(":")[5] == home


@pytest.mark.parametrize("home", [b"/a:b", b"/a\nroot2:x:0:0::/:/bin/sh"])
def test_a_home_cannot_forge_a_line(home: bytes) -> None:
    wanted = dataclasses.replace(config(run_as_user=4242), envs=(("HOME", home),))
    with pytest.raises(InvalidRequest, match="neither a colon nor a newline"):
        resolve(wanted, "", PASSWD, GROUP)
    with pytest.raises(InvalidRequest, match="neither a colon nor a newline"):
        resolve(dataclasses.replace(config(run_as_user=4242), working_dir=home.decode()), "", PASSWD, GROUP)


@given(
    passwd=st.binary(max_size=200),
    group=st.binary(max_size=200),
    image=st.text(alphabet="app01:-\u00b2\u0663", max_size=8),
    uid=st.none() | st.integers(0, MAX_ID),
)
def test_any_files_give_a_user_or_a_refusal(passwd: bytes, group: bytes, image: str, uid: int | None) -> None:
    try:
        found = resolve(config(run_as_user=uid), image, passwd, group)
    except InvalidRequest:
        return
    user = found.user
    assert all(0 <= n <= MAX_ID for n in (user.uid, user.gid, *user.groups))
    assert user.gid in user.groups
    assert found.passwd_line.count("\n") == found.group_line.count("\n") == 0
    if uid is not None and str(uid) not in passwd.decode("utf-8", "replace"):
        assert user.uid == uid
