"""Compiled loop over records of a `.beton`: read, decode with the TurboJPEG in FFCV's library, crop, resize.

Neither of FFCV's own two routines is used. Its decoding asks TurboJPEG for the fast DCT, which is a grey level off; the
exact one takes 2 % longer and gives the reference's pixels. Its resizing is OpenCV's area filter;
`simsiam.pipeline.loaders.crop_resize` takes a third of the time and is the reference's filter.
"""

import ctypes
import importlib.machinery
import importlib.util
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from numba import njit, types

from simsiam.kernels.compiled_once import compiled_once
from simsiam.pipeline.beton.layout import RAW, Index
from simsiam.pipeline.loaders import crop_resize as resizer
from simsiam.pipeline.loaders.crop_resize import crop_resize

_RGB, _EXACT_DCT = 0, 4096  # turbojpeg.h


def _load_library() -> ctypes.CDLL:
    """Load FFCV's compiled library only: importing its Python package takes seconds, and nothing of it is used."""
    package = importlib.util.find_spec("ffcv")
    folders = list((package and package.submodule_search_locations) or [])
    library = importlib.machinery.PathFinder.find_spec("_libffcv", folders)
    if library is None or library.origin is None:
        raise ModuleNotFoundError("No module named 'ffcv'", name="ffcv")
    return ctypes.CDLL(library.origin)


_library = _load_library()  # TurboJPEG's functions are found through it, since it is linked to them
_library.tjInitDecompress.restype = ctypes.c_void_p
_library.tjDestroy.argtypes = [ctypes.c_void_p]


def _bind(name: str, signature: Any) -> Any:
    """Register a function of the library by name: code that contains its address could not be cached on disk."""
    llvmlite.binding.add_symbol(f"simsiam_{name}", ctypes.cast(getattr(_library, name), ctypes.c_void_p).value)
    return types.ExternalFunction(f"simsiam_{name}", signature)


# Decoder, JPEG, its length, and addresses for width, height, chroma subsampling and colour space.
_read_header = _bind("tjDecompressHeader3", types.int32(types.uintp, types.uintp, types.uint64, *[types.uintp] * 4))
# Decoder, JPEG, its length, pixels, width, bytes of a row (0: no gap), height, pixel format, flags.
_decompress = _bind(
    "tjDecompress2", types.int32(types.uintp, types.uintp, types.uint64, types.uintp, *[types.int32] * 5)
)
_open_decoder = _bind("tjInitDecompress", types.uintp())
_close_decoder = _bind("tjDestroy", types.int32(types.uintp))
_pread = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))


class Decoder:
    """TurboJPEG decoder of one thread."""

    def __init__(self) -> None:
        self.handle = np.array([_library.tjInitDecompress()], np.uintp)
        """Its address, uintp (1,); compiled code replaces the decoder after an error."""
        if not self.handle[0]:
            raise MemoryError("TurboJPEG has no memory for a decoder.")

    def __del__(self) -> None:
        _library.tjDestroy(int(self.handle[0]))


def crop_records(
    file: int,
    records: Index,
    rows: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    crop: npt.NDArray[np.int32],
    pixels: npt.NDArray[np.uint8],
    decoder: Decoder,
    record: npt.NDArray[np.uint8],
    image: npt.NDArray[np.uint8],
) -> npt.NDArray[np.bool_]:
    """Read, decode and crop some rows of a batch without Python's global lock.

    For each r in `rows`, int64 (k,), the boxes `crop[r]`, int32 (V, 4: top, left, height, width), of the sample
    `index[r]` of the open file are resized to `pixels[r]`, uint8 (V, S, S, 3). `decoder` and the memory for the longest
    JPEG, `record`, and for the largest image, `image`, must not be used by another thread meanwhile.

    Returns which rows are good, bool (k,). A record that can't be read to its end, isn't of the size in the file's
    index, or makes the decoder return an error or a warning is not.
    """
    good = np.zeros(len(rows), np.bool_)
    layout = (records.offsets, records.lengths, records.modes, records.sizes)
    _crop_records(file, *layout, rows, index, crop, pixels, decoder.handle, record, image, good)
    return good


@compiled_once(njit, "boolean(uintp, Array(uint8, 1, 'C', readonly=True), int64, int64, int64, uint8[::1])", nogil=True)
def _is_decoded(decoder, record, length, height, width, image):
    found = np.empty(4, np.int32)
    address, encoded = found.ctypes.data, record.ctypes.data
    if _read_header(decoder, encoded, length, address, address + 4, address + 8, address + 12) != 0:
        return False
    # Asked for another size than the JPEG's, the decoder would scale it, or fill only a part of the memory.
    if found[0] != width or found[1] != height:
        return False
    return _decompress(decoder, encoded, length, image.ctypes.data, width, 0, height, _RGB, _EXACT_DCT) == 0


def _compile(resizer_version: int) -> Callable:
    """Return the compiled loop over records.

    Numba's cache on disk identifies a function by its file's date and the values it closes over. It would not notice
    that the resizer, in another file, has changed, so the function closes over that file's checksum.
    """

    @compiled_once(
        njit,
        "void(int32, int64[::1], int64[::1], uint8[::1], int32[:, ::1], int64[::1], int64[::1], int32[:, :, ::1],"
        " uint8[:, :, :, :, ::1], uintp[::1], uint8[::1], uint8[::1], boolean[::1])",
        nogil=True,
    )
    def crop_records(file, offsets, lengths, modes, sizes, rows, index, crop, pixels, decoder, record, image, good):
        _ = resizer_version
        for k in range(len(rows)):
            sample = index[rows[k]]
            length, height, width = lengths[sample], sizes[sample, 0], sizes[sample, 1]
            target = image if modes[sample] == RAW else record
            read = 0
            while read < length:
                part = _pread(file, target.ctypes.data + read, length - read, offsets[sample] + read)
                if part <= 0:
                    break
                read += part
            if read < length:
                continue
            if modes[sample] != RAW and not _is_decoded(decoder[0], record, length, height, width, image):
                # After some errors, such as a wrong Huffman table, this decoder would refuse every other image.
                _close_decoder(decoder[0])
                decoder[0] = _open_decoder()
                continue
            for view in range(crop.shape[1]):
                top, left, crop_height, crop_width = crop[rows[k], view]
                crop_resize(image, width, top, left, crop_height, crop_width, pixels[rows[k], view])
            good[k] = True

    return crop_records


_crop_records = _compile(zlib.crc32(Path(resizer.__file__).read_bytes()))
