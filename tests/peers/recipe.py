"""The recipe of `semisam-node train` in NumPy and PyTorch: how a scan is prepared, what a step sees, how weights move,
how a scan is segmented and scored.

Volumes are NumPy arrays [x, y, z] of scans whose axes lie as in RAS+. What is drawn comes from draws.py: with the same
seed it is what `semisam-node` draws.
"""

import gzip
import math
import struct
from pathlib import Path

import numpy
import torch
import vnet

import draws
import nifti

TAIL = 0.005
SHARE_ON_FOREGROUND = 0.5
LEVELS = 40
KEPT_AT_MOST = 0.99
RATE, CONSISTENCY, NOISE = 0.05, 0.1, 0.1


# Scans


def read(path):
    """Intensities in single precision, and the voxel size; refuses scans that would have to be turned."""
    with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
        header = file.read(352)
    rows = numpy.array(struct.unpack_from("<12f", header, 280)).reshape(3, 4)[:, :3]
    if struct.unpack_from("<h", header, 254)[0] < 1 or (rows != numpy.diag(numpy.diag(rows).clip(min=0))).any():
        raise ValueError(f"`{path}` does not lie as RAS+, which is all that is read here")
    values, _ = nifti.read(path)
    return values.numpy(), numpy.diag(rows).tolist()


def places(old, spacing, wanted):
    """Where the voxels of an axis at the wanted spacing lie on the old one, about the same centre."""
    factor = wanted / spacing
    new = max(1, math.floor(old / factor + 0.5))
    centre = (old - 1) / 2
    return centre + (numpy.arange(new) - (new - 1) / 2) * factor, factor


def interpolation(old, at, factor):
    """Weights [new, old] of linear interpolation, averaged over a box where the new voxels are larger."""
    width = math.sqrt(max(0.0, factor**2 - 1))
    reach = math.ceil(width / 2 + 1)
    weights = numpy.zeros((len(at), old))
    for row, place in enumerate(at):
        for tap in range(math.floor(place) - reach, math.ceil(place) + reach + 1):
            share = tent(place - tap, width)
            weights[row, min(max(tap, 0), old - 1)] += share  # beyond the border, its outermost voxel goes on
    return weights


def tent(offset, width):
    """The tent 1 - |x| at an offset, or its mean over a box about it."""
    if width < 1e-3:
        return max(0.0, 1 - abs(offset))

    def area(x):
        x = min(max(x, -1.0), 1.0)
        return (1 + x) ** 2 / 2 if x < 0 else 1 - (1 - x) ** 2 / 2

    return (area(offset + width / 2) - area(offset - width / 2)) / width


def along_axes(volume, weights):
    """`volume` with one matrix applied along each axis."""
    return numpy.einsum("xyz,ax,by,cz->abc", volume.astype("f8"), *weights, optimize=True)


def prepared(image, spacing, wanted):
    """A scan at the wanted spacing, clamped to its own tails, with zero mean and unit deviation."""
    lines = [places(old, mm, wanted) for old, mm in zip(image.shape, spacing)]
    weights = [interpolation(old, *line) for old, line in zip(image.shape, lines)]
    values = along_axes(image, weights).astype("f4")
    ordered = numpy.sort(values, axis=None)
    low, high = (ordered[math.floor(share * (ordered.size - 1) + 0.5)] for share in (TAIL, 1 - TAIL))
    clamped = values.clip(low, high).astype("f8")
    return ((clamped - clamped.mean()) / clamped.std()).astype("f4")


def prepared_labels(labels, spacing, wanted):
    """The nearest voxel's label of each voxel at the wanted spacing."""
    chosen = []
    for old, mm in zip(labels.shape, spacing):
        at, _ = places(old, mm, wanted)
        chosen.append(numpy.floor(at + 0.5).clip(0, old - 1).astype(int))
    return labels[numpy.ix_(*chosen)].astype("u1")


