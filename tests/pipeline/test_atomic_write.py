import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from simsiam.pipeline.atomic_write import open_atomically, write_text_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_under_its_name_when_it_is_complete(tmp_path: Path) -> None:
    with open_atomically(tmp_path / "a.bin") as file:
        file.write(b"half")
        assert names(tmp_path) == [f"a.bin.{os.getpid()}.part"]
        file.write(b" and half")
    assert names(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"half and half"


def test_failed_write_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "ä\n")
    with pytest.raises(KeyboardInterrupt), open_atomically(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == "ä\n".encode()
    assert names(tmp_path) == ["a.txt"]


def test_content_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[bool, list[str]]] = []

    def fsync(descriptor: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), names(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text_atomically(tmp_path / "a.txt", "text")
    assert flushed == [(False, [f"a.txt.{os.getpid()}.part"]), (True, ["a.txt"])]


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text_atomically(tmp_path / "a.txt", "old")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"Can't write .*a\.txt: No space left on device"):
        write_text_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_named_even_if_pytorchs_writer_hides_it(tmp_path: Path) -> None:
    script = f"""
import resource, torch
from pathlib import Path
from simsiam.pipeline.atomic_write import open_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
with open_atomically(Path({str(tmp_path)!r}) / "a.pt") as file:
    torch.save(torch.zeros(10000), file)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] Can't write {tmp_path}/a.pt: File too large"
    assert names(tmp_path) == []


def test_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text_atomically(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
