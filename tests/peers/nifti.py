"""Scans as PyTorch tensors: enough of NIfTI-1 for the folders that are measured on.

Little-endian, one file, as `semisam-node data synth` writes it. Axes are taken as they lie in the file: their order
does not matter for speed.
"""

import gzip
import struct
from pathlib import Path

import numpy
import torch
from torch.nn import functional

TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2", 768: "<u4"}


def read(path):
    """Intensities as float32 [x, y, z], and the voxel size in millimetres."""
    data = Path(path).read_bytes()
    if str(path).endswith(".gz"):
        data = gzip.decompress(data)
    if len(data) < 352 or struct.unpack_from("<i", data)[0] != 348:
        raise ValueError(f"`{path}` is no little-endian NIfTI-1 file")
    shape = struct.unpack_from("<4h", data, 40)[1:]
    code = struct.unpack_from("<h", data, 70)[0]
    spacing = struct.unpack_from("<3f", data, 80)
    start, slope, intercept = struct.unpack_from("<3f", data, 108)
    if code not in TYPES:
        raise ValueError(f"`{path}` has data type {code}, which is not read here")
    count = shape[0] * shape[1] * shape[2]
    values = numpy.frombuffer(data, TYPES[code], count, int(start)).astype("f4").reshape(shape, order="F")
    if slope not in (0.0, 1.0) or intercept != 0.0:
        values = values * (slope or 1.0) + intercept
    return torch.from_numpy(numpy.ascontiguousarray(values, dtype="f4")), spacing


def prepared(folder, spacing_mm):
    """Scans of `folder` at `spacing_mm` and normalised, those with labels and those without."""
    labelled, unlabelled = [], []
    for path in sorted((Path(folder) / "images").glob("*.nii*")):
        image, spacing = read(path)
        shape = [max(1, round(extent * old / spacing_mm)) for extent, old in zip(image.shape, spacing)]
        image = normalised(resized(image, shape, "trilinear"))
        label = Path(folder) / "labels" / path.name
        if label.exists():
            labels = resized(read(label)[0], shape, "nearest-exact").to(torch.uint8)
            labelled.append((image, labels, labels.nonzero()))
        else:
            unlabelled.append((image, None, None))
    return labelled, unlabelled


def resized(volume, shape, mode):
    """`volume` on a grid of `shape`, if it is on another."""
    if list(volume.shape) == list(shape):
        return volume
    return functional.interpolate(volume[None, None], size=shape, mode=mode)[0, 0]


def normalised(image):
    """Clamped to its own 0.5th and 99.5th percentile, then zero mean and unit deviation."""
    ordered = image.flatten().sort().values
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.005, 0.995))
    image = image.clamp(low, high)
    return (image - image.mean()) / image.std().clamp(min=1e-12)
