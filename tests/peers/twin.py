#!/usr/bin/env python3
"""`semisam-node train` beside the same recipe in PyTorch: first part by part, then Dice and time of whole trainings.

    python3 tests/peers/twin.py --data DIR --test DIR
    python3 tests/peers/twin.py --data DIR --test DIR --only check
    python3 tests/peers/twin.py --tables FILE ..    # of runs that were kept with --json

Both sides train the same V-Net on the same scans with the same draws, in turns, one thread each, for several seeds.
Uses the environment of run.py; README.md beside this file tells what is compared and how.
"""

import argparse
import datetime
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import run

METHODS = ["supervised", "mean-teacher"]
# As in recipe.py, which needs PyTorch: the published factor, not the program's default.
CONSISTENCY = 0.1
SIDES = ["ours", "pytorch"]
# Reports before this one are warm-up: their time is not counted.
WARM_UP = 10


def main():
    options = arguments()
    if options.tables:
        kept = [json.loads(Path(file).read_text(encoding="utf-8")) for file in options.tables]
        print(tables([pair for found in kept for pair in found["runs"]]))
        return 0
    python = options.python or run.environment()
    program = options.program or run.built()
    failed = False
    if "check" in options.only:
        rows = checked(options, python, program)
        failed = any(not row["found"] <= row["most"] for row in rows)
        print(check_table(rows), flush=True)
    if "dice" in options.only:
        runs = []
        for pair in pairs(options, python, program):
            runs.append(pair)
            if options.json:
                Path(options.json).write_text(json.dumps({"date": options.date, "runs": runs}, indent=1) + "\n")
        print(tables(runs), flush=True)
    return 1 if failed else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="scans to train on (images/, labels/), axes as in RAS+")
    parser.add_argument("--test", help="labelled scans to score on")
    parser.add_argument("--only", type=words, default=["check", "dice"], help="check,dice")
    parser.add_argument("--methods", type=words, default=METHODS, help=",".join(METHODS))
    parser.add_argument("--seeds", type=words, default=["1", "2", "3"], help="1,2,3")
    parser.add_argument("--labels", type=int, default=4, help="labelled scans [4]; the others count as unlabelled")
    parser.add_argument("--steps", type=int, default=400, help="of each training [400]")
    parser.add_argument("--spacing", type=float, default=2.5, help="voxel size to train at, in mm [2.5]")
    parser.add_argument("--patch", default="64,48,32", help="sides of a crop [64,48,32]")
    parser.add_argument("--variant", choices=run.FORMATS, default="channels_last_3d", help="PyTorch's memory format")
    parser.add_argument("--json", metavar="FILE", help="also keep every pair, as soon as it is done")
    parser.add_argument("--tables", nargs="+", metavar="FILE", help="print the tables of kept pairs, and train nothing")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="for the file [today]")
    parser.add_argument("--python", help="an interpreter that has PyTorch [a virtual environment is made]")
    parser.add_argument("--program", help="a built `semisam-node` [it is built]")
    options = parser.parse_args()
    if not options.tables and not (options.data and options.test):
        parser.error("give --data and --test, or --tables")
    return options


def words(text):
    return text.split(",")


def checked(options, python, program):
    """How far the parts are apart."""
    command = [python, run.HERE / "twin_check.py", "--program", program, "--data", options.data, "--test", options.test]
    command += ["--labels", options.labels, "--spacing", options.spacing]
    done = subprocess.run([str(word) for word in command], check=False, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        sys.exit("the parts could not be compared")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    # it stops early where a program fails, and then its rows are not all
    return rows if done.returncode == 0 else [*rows, {"what": "everything", "found": math.nan, "most": 0}]


def pairs(options, python, program):
    """Trainings of both sides, in turns; who begins changes with every pair."""
    single = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    variables = {**os.environ, **single, "RUST_LOG": "error"}
    first = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for method in options.methods:
                which = ["--method", method, "--seed", seed, "--labels", options.labels, "--steps", options.steps]
                which += ["--data", options.data, "--test", options.test, "--spacing", options.spacing]
                which += ["--patch", options.patch]
                where = ["--out", f"{folder}/{method}-{seed}", "--cache", f"{folder}/cache", "--device", "cpu"]
                where += ["--consistency-weight", CONSISTENCY]
                commands = {
                    "ours": [program, "--format", "json", "train", *which, *where],
                    "pytorch": [python, run.HERE / "twin_train.py", *which, "--variant", options.variant],
                }
                pair = {"seed": int(seed), "method": method, "steps": options.steps}
                for side in SIDES[:: 1 if first % 2 == 0 else -1]:
                    pair[side] = watched(commands[side], variables)
                    run.tell(f"{method}, seed {seed}, {side}: {pair[side]}")
                first += 1
                yield pair


def watched(command, variables):
    """Dice of a training, and its seconds per step: on the clock, and of the processor."""
    command = [str(word) for word in command]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    marks, last = [], {}
    for line in process.stdout:
        last = json.loads(line)
        if "step" in last:
            marks.append((last["step"], last["seconds"], processor_seconds(process.pid), last["loss"]))
    if process.wait() != 0:
        sys.exit(f"`{' '.join(command)}` failed with exit code {process.returncode}")
    start = next(mark for mark in marks if mark[0] >= WARM_UP)
    end = marks[-1]
    steps = end[0] - start[0]
    wall, used = ((end[part] - start[part]) / steps for part in (1, 2))
    return {"dice": last["dice"], "loss": end[3], "wall_s": wall, "processor_s": used}


def processor_seconds(process):
    """What a process and its threads have computed so far; Linux alone tells, in hundredths."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# What comes out


def tables(runs):
    return f"{dice_table(runs)}\n{time_table(runs)}"


def check_table(rows):
    lines = ["| what is compared | apart | may be |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['found']:.1e} | {row['most']:.0e} |" for row in rows]
    return "\n".join(lines) + "\n"


def dice_table(runs):
    lines = [
        "| method | seeds | Dice, ours | Dice, PyTorch | difference of pairs | of the means, in their standard error |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(pair["method"] for pair in runs):
        of_method = [pair for pair in runs if pair["method"] == method]
        ours, theirs = ([pair[side]["dice"] for pair in of_method] for side in SIDES)
        apart = [one - other for one, other in zip(ours, theirs)]
        error = math.sqrt((variance(ours) + variance(theirs)) / len(ours))
        share = f"{statistics.mean(apart) / error:+.2f}" if error else "-"
        lines.append(f"| {method} | {len(ours)} | {spread(ours)} | {spread(theirs)} | {spread(apart, '+')} | {share} |")
    return "\n".join(lines) + "\n"


def variance(values):
    return statistics.variance(values) if len(values) > 1 else 0.0


def spread(values, sign=""):
    return f"{statistics.mean(values):{sign}.4f} ± {math.sqrt(variance(values)):.4f}"


def time_table(runs):
    lines = [
        "| method | time of a step | ours, median ms | PyTorch, median ms | ratio, median of pairs | all pairs |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(pair["method"] for pair in runs):
        of_method = [pair for pair in runs if pair["method"] == method]
        for name, field in (("processor", "processor_s"), ("clock", "wall_s")):
            ours, theirs = (1e3 * statistics.median(pair[side][field] for pair in of_method) for side in SIDES)
            ratios = sorted(pair["ours"][field] / pair["pytorch"][field] for pair in of_method)
            several = " ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(
                f"| {method} | {name} | {ours:.1f} | {theirs:.1f} | **{statistics.median(ratios):.2f}** | {several} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
