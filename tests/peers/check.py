"""Whether the V-Net of these scripts is the V-Net of `semisam-node`: same weights, same input, same numbers.

    python check.py --program target/release/semisam-node

`semisam-node` trains a student for two steps on synthetic scans. PyTorch loads that file, computes logits, losses and
gradients on a random batch, and writes them down; `semisam-node student verify` computes them again and compares.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import vnet
from safetensors.torch import load_file, save_file
from torch.nn import functional

SIDES = [32, 16, 48]
BASE_FILTERS = 4
# The tolerances that node/src/train/reference.rs is tested with.
LOGITS, GRADIENTS = 1e-4, 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    program = parser.parse_args().program
    with tempfile.TemporaryDirectory() as folder:
        weights, reference = student(program, Path(folder)), Path(folder) / "reference.safetensors"
        save_file(computed(load_file(weights)), reference)
        command = [program, "--format", "json", "student", "verify", "--device", "cpu"]
        command += ["--groups", str(BASE_FILTERS), "--weights", weights, "--reference", reference]
        outputs = json.loads(run(command))["outputs"]
    gradients = [output for output in outputs if output["name"].startswith("grad.")]
    others = [output for output in outputs if not output["name"].startswith("grad.")]
    # a number that is no number is not small either
    far = [output["name"] for output in others if not output["max_abs_error"] <= LOGITS]
    far += [output["name"] for output in gradients if not output["max_rel_error"] <= GRADIENTS]
    found = {
        "logits_max_abs_error": max(output["max_abs_error"] for output in others if output["name"] == "logits"),
        "losses_max_abs_error": max(output["max_abs_error"] for output in others if output["name"] != "logits"),
        "gradients": len(gradients),
        "gradients_max_rel_error": max(output["max_rel_error"] for output in gradients),
        "far": far,
    }
    print(json.dumps(found))
    sys.exit(1 if far else 0)


def student(program, folder):
    """Weights that `semisam-node` wrote."""
    scans, trained = folder / "scans", folder / "trained"
    shape = ["--shape", "24", "24", "24"]
    run([program, "data", "synth", "--out", scans, "--patients", "2", "--labelled", "1", *shape])
    sizes = ["--base-filters", str(BASE_FILTERS), "--patch", "16,16,16", "--steps", "2"]
    run([program, "train", "--data", scans, "--out", trained, "--device", "cpu", *sizes])
    return trained / "model.safetensors"


def run(command):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE).stdout


def computed(weights):
    """What `student verify` reads: inputs, and what PyTorch makes of them."""
    network = vnet.VNet(BASE_FILTERS)
    network.load_state_dict(weights)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn([2, 1, *SIDES], generator=draw)
    label, mask = (torch.randint(0, 2, [2, *SIDES], generator=draw) for _ in range(2))
    teacher = torch.randn([2, 2, *SIDES], generator=draw).softmax(1)
    factors = torch.tensor([0.3, 0.8])

    logits = network(images)
    entropy, dice = vnet.cross_entropy_and_dice(logits[:1], label[:1])
    agreement = vnet.agreement(logits, teacher)
    drawn = functional.one_hot(mask[1:], 2).movedim(-1, 1)
    generalist = (logits[1:].softmax(1) - drawn).square().mean()
    # the recipe halves the generalist's factor
    total = entropy + dice + factors[0] * agreement + 0.5 * factors[1] * generalist
    total.backward()

    found = {"input": images, "label": label.float(), "sam_mask": mask.float(), "teacher_prob": teacher}
    found |= {"weights": factors, "logits": logits}
    losses = {"ce": entropy, "dice": dice, "teacher": agreement, "sam": generalist, "total": total}
    found |= {f"loss.{name}": value.reshape(1) for name, value in losses.items()}
    found |= {f"grad.{name}": parameter.grad for name, parameter in network.named_parameters()}
    return {name: tensor.detach().contiguous() for name, tensor in found.items()}


if __name__ == "__main__":
    main()
