"""A certificate authority for tests: etcd's certificate, and client certificates that end when they are told to."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

_CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
database = $dir/index
serial = $dir/serial
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca.key
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[server]
subjectAltName = {names}
extendedKeyUsage = serverAuth, clientAuth
[client]
extendedKeyUsage = clientAuth
"""


class Authority:
    """Makes certificates in a folder. addresses: those that the server's certificate is good for."""

    def __init__(self, folder: Path, addresses: list[str]) -> None:
        folder.mkdir()
        self._folder = folder
        self._config = folder / "config"
        self._config.write_text(_CONFIG.format(folder=folder, names=", ".join(f"IP:{item}" for item in addresses)))
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        self.ca = folder / "ca.pem"
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=authority", "-keyout", str(folder / "ca.key"), "-out", str(self.ca),
        )  # fmt: skip
        self.server, self.server_key = self.issue("server", "server", 86400)

    def issue(self, name: str, kind: str = "client", seconds: float = 86400.0) -> tuple[Path, Path]:
        """A certificate and its key; one of that name is replaced in one step each."""
        key, request, certificate = (self._folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        scratch = self._folder / "new"
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{scratch}.key", "-out", str(request),
        )  # fmt: skip
        end = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds))
        start = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() - 3600))
        self._openssl(
            "ca", "-batch", "-notext", "-config", str(self._config), "-extensions", kind, "-startdate", start,
            "-enddate", end, "-in", str(request), "-out", f"{scratch}.pem",
        )  # fmt: skip
        (self._folder / "new.key").replace(key)
        (self._folder / "new.pem").replace(certificate)
        return certificate, key

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)
