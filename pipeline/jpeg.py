"""Markers of a JPEG, read without decoding: its size, whether it is of the usual kind, and whether it is complete.

Marker codes and segment layouts are those of ITU-T T.81, annex B; the Adobe segment is that of T.872, 6.5.3.
"""

import re
from typing import NamedTuple

PADDING = 0xFF
"""Byte that may be repeated before a marker."""
_START, _END, _SCAN, _ADOBE = 0xD8, 0xD9, 0xDA, 0xEE
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
"""Codes of the frame markers SOF0 to SOF2: sequential or progressive DCT with a Huffman code."""
_METADATA = frozenset(range(0xE1, 0xF0)) - {_ADOBE} | {0xFE}
"""Codes of the segments that no pixel depends on: APP1 to APP15 without Adobe's, and comments."""
_QUANTISATION, _HUFFMAN, _RESTART_INTERVAL = 0xDB, 0xC4, 0xDD
_RESTARTS = bytes(range(0xD0, 0xD8))
# Within a scan, 0xFF is followed by 0 in data, by 0xFF in padding, and by 0xD0 to 0xD7 in a restart marker.
_MARKER_OR_RESTART = re.compile(rb"\xff[^\x00\xff]")
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
# SOF0 to SOF15, without the three codes of that range that mean something else: DHT, JPG, DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Sampling factors of 4:4:4, 4:2:2, 4:4:0 and 4:2:0.
_USUAL_SAMPLING = ((0x11, 0x11, 0x11), (0x21, 0x11, 0x11), (0x12, 0x11, 0x11), (0x22, 0x11, 0x11))


class JpegHeader(NamedTuple):
    """What the segments before the compressed data say; the frame is that of the first scan."""

    process: int
    """Code of the frame's marker: `BASELINE`, `EXTENDED`, `PROGRESSIVE` or another one."""
    precision: int
    """Bits of a sample."""
    height: int
    width: int
    components: bytes
    """Identifier of each component."""
    sampling: bytes
    """Sampling factors of each component: horizontal in the upper four bits, vertical in the lower four."""
    jfif_version: int | None
    """Major version of the JFIF segment, if there is one."""
    adobe_transform: int | None
    """Colour transform of the Adobe segment, if there is one: 0 none (RGB, CMYK), 1 YCbCr, 2 YCCK."""
    codes: frozenset[int]
    """Codes of all markers; `PADDING` among them if there is any."""
    scan: bytes
    """Content of the scan header."""
    scan_start: int
    """Offset of the compressed data."""


class UsualJpeg(NamedTuple):
    """A JPEG of three 8-bit components, YCbCr, in 4:4:4, 4:2:2, 4:4:0 or 4:2:0: all decoders agree on its pixels."""

    height: int
    width: int
    whole_baseline: bool
    """Whether it is a single baseline scan, with all of its markers in order up to the end marker."""
    length: int
    """Bytes up to and including the end marker, behind which cameras append things; 0 unless `whole_baseline`."""
    scan_start: int
    """Offset of the compressed data."""


def read_jpeg_header(encoded: bytes) -> JpegHeader | None:
    """Read the segments of a JPEG up to the first scan; None for a damaged one, and for what is no JPEG."""
    try:
        return _read_header(encoded)
    except IndexError:  # the bytes end in the middle of a segment
        return None


def read_usual_jpeg(encoded: bytes) -> UsualJpeg | None:
    """Read the markers of a baseline or progressive JPEG; None for another kind, a damaged one, or no JPEG.

    Takes 0.05 ms for a photograph of 110 kB on a Xeon core, a fortieth of decoding it. It can't see flipped bits or
    lost bytes within the compressed data that leave every marker intact.
    """
    header = read_jpeg_header(encoded)
    if header is None or not _is_usual(header):
        return None
    # This scan holds all three components with all coefficients; a baseline JPEG may spread components over several.
    end = 0
    if header.process == BASELINE and header.scan[:1] == b"\3" and header.scan[7:] == b"\x00\x3f\x00":
        end = _end_of_scan(encoded, header.scan_start, _RESTART_INTERVAL in header.codes)
    return UsualJpeg(header.height, header.width, bool(end), end, header.scan_start)


def without_metadata(encoded: bytes) -> bytes:
    """Return a JPEG without comments, EXIF, profiles and the like before its first scan; what is no JPEG as it is."""
    if encoded[:2] != bytes((0xFF, _START)):
        return encoded
    parts, start, offset = [], 0, 2
    while encoded[offset : offset + 1] == b"\xff" and len(encoded) >= offset + 4 and encoded[offset + 1] != _SCAN:
        code = encoded[offset + 1]
        end = offset + 1 if code == PADDING else offset + 2 + int.from_bytes(encoded[offset + 2 : offset + 4])
        if code in _METADATA:
            parts.append(encoded[start:offset])
            start = end
        offset = end
    return b"".join((*parts, encoded[start:])) if parts else encoded


def _read_header(encoded: bytes) -> JpegHeader | None:
    if encoded[:2] != bytes((0xFF, _START)):
        return None
    codes: set[int] = set()
    process, frame, adobe_transform, jfif_version = 0, b"", None, None
    offset, code, content = 2, 0, b""
    while code != _SCAN:
        if encoded[offset] != 0xFF:
            return None
        code = encoded[offset + 1]
        codes.add(code)
        if code == PADDING:
            offset += 1
            continue
        length = encoded[offset + 2] << 8 | encoded[offset + 3]
        content = encoded[offset + 4 : offset + 2 + length]
        offset += 2 + length
        if code in _FRAMES:
            if frame:  # decoders refuse a second one
                return None
            process, frame = code, content
        elif code == _ADOBE and content[:5] == b"Adobe":
            adobe_transform = content[11]
        elif content[:5] == b"JFIF\0":
            jfif_version = content[5]
    if not frame or len(frame) != 6 + 3 * frame[5]:
        return None
    return JpegHeader(
        process,
        frame[0],
        frame[1] << 8 | frame[2],
        frame[3] << 8 | frame[4],
        frame[6::3],
        frame[7::3],
        jfif_version,
        adobe_transform,
        frozenset(codes),
        content,
        offset,
    )


def _is_usual(header: JpegHeader) -> bool:
    if header.process not in (BASELINE, PROGRESSIVE) or header.precision != 8 or not header.height or not header.width:
        return False
    if header.jfif_version not in (None, 1):  # decoders warn of any other
        return False
    # Without a JFIF or Adobe segment, decoders tell YCbCr from RGB by the components' numbers.
    says_ycbcr = header.adobe_transform == 1 or (header.adobe_transform is None and header.jfif_version == 1)
    is_ycbcr = says_ycbcr or (header.adobe_transform is None and header.components == b"\1\2\3")
    return is_ycbcr and tuple(header.sampling) in _USUAL_SAMPLING and header.codes >= {_QUANTISATION, _HUFFMAN}


def _end_of_scan(encoded: bytes, start: int, restarts: bool) -> int:
    """Return the offset behind the end marker of the scan at `start`; 0 if another marker than restarts precedes it."""
    marker = (_MARKER if restarts else _MARKER_OR_RESTART).search(encoded, start)
    if marker is None or marker[0][1] != _END:
        return 0
    if restarts:
        found = b"".join(_RESTART.findall(encoded, start, marker.start()))
        # They count from 0 to 7, then from 0 again; a gap is lost data.
        if found != (_RESTARTS * (len(found) // 8 + 1))[: len(found)]:
            return 0
    return marker.end()
