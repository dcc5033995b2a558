"""Fetch what the page of `histofast view` brings along from npm, and write it where its checksums agree.

    python scripts/vendor.py

Needs `npm` and a registry that it can reach. Names, versions and checksums stand in VENDOR.toml beside the files.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "python/histofast/viewer/static/vendor"


def packed(npm: str, integrity: str, folder: Path) -> Path:
    """The archive of a package, as npm gives it; one of other bytes ends the script."""
    subprocess.run(["npm", "pack", "--silent", npm], cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != integrity:
        sys.exit(f"{npm}: its archive has sha512-{digest}, VENDOR.toml says {integrity}")
    return archive


def main() -> None:
    for package in tomllib.loads((VENDOR / "VENDOR.toml").read_text()).values():
        with tempfile.TemporaryDirectory() as folder:
            archive = packed(package["npm"], package["integrity"], Path(folder))
            with tarfile.open(archive) as tar:
                for name, file in package["files"].items():
                    member = tar.extractfile(file["member"])
                    assert member is not None, f"{file['member']} is no file"
                    content = member.read()
                    if (found := hashlib.sha256(content).hexdigest()) != file["sha256"]:
                        sys.exit(f"{name}: sha256 {found}, VENDOR.toml says {file['sha256']}")
                    (VENDOR / name).write_bytes(content)
        sys.stdout.write(f"{package['npm']}: as VENDOR.toml has it\n")


if __name__ == "__main__":
    main()
