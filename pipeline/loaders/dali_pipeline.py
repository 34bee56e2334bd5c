"""DALI pipeline: JPEGs and boxes → their crops, on the GPU or the CPU."""

import io
import re
from collections import deque

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from simsiam.pipeline.decode import is_too_large
from simsiam.pipeline.errors import RunError
from simsiam.pipeline.jpeg import BASELINE, EXTENDED, PADDING, PROGRESSIVE, read_jpeg_header

QUEUE = 2
"""Batches in DALI at once."""
_TEST_COLOUR = (200, 120, 40)


class DaliPipeline:
    """Decodes batches of JPEGs, each once, and crops the decoded pixels, in `threads` threads.

    On a CUDA device, `hw_decoder_load` is the share of the images that the GPU's JPEG engine decodes, if it has one;
    its other cores and the CPU decode the rest. Images are cropped on the device that decoded them.

    After an error the pipeline can't be used any more, and the batches fed to it are lost. Raises RunError when DALI
    doesn't work on the device.
    """

    def __init__(
        self, device: torch.device, threads: int, batch: int, views: int, crop_size: int, hw_decoder_load: float
    ) -> None:
        self._device, self._views = device, views
        # DALI doesn't copy the JPEGs, so they must live until the crops of their batch were taken.
        self._being_read: deque[list[npt.NDArray[np.uint8]]] = deque(maxlen=QUEUE + 1)
        cuda = device.type == "cuda"
        try:
            self._pipeline = Pipeline(
                batch_size=batch,
                num_threads=threads,
                device_id=torch.empty(0, device=device).get_device() if cuda else None,
                prefetch_queue_depth=QUEUE,
            )
            with self._pipeline:
                image = fn.decoders.image(
                    fn.external_source(name="jpeg", no_copy=True),
                    device="mixed" if cuda else "cpu",
                    output_type=types.DALIImageType.RGB,
                    adjust_orientation=False,
                    # Interpolated chroma is libjpeg's default, and so that of all other backends.
                    jpeg_fancy_upsampling=True,
                    hw_decoder_load=hw_decoder_load,
                )
                self._pipeline.set_outputs(*(_crop(image, view, crop_size) for view in range(views)))
            self._try_out()
        except RunError:
            raise
        except Exception as error:
            raise RunError(f"DALI doesn't work on {device} ({reason(error)}); use the torch backend.") from error

    def feed(self, jpegs: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32]) -> None:
        """Give DALI a batch, at most `QUEUE` ahead of `take`; doesn't wait for its crops.

        `jpegs` are n arrays of encoded bytes, `boxes` int32 (n, V, 4): top, left, height, width in source pixels.
        """
        self._feed_inputs(jpegs, boxes)
        self._pipeline.schedule_run()

    def take(self) -> list[torch.Tensor]:
        """Wait for the oldest batch fed, and return its crops on the device: for each view uint8 (n, S, S, 3).

        DALI reuses their memory: on a GPU, read them on the current stream before the next call.
        """
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        crops = [torch.from_dlpack(crops.as_tensor()) for crops in self._pipeline.share_outputs(stream)]
        self._pipeline.release_outputs()
        return crops

    def close(self) -> None:
        """End DALI's threads and free its memory."""
        # There is no public method for it; a pipeline shuts down when it is collected.
        del self._pipeline

    def _feed_inputs(self, jpegs: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32]) -> None:
        self._being_read.append(jpegs)
        self._pipeline.feed_input("jpeg", jpegs)
        for view in range(self._views):
            self._pipeline.feed_input(f"start_{view}", np.ascontiguousarray(boxes[:, view, :2]))
            self._pipeline.feed_input(f"shape_{view}", np.ascontiguousarray(boxes[:, view, 2:]))

    def _try_out(self) -> None:
        """Crop a picture of known colour.

        With some GPUs and drivers the decoder reports success and leaves the pixels black. Besides, the first
        `schedule_run` of a pipeline runs as many batches as its queue holds, so it is used up here.
        """
        stream = io.BytesIO()
        Image.new("RGB", (64, 64), _TEST_COLOUR).save(stream, "JPEG")
        box = np.array([0, 0, 64, 64], np.int32)
        for _ in range(QUEUE):
            jpeg = np.frombuffer(stream.getvalue(), np.uint8)
            self._feed_inputs([jpeg], np.broadcast_to(box, (1, self._views, 4)))
        self._pipeline.schedule_run()
        for crops in [crops for _ in range(QUEUE) for crops in self.take()]:
            if (crops.cpu().int() - torch.tensor(_TEST_COLOUR)).abs().max() > 8:
                raise RunError(f"DALI decodes wrong colours on {self._device}; use the torch backend.")


def _crop(image, view: int, size: int):
    # Sliced first: given a region, `resize` lets pixels from outside of it into the crop's border.
    start, shape = (fn.external_source(name=f"{name}_{view}") for name in ("start", "shape"))
    return fn.resize(
        fn.slice(image, start=start, shape=shape, axes=[0, 1]),
        size=[size, size],
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        antialias=True,
    )


def reads_like_pillow(encoded: bytes, height: int, width: int) -> bool:
    """Return whether DALI decodes this image as Pillow does, on the CPU and on the GPU; reads headers only.

    It does for a JPEG of this size in baseline, extended or progressive DCT with a Huffman code, of eight bits a
    sample, with one component or three of YCbCr, without padding in its header, with an end marker, without which it
    would be truncated, and within Pillow's limit for decompression bombs.
    """
    header = read_jpeg_header(encoded)
    if header is None or encoded[-2:] != b"\xff\xd9" or is_too_large(height, width):
        return False
    is_rgb = header.adobe_transform == 0 or header.components == b"RGB"
    return (
        header.process in (BASELINE, EXTENDED, PROGRESSIVE)
        and PADDING not in header.codes
        and header.precision == 8
        and (header.height, header.width) == (height, width)
        and (len(header.components) == 1 or (len(header.components) == 3 and not is_rgb))
    )


def reason(error: Exception) -> str:
    """Return the sentence of DALI's message that says what happened, without its account of operators."""
    found = re.search(r"encountered:\s*(?:\[[^]]*\]\s*)?(.+)", str(error))
    return found[1].strip() if found else str(error).strip().partition("\n")[0]
