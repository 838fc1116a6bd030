"""Trains the V-Net with recipe.py and prints what `semisam-node train` prints: JSON lines of steps, and one of scores.

    python twin_train.py --data DIR --test DIR --method mean-teacher --labels 4 --steps 400 --seed 1
"""

import argparse
import json
import time
from pathlib import Path

import torch
import vnet

import recipe

REPORT_EVERY = 10
FORMATS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    network = vnet.VNet(options.base_filters)
    recipe.first_weights(network, options.seed)
    scans = recipe.cohort(options.data, options.spacing, options.labels)
    sizes = (options.method, options.patch, options.steps, options.seed, network)
    run = recipe.Run(scans, *sizes, rate=options.learning_rate, form=FORMATS[options.variant])
    start = time.perf_counter()
    for step in range(1, options.steps + 1):
        losses = run.step()
        if step % REPORT_EVERY == 0 or step == options.steps:
            print(json.dumps({"step": step, **losses, "seconds": time.perf_counter() - start}), flush=True)
    found = recipe.scores(network, options.test, options.spacing, options.patch)
    print(json.dumps({"dice": sum(found.values()) / len(found), "cases": found, "scored_on": "test"}), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--test", required=True, type=Path)
    parser.add_argument("--method", choices=["supervised", "mean-teacher"], default="mean-teacher")
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=recipe.RATE)
    parser.add_argument("--spacing", type=float, default=2.5)
    parser.add_argument("--patch", type=lambda text: tuple(map(int, text.split(","))), default=(64, 48, 32))
    parser.add_argument("--base-filters", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", choices=FORMATS, default="contiguous")
    return parser.parse_args()


if __name__ == "__main__":
    main()
