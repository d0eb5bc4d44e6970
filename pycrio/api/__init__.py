"""Room 1: gRPC and HTTP; decodes, calls one flow, encodes."""

import os as _os

# Read by gRPC's core when it is first imported: its notes about every closed connection are not our log, and children
# are never forked with its threads (native spawn), so it need not prepare for that.
_os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
_os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
