"""Room 1: gRPC and HTTP; decodes, calls one flow, encodes."""
