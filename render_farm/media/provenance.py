"""The marker in films and posters: an XMP packet which says that a model made them, and which one, for which job.

The digital source type is IPTC's. In an MP4 the packet is a top-level `uuid` box at the end (XMP Specification Part 3),
so nothing is encoded again and no offset changes. Pictures carry it where their format has a place for XMP. The same
marker gives the same bytes: there is no time and no random id in it.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID
from xml.sax.saxutils import quoteattr

from PIL import Image

import render_farm
from render_farm.planning import FilmPlan
from render_farm.uris import shown_uri

TRAINED_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
EXTENDED_BY_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""Of a film that continues a video: some of its frames are the video's."""
SOFTWARE = "render_farm"
_BOX = UUID("BE7ACFCB-97A9-42E8-9C71-999491E3AFAC")
_MOST_BYTES = 1 << 20
"""Of a packet that is read. Ours has less than 1 KiB and 128 characters of job id."""
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_DC = "http://purl.org/dc/elements/1.1/"
_PREFIXES = {_IPTC: "Iptc4xmpExt", _XMP: "xmp", _DC: "dc"}
_FIELDS = {
    "source_type": (_IPTC, "DigitalSourceType"),
    "model": (_IPTC, "AISystemUsed"),
    "model_version": (_IPTC, "AISystemVersionUsed"),
    "software": (_XMP, "CreatorTool"),
    "job_id": (_DC, "identifier"),
}


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What a file says of its origin."""

    job_id: str
    model: str
    model_version: str
    """Fingerprint of the model's weights."""
    software: str
    """Name and version."""
    source_type: str = TRAINED_MODEL


def marker_of(plan: FilmPlan) -> Marker:
    """The marker of a film. It names the model without its folder or bucket, because films are shown to strangers."""
    name = shown_uri(plan.spec.name).partition("?")[0].rstrip("/").rpartition("/")[2]
    return Marker(
        job_id=plan.job.job_id,
        model=name,
        model_version=plan.spec.fingerprint,
        software=f"{SOFTWARE} {render_farm.__version__}",
        source_type=EXTENDED_BY_MODEL if plan.job.task == "v2v" else TRAINED_MODEL,
    )


def xmp_packet(marker: Marker) -> bytes:
    """The marker as an XMP packet."""
    spaces = "".join(f' xmlns:{prefix}="{space}"' for space, prefix in _PREFIXES.items())
    values = "".join(
        f" {_PREFIXES[space]}:{name}={quoteattr(getattr(marker, field))}" for field, (space, name) in _FIELDS.items()
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about=""{spaces}{values}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def xmp_box(packet: bytes) -> bytes:
    """The top-level box of an MP4 that holds an XMP packet; nothing for no packet."""
    return (24 + len(packet)).to_bytes(4, "big") + b"uuid" + _BOX.bytes + packet if packet else b""


def read_marker(path: str | os.PathLike[str]) -> Marker | None:
    """The marker of an MP4 or a picture. None where there is none that this module could have written."""
    with open(path, "rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
        packet = _packet_of_mp4(file) if is_mp4 else _packet_of_picture(Path(path))
    if not packet or len(packet) > _MOST_BYTES or b"<!" in packet:  # no document type, and so no entities
        return None
    try:
        found = ET.fromstring(packet.decode()).find(f".//{{{_RDF}}}Description")
    except (ET.ParseError, UnicodeDecodeError):
        return None
    if found is None:
        return None
    marker = Marker(**{field: found.get(f"{{{space}}}{name}", "") for field, (space, name) in _FIELDS.items()})
    return marker if marker.source_type else None


def _packet_of_picture(path: Path) -> bytes:
    try:
        with Image.open(path) as image:
            packet = image.info.get("xmp", b"")
    except (OSError, ValueError, SyntaxError):  # Pillow's errors for what is no picture
        return b""
    return packet if isinstance(packet, bytes) else b""


def _packet_of_mp4(file: BinaryIO) -> bytes:
    """The content of the XMP box of an MP4 (ISO/IEC 14496-12); b"" where there is none."""
    end, at = file.seek(0, os.SEEK_END), 0
    while at + 8 <= end:
        file.seek(at)
        header = file.read(32)
        size, begins = int.from_bytes(header[:4], "big"), 8
        if size == 1:
            size, begins = int.from_bytes(header[8:16], "big"), 16
        size = size or end - at
        if size < begins:
            return b""
        if header[4:8] == b"uuid" and header[begins : begins + 16] == _BOX.bytes:
            file.seek(at + begins + 16)
            return file.read(min(size - begins - 16, _MOST_BYTES + 1))
        at += size
    return b""
