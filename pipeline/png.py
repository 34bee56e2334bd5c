"""Chunks of a PNG that its pixels depend on: Pillow's limits on text and colour profiles must not judge the pixels.

Chunk layout and the bit of a chunk's type that marks it as ancillary: PNG specification (third edition), 5.3 and 5.4.
"""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANCILLARY = 0x20
"""Bit of the type's first byte: a decoder may ignore the chunk."""
_KEPT = frozenset((b"tRNS", b"eXIf"))
"""Ancillary chunks that are kept: the transparent colour, and the EXIF data with the orientation."""


def pixel_chunks(encoded: bytes) -> bytes:
    """Return a PNG without its text, profile, animation and private chunks; what is no PNG as it is.

    Pillow refuses a PNG whose text or profile is larger than `PngImagePlugin.MAX_TEXT_CHUNK`, or whose text is damaged.
    Those limits are attributes of a module, shared by all threads of a program, so they are left as they are. Without
    its animation chunks, an animated PNG is its default image.
    """
    if not encoded.startswith(_SIGNATURE):
        return encoded
    parts, start, offset, kind = [], 0, len(_SIGNATURE), b""
    while kind != b"IEND" and offset + 12 <= len(encoded):
        kind = encoded[offset + 4 : offset + 8]
        end = offset + 12 + int.from_bytes(encoded[offset : offset + 4])
        if end > len(encoded):  # truncated, which the decoder reports
            break
        if kind[0] & _ANCILLARY and kind not in _KEPT:
            parts.append(encoded[start:offset])
            start = end
        offset = end
    return b"".join((*parts, encoded[start:])) if parts else encoded
