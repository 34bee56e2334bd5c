"""Records of a `.beton` file and crop boxes → crops, in one compiled call around FFCV's decoder.

FFCV's resizer (`cv::INTER_AREA`) is left aside: `simsiam.pipeline.crop_resize` takes a third of its time, 0.19 ms a
crop of 224 pixels against 0.57, and is the reference's filter.
"""

import ctypes
import importlib.machinery
import importlib.util

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from numba import njit, types

from simsiam.pipeline.beton_format import RAW, Index

# Compiled into `_crop_records`, whose cached code does not notice that it has changed: then touch this file.
from simsiam.pipeline.crop_resize import crop_resize


def _load_library() -> ctypes.CDLL:
    """Load FFCV's compiled routines alone: importing its Python package takes seconds, and none of it is used."""
    package = importlib.util.find_spec("ffcv")
    places = list((package and package.submodule_search_locations) or [])
    library = importlib.machinery.PathFinder.find_spec("_libffcv", places)
    if library is None or library.origin is None:
        raise ModuleNotFoundError("No module named 'ffcv'", name="ffcv")
    return ctypes.CDLL(library.origin)


# imdecode(record, its bytes, height, width, pixels, and of a crop, scaling and mirroring inside the decoder, which it
# would do anew for each view: height, width, column, row, scale's numerator and denominator, wanted, mirrored)
_library = _load_library()
_library.imdecode.argtypes = [
    *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p),
    *[ctypes.c_uint32] * 6,
    *(ctypes.c_bool, ctypes.c_bool),
]
_library.tjGetErrorStr.restype = ctypes.c_char_p  # TurboJPEG's, which the library brings along

# Bound by name: a compiled function with an address in it can't be kept for the next run.
llvmlite.binding.add_symbol("simsiam_ffcv_imdecode", ctypes.cast(_library.imdecode, ctypes.c_void_p).value)
_imdecode = types.ExternalFunction(
    "simsiam_ffcv_imdecode",
    types.int32(
        *(types.uintp, types.uint64, types.uint32, types.uint32, types.uintp),
        *[types.uint32] * 6,
        *(types.uint8, types.uint8),
    ),
)
_pread = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))


def crop_records(
    file: int,
    records: Index,
    rows: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    crop: npt.NDArray[np.int32],
    pixels: npt.NDArray[np.uint8],
    record: npt.NDArray[np.uint8],
    image: npt.NDArray[np.uint8],
) -> npt.NDArray[np.bool_]:
    """Read, decode and crop some rows of a batch without holding Python's lock.

    For each r in `rows` (k,), the sample `index[r]` of the open file is cut into the boxes `crop[r]` (V, 4: top, left,
    height, width), which are resized to `pixels[r]`, uint8 (V, S, S, 3). `record` and `image` are memory for the
    longest JPEG and the largest image, for this call alone. Returns which rows are good, bool (k,): not good is
    a record that can't be read to its end, isn't of the size that the file promises, or that the decoder complains of.
    """
    good = np.zeros(len(rows), np.bool_)
    places = (records.offsets, records.lengths, records.modes, records.sizes)
    _crop_records(file, *places, rows, index, crop, pixels, record, image, good)
    return good


def decoder_message(encoded: bytes, height: int, width: int) -> str:
    """Return what the decoder complains of in a JPEG: its first error or warning."""
    pixels = np.empty((height, width, 3), np.uint8)
    _library.imdecode(encoded, len(encoded), height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False)
    return (_library.tjGetErrorStr() or b"").decode("ascii", "replace") or "refused by the JPEG decoder"


@njit("UniTuple(int64, 2)(uint8[::1], int64)", nogil=True, cache=True)
def _jpeg_size(record, length):
    """Return height and width from the frame header of a JPEG (ITU-T T.81, B.2.2); 0, 0 where there is none."""
    place = 2
    while place + 9 <= length and record[place] == 0xFF:
        marker = record[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = (np.int64(record[place + 5]) << 8) | record[place + 6]
            width = (np.int64(record[place + 7]) << 8) | record[place + 8]
            return height, width
        # Any number of 0xFF may come before a marker.
        place += 1 if marker == 0xFF else 2 + ((np.int64(record[place + 2]) << 8) | record[place + 3])
    return 0, 0


@njit(
    "void(int32, int64[::1], int64[::1], uint8[::1], int32[:, ::1], int64[::1], int64[::1], int32[:, :, ::1],"
    " uint8[:, :, :, :, ::1], uint8[::1], uint8[::1], boolean[::1])",
    nogil=True,
    cache=True,
)
def _crop_records(file, offsets, lengths, modes, sizes, rows, index, crop, pixels, record, image, good):
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
        whole = image.ctypes.data
        if modes[sample] != RAW:
            # Asked for another size than the JPEG's, the decoder would scale it, or fill a part of the memory.
            if _jpeg_size(record, length) != (height, width):
                continue
            if _imdecode(record.ctypes.data, length, height, width, whole, height, width, 0, 0, 1, 1, 0, 0) != 0:
                continue
        for view in range(crop.shape[1]):
            top, left, crop_height, crop_width = crop[rows[k], view]
            crop_resize(image, width, top, left, crop_height, crop_width, pixels[rows[k], view])
        good[k] = True
