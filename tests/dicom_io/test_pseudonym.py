"""Pseudonyms of patients and UIDs, and the key behind them."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import subprocess
import sys

import numpy as np
import pytest

from dicom_io.errors import Rejected
from dicom_io.pseudonym import KEY_BYTES, hidden_projection, hidden_volume, pseudonym, site_key
from dicom_io.volume import Projection, Source, Volume

KEY, OTHER = b"k" * 32, b"q" * 32
SOURCES = tuple(Source("1.2.840.10008.5.1.4.1.1.128", f"1.3.12.{n}", f"{n:064x}", 1, n == 2) for n in range(4))


def lopsided() -> Volume:
    affine = np.array([[0.2, 1.1, 0, -31.5], [-0.4, 0.3, 1.7, 12.25], [3.1, 0, 0.1, 47], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).random((4, 7, 3)).astype(np.float32)
    return Volume(voxels, affine, "1.3.12.9", "g/ml{SUVbw}", SOURCES)


def test_a_pseudonym_is_the_first_64_bits_of_hmac_sha_256_with_its_prefix():
    expected = hmac.new(KEY, "Müller 17".encode(), hashlib.sha256).hexdigest()[:16]
    assert pseudonym(KEY, "Müller 17", prefix="P") == "P" + expected
    # RFC 4231, test case 2.
    assert pseudonym(b"Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e"


def test_a_pseudonym_depends_on_the_identifier_and_on_the_key():
    names = {pseudonym(key, identifier) for key in (KEY, OTHER) for identifier in ("P1", "P2", "p1", "P1 ")}
    assert len(names) == 8
    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in names)


def test_a_key_is_made_once_and_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "cohort.key"
    key = site_key(path)
    assert len(key) == KEY_BYTES == 32
    assert site_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert site_key(tmp_path / "other.key") != key


@pytest.mark.parametrize("when", ["as its file is opened", "as its bytes are drawn"])
def test_of_two_makers_of_the_first_key_the_loser_takes_the_winners(when, tmp_path, monkeypatch):
    """The other one's whole key appears between our look for the file and our writing of it."""
    path, theirs = tmp_path / "cohort.key", b"w" * 32

    def appears(wrapped):
        def called(*arguments, **options):
            if not path.exists():
                path.write_bytes(theirs)
            return wrapped(*arguments, **options)

        return called

    if when == "as its file is opened":
        monkeypatch.setattr(os, "open", appears(os.open))
    else:
        monkeypatch.setattr(secrets, "token_bytes", appears(secrets.token_bytes))
    assert site_key(path) == theirs
    assert path.read_bytes() == theirs
    assert [file.name for file in tmp_path.iterdir()] == ["cohort.key"]


def test_many_processes_that_make_the_first_key_at_once_have_one(tmp_path):
    code = (
        "import sys, pathlib\nfrom dicom_io.pseudonym import site_key\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nprint(site_key(pathlib.Path(sys.argv[1])).hex())"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "cohort.key")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdout is not None and maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    assert {maker.communicate()[0].strip() for maker in makers} == {(tmp_path / "cohort.key").read_bytes().hex()}
    assert [maker.returncode for maker in makers] == [0] * 4


@pytest.mark.parametrize("held", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_refused_and_left_as_it_is(held, tmp_path):
    path = tmp_path / "cohort.key"
    path.write_bytes(held)
    with pytest.raises(Rejected, match=rf"cohort\.key holds {len(held)} bytes and a key has 32; restore it from a ba"):
        site_key(path)
    assert path.read_bytes() == held


def test_a_hidden_volume_keeps_pixels_and_place_and_no_uid(tmp_path):
    volume = lopsided()
    hidden = hidden_volume(KEY, volume)
    np.testing.assert_array_equal(hidden.voxels, volume.voxels)
    np.testing.assert_array_equal(hidden.affine, volume.affine)
    assert hidden.units == volume.units
    assert hidden.frame_of_reference_uid == pseudonym(KEY, "1.3.12.9")
    for ours, theirs in zip(hidden.sources, volume.sources, strict=True):
        assert ours.sop_instance_uid == pseudonym(KEY, theirs.sop_instance_uid)
        assert ours.dataset_hash == pseudonym(KEY, theirs.dataset_hash)
        assert (ours.sop_class_uid, ours.frame) == (theirs.sop_class_uid, theirs.frame)
    # The synthetic flag is inherited, whatever else is hidden.
    assert [source.synthetic for source in hidden.sources] == [False, False, True, False]
    assert "1.3.12" not in repr(hidden)
    assert volume.frame_of_reference_uid == "1.3.12.9"


def test_two_volumes_on_one_grid_are_on_one_grid_when_hidden_and_under_another_key_they_are_not():
    volume = lopsided()
    assert hidden_volume(KEY, volume).same_grid_as(hidden_volume(KEY, volume.with_voxels(volume.voxels * 2)))
    assert not hidden_volume(KEY, volume).same_grid_as(hidden_volume(OTHER, volume))


def test_a_hidden_projection_keeps_all_but_its_uid():
    source = Source("1.2.840.10008.5.1.4.1.1.1.2", "1.3.12.5", "ab" * 32, synthetic=True)
    picture = Projection(np.ones((3, 2), np.float32), "1", source, (0.5, 0.4), "imager", "L", "CC", "left")
    hidden = hidden_projection(KEY, picture)
    assert hidden.source == Source(source.sop_class_uid, pseudonym(KEY, "1.3.12.5"), pseudonym(KEY, "ab" * 32), 1, True)
    assert (hidden.spacing_mm, hidden.laterality, hidden.view, hidden.breast_side) == ((0.5, 0.4), "L", "CC", "left")
    assert hidden.pixels is picture.pixels


def test_a_projection_without_source_stays_without():
    assert hidden_projection(KEY, Projection(np.ones((3, 2), np.float32), "1")).source is None
