CREATE: int
DELETE: int
MODIFY: int
CLOSE_WRITE: int
MOVED_FROM: int
MOVED_TO: int
ATTRIB: int
DELETE_SELF: int
MOVE_SELF: int
IGNORED: int
Q_OVERFLOW: int

def init() -> int: ...
def add(fd: int, path: str, mask: int) -> int: ...
def remove(fd: int, wd: int) -> None: ...
def read(fd: int) -> list[tuple[int, int, str]]: ...
