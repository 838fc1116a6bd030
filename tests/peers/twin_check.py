"""Whether recipe.py does what `semisam-node train` does, part by part, from equal seeds; prints JSON lines.

    python twin_check.py --program target/release/semisam-node --data DIR --test DIR

Prepared scans are taken out of the program's cache, weights out of its model and state files. What is equal by
construction must be equal; what two libraries compute may differ by rounding.
"""

import argparse
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
import vnet
from safetensors.torch import load_file

import recipe

BASE_FILTERS, SEED = 4, 3
WHOLE, CROPS, WINDOWS = (64, 48, 32), (32, 32, 16), (48, 32, 32)
# Method, crop, steps, first step size, and the most that may be between both sides after these steps. Steps multiply
# what rounding leaves: a ReLU that switches elsewhere is a difference that grows, and the faster, the larger the steps.
# The last course is long enough for all levels of the ramps, several orders of scans, and an average that forgets.
COURSES = [
    ("supervised", WHOLE, 1, 0.05, 2e-4),
    ("mean-teacher", WHOLE, 5, 0.05, 2e-3),
    ("supervised", CROPS, 5, 0.05, 2e-3),
    ("mean-teacher", CROPS, 1, 0.05, 2e-4),
    ("mean-teacher", CROPS, 20, 0.05, 2e-2),
    ("mean-teacher", CROPS, 120, 0.001, 2e-3),
]
# Steps that lead to where these begin. First weights are no place to begin: scans have zero mean and are padded with
# zeros, norms add nothing yet, and so the padding lies in the first layer on the kink of the ReLU, where rounding
# decides whether half the volume has a gradient.
BEFORE = 150
# A student must have learnt something before its masks are compared.
LEARNT = 0.3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--test", required=True, type=Path)
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--spacing", type=float, default=2.5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        far = False
        for what, found, most in Check(options, Path(folder)).rows():
            print(json.dumps({"what": what, "found": found, "most": most}), flush=True)
            far |= not found <= most
    sys.exit(1 if far else 0)


