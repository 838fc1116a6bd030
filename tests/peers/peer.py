"""One measurement of PyTorch in a process of its own; prints the JSON of `semisam-node bench`.

    python peer.py conv --side 64
    python peer.py step --base-filters 16 --patch 64,64,64 --batch 2
    python peer.py train --data DIR
    python peer.py sam                   # if sam_med3d.py is there
    python peer.py about                 # versions

Arguments that a measurement does not need are ignored, so that every row may give what both sides understand.
"""

import argparse
import copy
import importlib
import json
import math
import random
import statistics
import time

import nifti
import torch
import vnet

FORMATS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
QUERIES = {"all_queries": False, "real_queries": True}


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_default_device(options.device)
    torch.manual_seed(1)
    works = {"conv": conv, "step": step, "train": train, "sam": sam, "about": about}
    print(json.dumps(works[options.bench](options)))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=["conv", "step", "train", "sam", "about"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--repeats", "--steps", type=int, default=5)
    parser.add_argument("--variant", choices=[*FORMATS, *QUERIES], default="contiguous")
    parser.add_argument("--base-filters", type=int, default=4)
    parser.add_argument("--patch", type=sides, default=[64, 64, 64])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=16)
    parser.add_argument("--outputs", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--data")
    parser.add_argument("--spacing", type=float, default=2.5)
    parser.add_argument("--method", choices=["supervised", "mean-teacher"], default="mean-teacher")
    return parser.parse_args()


def sides(text):
    return [int(side) for side in text.split(",")]


def conv(options):
    """One convolution: gradients of input, weight and bias, and the forward pass alone."""
    form = FORMATS[options.variant]
    padding = options.kernel // 2 if options.kernel % 2 else 0
    layer = torch.nn.Conv3d(options.inputs, options.outputs, options.kernel, options.stride, padding)
    layer = layer.to(memory_format=form)
    shape = [options.batch, options.inputs] + 3 * [options.side]
    x = torch.randn(shape).to(memory_format=form).requires_grad_()
    extent = (options.side + 2 * padding - options.kernel) // options.stride + 1
    ones = torch.ones([options.batch, options.outputs] + 3 * [extent]).to(memory_format=form)

    def whole():
        x.grad = layer.weight.grad = layer.bias.grad = None
        layer(x).backward(ones)

    def forward():
        with torch.inference_mode():
            layer(x)

    return report(options, {"step": whole, "forward": forward})


def step(options):
    """Optimiser steps of the V-Net with cross-entropy and Dice, and the forward pass alone."""
    form = FORMATS[options.variant]
    network = vnet.VNet(options.base_filters).to(memory_format=form)
    optimiser = vnet.optimiser(network)
    images = torch.randn([options.batch, 1, *options.patch]).to(memory_format=form)
    labels = torch.randint(0, 2, [options.batch, *options.patch])

    def whole():
        optimiser.zero_grad(set_to_none=True)
        sum(vnet.cross_entropy_and_dice(network(images), labels)).backward()
        optimiser.step()

    def forward():
        with torch.inference_mode():
            network(images).softmax(1)

    return report(options, {"step": whole, "forward": forward})


def train(options):
    """Iterations of the recipe of `semisam-node train`, crops cut from scans in memory."""
    form = FORMATS[options.variant]
    start = time.perf_counter()
    labelled, unlabelled = nifti.prepared(options.data, options.spacing)
    load_seconds = time.perf_counter() - start
    network = vnet.VNet(options.base_filters).to(memory_format=form)
    guided = options.method == "mean-teacher"
    teacher = copy.deepcopy(network).requires_grad_(False)
    optimiser = vnet.optimiser(network)
    draw = random.Random(1)
    total = options.warm_up + options.repeats
    done = 0

    def iteration():
        nonlocal done
        crops = [crop(draw.choice(labelled), options.patch, draw)]
        if guided and unlabelled:
            crops.append(crop(draw.choice(unlabelled), options.patch, draw))
        images = torch.stack([image for image, _ in crops])[:, None].to(memory_format=form)
        labels = crops[0][1][None].long()
        optimiser.zero_grad(set_to_none=True)
        logits = network(images)
        loss = sum(vnet.cross_entropy_and_dice(logits[:1], labels))
        if guided:
            with torch.no_grad():
                expected = teacher(images + (0.1 * torch.randn_like(images)).clamp(-0.2, 0.2)).softmax(1)
            loss = loss + 0.1 * math.exp(-5 * (1 - done / total) ** 2) * vnet.agreement(logits, expected)
        loss.backward()
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - done / total) ** 0.9
        optimiser.step()
        kept = min(1 - 1 / (done + 1), 0.99)
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), network.parameters()):
                old.lerp_(new, 1 - kept)
        done += 1

    found = report(options, {"iteration": iteration})
    times = found["times"]["iteration"]["ms"]
    return {**found, "iterations_per_second": 1e3 * len(times) / sum(times), "load_seconds": load_seconds}


