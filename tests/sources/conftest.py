import os
import shutil
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def as_nobody():
    """A folder, and nobody's rights: those of root know no unreadable file."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


@pytest.fixture
def mount(tmp_path):
    """
    Make a folder as Kubernetes mounts a ConfigMap or Secret, or change all that it holds at once.

    Each name is a link to `..data/NAME`, and `..data` one to a folder of this version.
    """
    volume = tmp_path / "volume"
    versions = iter(range(1000))

    def write(**files: str) -> Path:
        version = volume / f"..version_{next(versions)}"
        version.mkdir(parents=True)
        for name, text in files.items():
            (version / name.replace("_", ".")).write_text(text)
        (volume / "..data_tmp").symlink_to(version.name)
        (volume / "..data_tmp").rename(volume / "..data")
        for path in version.iterdir():
            if not (volume / path.name).is_symlink():
                (volume / path.name).symlink_to(f"..data/{path.name}")
        for link in volume.iterdir():
            if not link.name.startswith("..") and not link.exists():
                link.unlink()
        return volume

    return write