class Check:
    """Both sides on the same scans. Every part gives rows: what is compared, how far it is apart, how far it may be."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.scans = recipe.cohort(options.data, options.spacing, options.labels)
        self.start = None

    def rows(self):
        yield from self.preparation()
        self.start = self.trained("supervised", WHOLE, BEFORE) / "model.safetensors"
        for course in COURSES:
            yield from self.steps(*course)
        for patch in (WHOLE, WINDOWS):
            yield from self.masks(patch)

    def preparation(self):
        """What the program keeps of scans, and the weights that it starts from."""
        out = self.trained("supervised", WHOLE, 0)
        images, labels = 0.0, 0
        paths = sorted((self.options.data / "images").glob("*.nii*"))
        for path, (image, drawn) in zip(paths, self.scans, strict=True):
            label = None if drawn is None else self.options.data / "labels" / path.name
            kept, kept_labels = self.kept(path, label)
            images = max(images, float(abs(kept - image).max()))
            labels += 0 if drawn is None else int((kept_labels != drawn).sum())
        yield f"{len(paths)} prepared scans, largest difference", images, 1e-5
        yield f"labels of {self.options.labels} of them, voxels that differ", labels, 0
        first = vnet.VNet(BASE_FILTERS)
        recipe.first_weights(first, SEED)
        first = first.state_dict()
        model = load_file(out / "model.safetensors")
        apart = max(float((first[name] - model[name]).abs().max()) for name in first)
        yield "first weights, largest difference", apart, 0

    def kept(self, image, label):
        """A prepared scan as it lies in the program's cache (node/src/data/cache/)."""
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in (image, label) if path]
        named = b"semisam/prepared scan\0" + struct.pack("<I3d", 1, *3 * [self.options.spacing]) + b"".join(digests)
        data = (self.folder / "cache" / f"{hashlib.sha256(named).hexdigest()}.scan").read_bytes()
        labelled, *shape = struct.unpack_from("<4Q", data, 48)
        count = math.prod(shape)
        drawn = numpy.frombuffer(data, "u1", count, 336 + 4 * count).reshape(shape) if labelled else None
        return numpy.frombuffer(data, "<f4", count, 336).reshape(shape), drawn

    def steps(self, method, patch, steps, rate, most):
        """Weights, average and velocity after some steps, as a share of how far they have come, and the last losses."""
        out = self.trained(method, patch, steps, rate)
        reached = load_file(out / "state.safetensors")
        told = json.loads((out / "told.jsonl").read_text(encoding="utf-8").splitlines()[0])
        network = self.network()
        start = flat(network)
        run = recipe.Run(self.scans, method, patch, steps, SEED, network, rate)
        for _ in range(steps):
            losses = run.step()
        velocity = {name: run.optimiser.state[part]["momentum_buffer"] for name, part in network.named_parameters()}
        name = f"{method}, {'×'.join(map(str, patch))}, {steps} steps from {rate}"
        for part, ours, before in (
            ("student", flat(network), start),
            ("teacher", flat(run.teacher), start),
            ("velocity", flat(velocity), 0),
        ):
            way = (reached[part] - before).abs().max()
            yield f"{name}: {part}", float((reached[part] - ours).abs().max() / way), most
        apart = max(abs(losses[name] - told[name]) / max(abs(told[name]), 1e-9) for name in losses)
        yield f"{name}: losses", apart, most

    def masks(self, patch):
        """Dice of one student on each test scan."""
        sizes = ["--patch", comma(patch), "--spacing", self.options.spacing, "--device", "cpu"]
        told = self.run("evaluate", "--model", self.start, "--data", self.options.test, *sizes).splitlines()
        theirs = {line["case"]: line["dice"] for line in map(json.loads, told)}
        ours = recipe.scores(self.network(), self.options.test, self.options.spacing, patch)
        mean = sum(ours.values()) / len(ours)
        apart = max(abs(dice - theirs[case]) for case, dice in ours.items())
        name = f"Dice of one student on {len(ours)} scans, windows {'×'.join(map(str, patch))}"
        yield f"{name}: short of {LEARNT}", max(0.0, LEARNT - mean), 0
        yield f"{name}: largest difference", apart, 1e-4

    def trained(self, method, patch, steps, rate=recipe.RATE):
        """Where the program left what it trained; the last line but one of what it told is of the last step."""
        out = self.folder / f"{method}-{comma(patch)}-{steps}-{rate}"
        sizes = ["--base-filters", BASE_FILTERS, "--patch", comma(patch), "--spacing", self.options.spacing]
        which = ["--method", method, "--labels", self.options.labels, "--steps", steps, "--learning-rate", rate]
        where = ["--data", self.options.data, "--test", self.one_scan(), "--out", out, "--device", "cpu"]
        where += ["--cache", self.folder / "cache", "--seed", SEED, "--consistency-weight", recipe.CONSISTENCY]
        if self.start:
            where += ["--init", self.start]
        told = self.run("train", *which, *sizes, *where)
        (out / "told.jsonl").write_text("\n".join(told.splitlines()[-2:]) + "\n", encoding="utf-8")
        return out

    def one_scan(self):
        """A folder with the first test scan: a training scores its student, which is not what is compared here."""
        folder = self.folder / "one"
        if not folder.exists():
            name = sorted((self.options.test / "labels").glob("*.nii*"))[0].name
            for kind in ("images", "labels"):
                (folder / kind).mkdir(parents=True)
                (folder / kind / name).symlink_to((self.options.test / kind / name).resolve())
        return folder

    def run(self, *words):
        command = [str(word) for word in (self.options.program, "--format", "json", *words)]
        variables = {**os.environ, "RUST_LOG": "error"}
        return subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE, text=True).stdout

    def network(self):
        network = vnet.VNet(BASE_FILTERS)
        network.load_state_dict(load_file(self.start))
        return network


def comma(patch):
    return ",".join(map(str, patch))


def flat(tensors):
    """All values in the order of the names, as the program keeps them."""
    named = dict(tensors.named_parameters()) if isinstance(tensors, torch.nn.Module) else tensors
    return torch.cat([named[name].detach().flatten() for name in sorted(named)])


if __name__ == "__main__":
    main()
