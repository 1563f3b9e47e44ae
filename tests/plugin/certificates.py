"""Certificates made on the fly: an authority, what it vouches for, and files of them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass
class Paper:
    """A certificate with its key as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """An authority of its own in a folder; ca: its PEM file."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._ca = folder, trustme.CA()
        self.ca = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def paper(self, name: str, *hosts: str, common_name: str | None = None, expired: bool = False) -> Paper:
        """hosts: names and addresses in Subject Alternative Name; an e-mail address stands for none."""
        day = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        made = self._ca.issue_cert(*hosts, common_name=common_name, not_after=day if expired else None)
        paper = Paper(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        chain = [blob.bytes() for blob in made.cert_chain_pems]
        paper.certificate.write_bytes(b"".join(chain))
        made.private_key_pem.write_to_path(str(paper.key))
        return paper
