"""Certificates for tests, and connections that check them."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest


def certificate(directory: Path, *addresses: str) -> tuple[Path, Path]:
    """A self-signed certificate for these addresses (loopback, if none is named), and its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    cert, key = directory / "cert.pem", directory / "key.pem"
    names = ",".join(f"IP:{address}" for address in addresses or ("127.0.0.1",))
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=controller"]
    words += ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    return cert, key


def checked(plain: socket.socket, trusted: Path) -> ssl.SSLSocket:
    """TLS over a connection to a controller on loopback, whose certificate has to be this one."""
    return ssl.create_default_context(cafile=trusted).wrap_socket(plain, server_hostname="127.0.0.1")