def cohort(folder, spacing, labels):
    """The scans of a folder, prepared, by name: the first `labels` labelled ones with labels, the others without."""
    scans = []
    for path in sorted((Path(folder) / "images").glob("*.nii*")):
        image, mm = read(path)
        label = Path(folder) / "labels" / path.name
        drawn = None
        if label.exists() and labels > 0:
            drawn, labels = prepared_labels(read(label)[0], mm, spacing), labels - 1
        scans.append((prepared(image, mm, spacing), drawn))
    return scans


# Steps


def start(shape, labels, patch, random):
    """Where a crop starts: one in two of a labelled scan holds a voxel of its foreground."""
    centred, pick = random.chance(SHARE_ON_FOREGROUND), random.doubles(1)[0]
    shares = random.doubles(3)
    voxel = None
    if labels is not None and centred:
        foreground = numpy.flatnonzero(labels)
        if foreground.size:
            voxel = numpy.unravel_index(foreground[int(pick * foreground.size)], shape)
    starts = []
    for axis, (extent, side) in enumerate(zip(shape, patch)):
        if extent <= side:
            starts.append(-((side - extent) // 2))
            continue
        low, high = 0, extent - side
        if voxel is not None:
            low, high = max(low, voxel[axis] - side + 1), min(high, voxel[axis])
        starts.append(low + int((high - low + 1) * shares[axis]))
    return starts


def cut(volume, starts, patch):
    """The block of a volume that starts there, with zeros where it sticks out."""
    piece = numpy.zeros(patch, volume.dtype)
    ends = [min(first + side, extent) for first, side, extent in zip(starts, patch, volume.shape)]
    inner = tuple(slice(max(first, 0), end) for first, end in zip(starts, ends))
    outer = tuple(slice(max(-first, 0), end - first) for first, end in zip(starts, ends))
    piece[outer] = volume[inner]
    return piece


def crop(scans, name, number, seed, patch):
    """The crop of a stream of scans in a step: all scans in turn, in a new order each time."""
    epoch, position = divmod(number, len(scans))
    image, labels = scans[draws.named(seed, name, epoch).order(len(scans))[position]]
    starts = start(image.shape, labels, patch, draws.named(seed, name, epoch, position, 0))
    return cut(image, starts, patch), None if labels is None else cut(labels, starts, patch)


def ramp(step, steps):
    """From e^-5 to one, in forty levels."""
    return math.exp(-5 * (1 - min(step * LEVELS // max(steps, 1), LEVELS) / LEVELS) ** 2)


class Run:
    """A training between two steps."""

    def __init__(self, scans, method, patch, steps, seed, network, rate=RATE, form=torch.contiguous_format):
        self.labelled = [scan for scan in scans if scan[1] is not None]
        self.unlabelled = [scan for scan in scans if scan[1] is None] if method == "mean-teacher" else []
        self.guided, self.patch, self.steps, self.seed = method == "mean-teacher", patch, steps, seed
        self.rate, self.form = rate, form
        self.network = network.to(memory_format=form)
        # the program keeps the average in either case, and asks it only if it is guided
        self.teacher = vnet.VNet(network.out_conv.in_channels).to(memory_format=form).requires_grad_(False)
        self.teacher.load_state_dict(network.state_dict())
        self.optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
        self.done = 0

    def step(self):
        """One optimiser step; gives the losses."""
        number, self.done = self.done, self.done + 1
        crops = [crop(self.labelled, "labelled", number, self.seed, self.patch)]
        if self.unlabelled:
            crops.append(crop(self.unlabelled, "unlabelled", number, self.seed, self.patch))
        images = numpy.stack([image for image, _ in crops])[:, None]
        labels = torch.from_numpy(crops[0][1])[None].long()
        self.optimiser.zero_grad(set_to_none=True)
        logits = self.network(self.tensor(images))
        entropy, dice = vnet.cross_entropy_and_dice(logits[:1], labels)
        agreement = torch.zeros(())
        if self.guided:
            agreement = vnet.agreement(logits, self.expected(images, number))
        weight = CONSISTENCY * ramp(number, self.steps)
        loss = entropy + dice + weight * agreement
        loss.backward()
        self.optimiser.param_groups[0]["lr"] = self.rate * (1 - number / self.steps) ** 0.9
        self.optimiser.step()
        self.follow(number)
        names = ("loss", "cross_entropy", "dice_loss", "teacher")
        return dict(zip(names, (part.item() for part in (loss, entropy, dice, agreement))))

    def tensor(self, images):
        return torch.from_numpy(images).to(memory_format=self.form)

    def expected(self, images, number):
        """What the teacher thinks of the same crops with noise."""
        noise = draws.named(self.seed, "teacher noise", number).normals(images.size).clip(-2, 2)
        noisy = images + numpy.float32(NOISE) * noise.reshape(images.shape)
        with torch.no_grad():
            return self.teacher(self.tensor(noisy)).softmax(1)

    def follow(self, number):
        """Moves the teacher towards the student; the first step copies it."""
        kept = min(1 - 1 / (number + 1), KEPT_AT_MOST)
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.network.parameters()):
                old.mul_(kept).add_(new, alpha=1 - kept)


def first_weights(network, seed):
    """Gives a network the weights that `semisam-node` draws for a seed: PyTorch's own law, in order."""
    random, bound, state = draws.seeded(seed), None, {}
    for name, tensor in network.state_dict().items():
        # norms keep their ones and zeros; a bias has the bound of the weight before it
        if name.startswith("out_conv") or int(name.split(".")[2]) % 3 == 0:
            if name.endswith("weight"):
                bound = numpy.float32(1) / numpy.sqrt(numpy.float32(math.prod(tensor.shape[1:])))
            tensor = torch.from_numpy(random.uniform(bound, tensor.numel()).reshape(tensor.shape))
        state[name] = tensor
    network.load_state_dict(state)


# Masks


def segmented(network, image, spacing, wanted, patch):
    """The mask of a scan on its own grid: windows that overlap by half, averaged, brought back by interpolation."""
    small = prepared(image, spacing, wanted)
    first = [max(0, side - extent) // 2 for side, extent in zip(patch, small.shape)]
    padded = cut(small, [-gap for gap in first], [max(side, extent) for side, extent in zip(patch, small.shape)])
    sums, visits = numpy.zeros((2, *padded.shape), "f4"), numpy.zeros(padded.shape, "f4")
    for starts in windows(padded.shape, patch):
        window = tuple(slice(begin, begin + side) for begin, side in zip(starts, patch))
        with torch.no_grad():
            seen = torch.from_numpy(padded[window][None, None].copy())
            sums[(slice(None), *window)] += network(seen).softmax(1)[0].numpy()
        visits[window] += 1
    inner = (slice(None), *(slice(gap, gap + extent) for gap, extent in zip(first, small.shape)))
    background, found = (sums / visits)[inner]
    back = []
    for old, mm, extent in zip(image.shape, spacing, small.shape):
        factor = wanted / mm
        at = (extent - 1) / 2 + (numpy.arange(old) - (old - 1) / 2) / factor
        back.append(interpolation(extent, at, 1 / factor))
    return along_axes(found, back) > along_axes(background, back)


def windows(shape, patch):
    """Where windows start; the last one ends at the border."""
    axes = []
    for extent, side in zip(shape, patch):
        last, stride = extent - side, side // 2
        axes.append([min(step * stride, last) for step in range(-(-last // stride) + 1)])
    return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]


def scores(network, folder, wanted, patch):
    """Dice of each scan of a folder, on its own grid."""
    found = {}
    for path in sorted((Path(folder) / "labels").glob("*.nii*")):
        truth = read(path)[0] > 0
        mask = segmented(network, *read(Path(folder) / "images" / path.name), wanted, patch)
        sizes = int(mask.sum()) + int(truth.sum())
        found[path.name.split(".nii")[0]] = 2 * int((mask & truth).sum()) / sizes if sizes else 1.0
    return found