def crop(scan, patch, draw):
    """A crop of `patch` voxels; one in two of a labelled scan lies around a foreground voxel."""
    image, labels, foreground = scan
    missing = [max(0, side - extent) for side, extent in zip(patch, image.shape)]
    if any(missing):
        pad = [part for gap in reversed(missing) for part in (gap // 2, gap - gap // 2)]
        image = torch.nn.functional.pad(image, pad)
        labels = None if labels is None else torch.nn.functional.pad(labels, pad)
    free = [extent - side for side, extent in zip(patch, image.shape)]
    start = [draw.randint(0, room) for room in free]
    if foreground is not None and len(foreground) and not any(missing) and draw.random() < 0.5:
        voxel = foreground[draw.randrange(len(foreground))].tolist()
        start = [min(max(at - side // 2, 0), room) for at, side, room in zip(voxel, patch, free)]
    cut = tuple(slice(first, first + side) for first, side in zip(start, patch))
    return image[cut].contiguous(), None if labels is None else labels[cut].contiguous()


def sam(options):
    """An image through SAM-Med3D's encoder, and one point through its decoder up to a mask of the image's size."""
    sam_med3d = importlib.import_module("sam_med3d")
    # padded tokens ask as in the original, or not at all, which changes nothing in the result
    model = sam_med3d.build(only_real_queries=QUERIES.get(options.variant, False))
    given = sam_med3d.inputs(model.config)
    points, labels = (given[f"one_point_no_mask.{part}"] for part in ("points", "labels"))
    embedding = None

    def encode():
        nonlocal embedding
        embedding = sam_med3d.encode(model, given["image"])

    def decode():
        sam_med3d.decode(model, embedding, points, labels)

    return report(options, {"encode": encode, "decode": decode})


def about(_):
    """What is compared with."""
    mkldnn = [line.strip(" -") for line in torch.__config__.show().splitlines() if "MKL-DNN" in line]
    if torch.get_default_device().type == "cuda":
        library = f"cuDNN {torch.backends.cudnn.version()}, TF32 in convolutions as PyTorch sets it"
        return {"torch": torch.__version__, "capability": torch.cuda.get_device_name(), "library": library}
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "library": mkldnn[0].split(" (")[0] if mkldnn else "none",
    }


def report(options, works):
    """Times of each work; the peak is that of the first one."""
    before, peak, times = field("VmRSS"), None, {}
    for name, work in works.items():
        ms = [milliseconds(work) for _ in range(options.warm_up + options.repeats)][options.warm_up :]
        times[name] = {"ms": ms, "min_ms": min(ms), "median_ms": statistics.median(ms)}
        peak = peak or field("VmHWM")
    return {
        "bench": options.bench,
        "times": times,
        "threads": torch.get_num_threads(),
        "cpu_path": torch.backends.cpu.get_cpu_capability(),
        "device": options.device,
        "rss_before_bytes": before,
        "peak_rss_bytes": peak,
    }


def milliseconds(work):
    start = time.perf_counter()
    work()
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def field(name):
    """A field of /proc/self/status in bytes; nothing where there is no such file."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
    except OSError:
        return None
    return int(lines[name].split()[0]) * 1024


if __name__ == "__main__":
    main()
