"""Rows of ``[crio.api]``: the CRI socket and the streaming server."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

# TLS 1.2 suites by their IANA names; pycrio.obs.tls knows what OpenSSL calls them (a test compares the two).
CIPHER_SUITES = (
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
)
MESSAGE_SIZE = 80 << 20


ROWS = (
    Row(
        "crio.api.listen",
        "string",
        "/var/run/crio/crio.sock",
        "Unix socket that serves CRI and the HTTP status pages. A socket that nobody answers on is replaced, a live "
        "one is refused.",
        flags=("--listen",),
        env=("CONTAINER_LISTEN",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.api.stream_address",
        "string",
        "127.0.0.1",
        "IP address on which exec, attach and port-forward connections are accepted.",
        flags=("--stream-address",),
        env=("CONTAINER_STREAM_ADDRESS",),
    ),
    Row(
        "crio.api.stream_port",
        "string",
        "0",
        "Port for these connections, as a string; 0 takes any free one.",
        flags=("--stream-port",),
        env=("CONTAINER_STREAM_PORT",),
        rules=(rules.port_text,),
    ),
    Row(
        "crio.api.stream_enable_tls",
        "bool",
        False,
        "Encrypt these connections. stream_tls_cert and stream_tls_key must be given then.",
        flags=("--stream-enable-tls",),
        env=("CONTAINER_ENABLE_TLS",),
    ),
    Row(
        "crio.api.stream_idle_timeout",
        "duration",
        "",
        "Close a connection on which nothing moved for this long (30s, 4h). Empty means 4h.",
        flags=("--stream-idle-timeout",),
        env=("STREAM_IDLE_TIMEOUT",),
        rules=(rules.duration,),
    ),
    Row(
        "crio.api.stream_tls_cert",
        "string",
        "",
        "Certificate file of the streaming server (PEM). A changed file is taken over without a restart.",
        flags=("--stream-tls-cert",),
        env=("CONTAINER_TLS_CERT",),
        reload="watch",
    ),
    Row(
        "crio.api.stream_tls_key",
        "string",
        "",
        "Private key file of the streaming server (PEM). A changed file is taken over without a restart.",
        flags=("--stream-tls-key",),
        env=("CONTAINER_TLS_KEY",),
        reload="watch",
    ),
    Row(
        "crio.api.stream_tls_ca",
        "string",
        "",
        "File with CA certificates (PEM). When given, clients must show a certificate that one of them issued.",
        flags=("--stream-tls-ca",),
        env=("CONTAINER_TLS_CA",),
        reload="watch",
    ),
    Row(
        "crio.api.tls_min_version",
        "string",
        "VersionTLS12",
        "Oldest TLS version that the streaming and metrics servers accept: VersionTLS12 or VersionTLS13.",
        flags=("--tls-min-version",),
        env=("CONTAINER_TLS_MIN_VERSION",),
        rules=(rules.one_of("VersionTLS12", "VersionTLS13"),),
    ),
    Row(
        "crio.api.tls_cipher_suites",
        "strings",
        (),
        "TLS 1.2 cipher suites of both servers, by IANA name. Empty leaves the choice to OpenSSL. TLS 1.3 suites "
        "cannot be chosen.",
        flags=("--tls-cipher-suites",),
        env=("CONTAINER_TLS_CIPHER_SUITES",),
    ),
    Row(
        "crio.api.grpc_max_send_msg_size",
        "int",
        MESSAGE_SIZE,
        "Largest gRPC message that is sent, in bytes. 0 or less means the default.",
        flags=("--grpc-max-send-msg-size",),
        env=("CONTAINER_GRPC_MAX_SEND_MSG_SIZE",),
    ),
    Row(
        "crio.api.grpc_max_recv_msg_size",
        "int",
        MESSAGE_SIZE,
        "Largest gRPC message that is accepted, in bytes. 0 or less means the default.",
        flags=("--grpc-max-recv-msg-size",),
        env=("CONTAINER_GRPC_MAX_RECV_MSG_SIZE",),
    ),
)
