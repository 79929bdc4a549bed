"""Names of files, patients and examinations, replaced by keyed hashes.

The same name gives the same hash as long as the key is the same, so that recordings of one patient
stay together and a table can be joined; without the key nobody can try names out. The key is random
and lies in the cache folder. In another cache folder the hashes are others: copy the key along.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from data.cohort import CohortError
from data.ownership import owned

KEY = "pseudonyms.key"
_BYTES = 32


@dataclass(frozen=True)
class Pseudonyms:
    """Makes them; picklable, so that workers can.

    Attributes:
        key: secret; None keeps all names as they are.
    """

    key: str | None

    @classmethod
    def of(cls, cache: Path, keep: bool) -> Pseudonyms:
        """With the key of a cache folder, which is made if there is none.

        Raises:
            CohortError: the key cannot be written, or is damaged.
        """
        if keep:
            return cls(None)
        file = cache / KEY
        if not file.exists():
            try:
                cache.mkdir(parents=True, exist_ok=True)
                with owned(file, wait=True):  # of two processes at once both take the first key
                    if not file.exists():
                        _write_key(file)
            except OSError as error:
                raise CohortError(
                    f"{file} cannot be written: {error}. Choose another cache folder, or try again."
                ) from error
        key = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
        if not re.fullmatch(f"[0-9a-f]{{{2 * _BYTES}}}", key):
            raise CohortError(
                f"{file} is damaged: expected {2 * _BYTES} hexadecimal digits. Restore it, or "
                "delete it to give all patients new pseudonyms."
            )
        return cls(key)

    def __call__(self, kind: str, name: str) -> str:
        """The pseudonym of a name; `kind` tells equal names of different things apart."""
        if self.key is None:
            return name
        text = f"{kind}\0{name}".encode(errors="surrogateescape")
        return hmac.new(bytes.fromhex(self.key), text, hashlib.sha256).hexdigest()[:16]

    @property
    def version(self) -> str:
        """Tells keys apart without telling the key."""
        return "" if self.key is None else hashlib.sha256(self.key.encode()).hexdigest()[:16]


def _write_key(file: Path) -> None:
    """Writes a new key, whole or not at all, and readable to nobody else."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(opened, "w") as new:
        new.write(secrets.token_hex(_BYTES) + "\n")
    partial.replace(file)
