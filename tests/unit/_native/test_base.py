from __future__ import annotations

import ctypes
import errno
import os
import pickle

import pytest

from pycrio._native.base import Fd, NativeError, count_handle, live_handles, trim_malloc

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_error_carries_number_step_and_path() -> None:
    error = NativeError(errno.ENOSPC, "write", "/x/y")
    assert isinstance(error, OSError)
    assert (error.errno, error.step, error.filename) == (errno.ENOSPC, "write", "/x/y")
    assert str(error) == "write '/x/y': No space left on device"


def test_error_without_path() -> None:
    error = NativeError(errno.EPERM, "clone")
    assert error.filename is None
    assert str(error) == "clone: Operation not permitted"


def test_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(NativeError(errno.EIO, "read", "p")))
    assert (copy.errno, copy.step, copy.filename, str(copy)) == (5, "read", "p", "read 'p': Input/output error")


def test_handles_are_booked() -> None:
    count_handle("thing", 2)
    assert live_handles()["thing"] == 2
    count_handle("thing", -2)
    assert "thing" not in live_handles()


def pipe_end() -> int:
    read_end, write_end = os.pipe()
    os.close(write_end)
    return read_end


def test_owner_closes_once_and_forgets() -> None:
    number = pipe_end()
    fd = Fd(number)
    assert (fd.fileno(), fd.closed, live_handles()["Fd"]) == (number, False, 1)
    fd.close()
    fd.close()
    assert fd.closed
    with pytest.raises(ValueError, match="closed"):
        fd.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_taking_leaves_the_owner_empty() -> None:
    fd = Fd(pipe_end())
    number = fd.take()
    assert fd.closed
    with pytest.raises(ValueError, match="closed"):
        fd.take()
    os.close(number)


def test_context_manager_closes() -> None:
    with Fd(pipe_end()) as fd:
        assert not fd.closed
    assert fd.closed


def test_collected_while_open_warns_and_closes() -> None:
    number = pipe_end()
    fd = Fd(number)
    with pytest.warns(ResourceWarning, match="collected while open"):
        del fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Fd(-1)


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_trimming_gives_free_memory_back() -> None:
    """Blocks too small for mappings of their own; the last ones hold the heap at its size when the others are freed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(64 << 10) for _ in range(512)]
    for block in blocks:
        ctypes.memset(block, 1, 64 << 10)
    for block in blocks[:-8]:
        libc.free(ctypes.c_void_p(block))
    before = resident()
    assert trim_malloc()
    assert resident() < before - (16 << 20)
    for block in blocks[-8:]:
        libc.free(ctypes.c_void_p(block))
