from typing import Final

STDOUT: Final = 0
STDERR: Final = 1
PIECE_MAX: int

class Line:
    time_ns: int
    stream: int
    partial: bool
    content: bytes
    def __init__(self, time_ns: int, stream: int, partial: bool, content: bytes) -> None: ...
    def __eq__(self, other: object) -> bool: ...

def format_lines(
    data: bytes, *, stream: int, time_ns: int, utc_offset: int = 0, flush: bool = True
) -> tuple[bytes, int]: ...
def parse_line(line: bytes) -> Line: ...
def split_streams(log: bytes) -> tuple[bytes, bytes, int]: ...
