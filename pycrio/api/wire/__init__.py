"""protobuf to model and back; pure."""
