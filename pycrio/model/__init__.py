"""The nouns of the project: frozen dataclasses without I/O, one file per noun (leaf).

Rooms hand these values to each other; protobuf messages never leave ``api/`` and OCI dictionaries never leave
``spec/``. Fields carry the CRI's meaning unless a docstring says otherwise; 0 and "" mean "not given" where the
CRI says so.
"""
