"""The controller's own key, with which it signs proofs: Ed25519 (RFC 8032), made at the first start, readable by its owner alone.

The file is PKCS #8 in PEM, and a public key is handed out as PEM too, so that `openssl pkeyutl -verify` checks what we have signed.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ebbtide.errors import BadInput


class Signer:
    """A private key. `public` is its public half, in PEM."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, text: str) -> str:
        """The signature of a text, in base64."""
        return base64.b64encode(self._key.sign(text.encode())).decode()


def signer(path: Path | None) -> Signer:
    """The key in that file, which is made if it is not there; None: one that is nowhere kept.

    Raises:
        BadInput: the file holds no such key.
    """
    if path is None:
        return Signer(Ed25519PrivateKey.generate())
    if not path.exists():
        made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        draft = path.with_suffix(".new")
        # Written aside and then given its name: a key that is half there would be no key.
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(
            f"{path} holds no private key: {error}; restore it, or move it away and a new one is made"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path} holds a key of another kind than Ed25519; move it away and a new one is made")
    return Signer(key)
