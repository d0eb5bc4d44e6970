from collections.abc import Mapping, Sequence
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Extracted:
    compressed_digest: str
    compressed_size: int
    diff_id: str
    diff_size: int
    compression: str  # "none", "gzip", "zstd", "bzip2", "xz"
    entries: int
    uids: list[int]  # as in the archive, sorted, whiteouts not counted
    gids: list[int]
    xattrs_skipped: int  # attributes that the file system does not support
    split_complete: bool  # False: an entry replaced content of an earlier one; the tar cannot be rebuilt

@dataclass(frozen=True, slots=True)
class Assembled:
    digest: str
    size: int

def extract(
    src_fd: int,  # file, pipe or socket with the blob; compression is detected
    target_dir_fd: int,  # the layer's directory, existing and empty
    *,
    split_fd: int = -1,  # tar-split metadata (gzip) goes here; not synced
    uid_map: Sequence[tuple[int, int, int]] = (),  # (container id, host id, size); none: ids as they are
    gid_map: Sequence[tuple[int, int, int]] = (),
    userxattr: bool = False,  # opaque mark in user.* instead of trusted.*
    keep_root: bool = False,  # ignore what the archive says of the root directory itself, as containers/storage does
    limits: Mapping[str, int] | None = None,  # entries bytes path depth special sparse window_log; 0: default
    cancel_fd: int = -1,  # readable: give up with ECANCELED
) -> Extracted: ...
def assemble(split_fd: int, dir_fd: int, out_fd: int, *, cancel_fd: int = -1) -> Assembled: ...
