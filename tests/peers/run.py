#!/usr/bin/env python3
"""Our program beside PyTorch on this machine: times, memory and their ratios as Markdown.

    python3 tests/peers/run.py             # everything; takes a while
    python3 tests/peers/run.py --smallest  # a minute: shows that everything works
    python3 tests/peers/run.py --only step --isa avx2
    python3 tests/peers/run.py --only conv,step,sam --device cuda

Installs PyTorch from PyPI into a virtual environment in the cache folder, builds `semisam-node` and runs both in turns,
each measurement in a process of its own. README.md beside this file tells what is measured and how.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semisam-federation" / "peers"
KINDS = ["check", "conv", "step", "train", "sam"]
# What PyTorch is tried with; the faster one counts.
FORMATS = ["contiguous", "channels_last_3d"]
VARIANTS = {"conv": FORMATS, "step": FORMATS, "train": FORMATS, "sam": ["all_queries", "real_queries"]}
# Which instructions each side may use. Without --isa, both use the best that they know.
ISA = {
    None: ({}, {}),
    "avx512": ({"SEMISAM_KERNELS": "avx512"}, {"ATEN_CPU_CAPABILITY": "avx512"}),
    "avx2": (
        {"SEMISAM_KERNELS": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ),
}
MIB = 1 << 20


def main():
    options = arguments()
    python = options.python or environment()
    program = options.program or built(options.device)
    variables = environments(options)
    about = described(options, python, program, variables)
    print(heading(about), flush=True)
    failed = False
    if "check" in options.only:
        about["check"] = checked(python, program, variables)
        failed = bool(about["check"]["far"])
        print(check_words(about["check"]), flush=True)
    rows = []
    for row in planned(options, program):
        tell(row["name"])
        rows.append(compared(row, measured(row, options, python, program, variables)))
        keep(options.json, about, rows)
    if rows:
        # of a run on a GPU, the process's memory says little
        print(times_table(rows), *([memory_table(rows)] if options.device == "cpu" else []), sep="\n")
    keep(options.json, about, rows)
    return 1 if failed else 0


def keep(path, about, rows):
    """Writes what has been measured so far: a long run that is stopped is not lost."""
    if path:
        Path(path).write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=kinds, default=KINDS, help=f"some of {','.join(KINDS)}")
    parser.add_argument("--match", metavar="TEXT", default="", help="only rows whose name has this text in it")
    parser.add_argument("--isa", choices=[isa for isa in ISA if isa], help="instructions that both sides are held to")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of both sides [cpu]; not for check, train")
    parser.add_argument("--warm-up", type=int, default=1, help="repetitions of each process that are not counted [1]")
    parser.add_argument("--rounds", type=int, help="times that all processes of a row run [3; with --smallest 1]")
    parser.add_argument("--threads", type=int, default=cores(), help="of both sides [one per core]")
    parser.add_argument("--smallest", action="store_true", help="tiny sizes: a quick check, figures mean nothing")
    parser.add_argument("--json", metavar="FILE", help="also write everything that was measured")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="for the heading [today]")
    parser.add_argument("--data", metavar="DIR", help="scans (images/, labels/) to train on [synthetic ones]")
    parser.add_argument("--spacing", type=float, default=2.5, help="voxel size to train at, in mm [2.5]")
    parser.add_argument("--python", help="an interpreter that has PyTorch [a virtual environment is made]")
    parser.add_argument("--program", help="a built `semisam-node` [it is built]")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.smallest else 3)
    if options.device == "cuda" and not {"check", "train"}.isdisjoint(options.only):
        parser.error("`check` and `train` compare on the CPU alone: choose others with --only conv,step,sam")
    return options


def kinds(text):
    found = text.split(",")
    if not set(found) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"some of {','.join(KINDS)}, not `{text}`")
    return found


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def tell(words):
    print(words, file=sys.stderr, flush=True)


# What runs


def environment():
    """An interpreter with what requirements.txt pins."""
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    folder = CACHE / "environment"
    stamp = folder / "installed.txt"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        tell(f"installing PyTorch into `{folder}`")
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--requirement", HERE / "requirements.txt"]
        subprocess.run(install, check=True, stdout=sys.stderr)
        stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def built(device):
    """The release build of `semisam-node`."""
    command = ["cargo", "build", "--release", "--locked", "--package", "semisam-node", "--message-format", "json"]
    command += ["--features", "cuda"] if device == "cuda" else []
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [message["executable"] for message in messages if message.get("executable")][-1]


def environments(options):
    """Environment variables of our program and of PyTorch."""
    threads = str(options.threads)
    ours, theirs = ISA[options.isa]
    pools = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if options.device == "cpu":
        pools["CUDA_VISIBLE_DEVICES"] = ""
    return (
        {**os.environ, "RAYON_NUM_THREADS": threads, "RUST_LOG": "warn", **ours},
        {**os.environ, **pools, **theirs},
    )


def output_of(command, variables):
    """The JSON that a command prints."""
    done = subprocess.run(
        [str(word) for word in command], env=variables, check=False, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        sys.exit(f"`{' '.join(str(word) for word in command)}` failed with exit code {done.returncode}")
    return json.loads(done.stdout)


def checked(python, program, variables):
    """How far the two networks are apart."""
    command = [python, str(HERE / "check.py"), "--program", program]
    both = {**variables[0], **variables[1]}
    done = subprocess.run(command, env=both, check=False, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        sys.exit("the networks could not be compared")
    return json.loads(done.stdout)


def planned(options, program):
    """What is measured: a name, the kind, and the arguments that both sides understand."""
    rows = []

    def add(kind, name, *arguments):
        if kind in options.only and options.match in name:
            rows.append({"kind": kind, "name": name, "arguments": [str(argument) for argument in arguments]})

    def convolution(channels, side, repeats):
        sizes = (
            "--inputs",
            channels,
            "--outputs",
            channels,
            "--side",
            side,
            "--kernel",
            3,
            "--stride",
            1,
            "--batch",
            1,
        )
        add("conv", f"conv3d {channels} to {channels} channels, k3, {side}³", *sizes, "--repeats", repeats)

    def network(filters, patch, steps):
        sizes = ("--base-filters", filters, "--patch", ",".join(map(str, patch)), "--batch", 2)
        add("step", f"V-Net {filters}, {times(patch)}, batch 2", *sizes, "--steps", steps)

    def training(scans, filters, patch, steps):
        sizes = ("--base-filters", filters, "--patch", ",".join(map(str, patch)), "--method", "mean-teacher")
        name = f"train, V-Net {filters}, {times(patch)}"
        add("train", name, "--data", scans, "--spacing", options.spacing, *sizes, "--steps", steps)

    if options.smallest:
        convolution(4, 16, 3)
        network(2, (32, 32, 32), 2)
    else:
        convolution(16, 64, 20)
        for filters in (4, 16):
            for patch, steps in (((64, 64, 64), 5), ((96, 96, 64), 4), ((112, 112, 80), 3)):
                network(filters, patch, steps)
    if "train" in options.only:
        shape = (40, 40, 40) if options.smallest else (112, 112, 80)
        scans = options.data or synthetic(program, shape)
        if options.smallest:
            training(scans, 2, (32, 32, 32), 3)
        else:
            training(scans, 4, (64, 48, 32), 20)
            training(scans, 16, (96, 96, 64), 5)
    if (HERE / "sam_med3d.py").exists():
        add("sam", "SAM-Med3D vit_b_ori, 128³", "--steps", 1 if options.smallest else 3)
    return rows


def times(extents):
    return "×".join(map(str, extents))


def synthetic(program, shape):
    """A folder of scans that are the same everywhere."""
    folder = CACHE / f"scans-{'-'.join(map(str, shape))}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        command = [program, "data", "synth", "--out", unfinished, "--patients", 8, "--labelled", 3, "--seed", 1]
        command += ["--shape", *shape]
        subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)
        unfinished.rename(folder)
    return str(folder)


def measured(row, options, python, program, variables):
    """All runs of a row by side, in turns."""
    ours, theirs = variables
    threads = ["--threads", options.threads, "--warm-up", options.warm_up]
    threads += ["--device", options.device] if row["kind"] != "train" else []
    runs = {side: [] for side in ["ours", *VARIANTS[row["kind"]]]}
    for turn in range(options.rounds):
        tell(f"  round {turn + 1} of {options.rounds}")
        command = [program, "--format", "json", "bench", row["kind"], *row["arguments"], *threads]
        runs["ours"].append(output_of(command, ours))
        for variant in VARIANTS[row["kind"]]:
            command = [python, HERE / "peer.py", row["kind"], *row["arguments"], *threads, "--variant", variant]
            runs[variant].append(output_of(command, theirs))
    return runs


# What comes out


def compared(row, runs):
    """Times and memory of both sides, PyTorch in the variant that is the faster one."""
    parts = {}
    for part in runs["ours"][0]["times"]:
        sides = {side: pooled([run["times"][part]["ms"] for run in of_side]) for side, of_side in runs.items()}
        best = min(VARIANTS[row["kind"]], key=lambda variant: sides[variant]["min_ms"])
        ratios = {
            "ratio_min": sides["ours"]["min_ms"] / sides[best]["min_ms"],
            "ratio_median": sides["ours"]["median_ms"] / sides[best]["median_ms"],
        }
        parts[part] = {"ours": sides["ours"], "pytorch": sides[best], "variant": best, **ratios}
    # memory is that of the part which is measured first: the whole step, where there is one
    leading = next((part for part in ("step", "iteration", "encode") if part in parts), next(iter(parts)))
    memory = {"ours": occupied(runs["ours"]), "pytorch": occupied(runs[parts[leading]["variant"]])}
    return {**row, "parts": parts, "memory": memory, "runs": runs}


def pooled(rounds):
    """Of all repetitions of all rounds."""
    ms = [time for times in rounds for time in times]
    return {"min_ms": min(ms), "median_ms": statistics.median(ms), "count": len(ms)}


def occupied(runs):
    """Peak of the process, and what was added after the first repetition began; the smallest of the rounds."""
    peaks = [(run["peak_rss_bytes"], run["peak_rss_bytes"] - run["rss_before_bytes"]) for run in runs if told(run)]
    if not peaks:
        return None
    return {"peak_bytes": min(peak for peak, _ in peaks), "net_bytes": min(net for _, net in peaks)}


def told(run):
    return run["peak_rss_bytes"] is not None and run["rss_before_bytes"] is not None


def described(options, python, program, variables):
    """Machine, versions, settings."""
    theirs = output_of([python, HERE / "peer.py", "about", "--device", options.device], variables[1])
    tiny = ["bench", "conv", "--inputs", "1", "--outputs", "1", "--side", "4", "--repeats", "1"]
    ours = output_of([program, "--format", "json", *tiny], variables[0])
    version = subprocess.run([program, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    named = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(named, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    model, instructions = processor()
    return {
        "date": options.date,
        "cpu": model,
        "instructions": instructions,
        "cores": cores(),
        "threads": options.threads,
        "device": options.device,
        "isa": options.isa,
        "rounds": options.rounds,
        "system": f"{platform.system()} {platform.machine()}",
        "ours": {"version": version.strip(), "commit": commit.stdout.strip(), "path": ours["cpu_path"]},
        "pytorch": theirs,
    }


def processor():
    """Name of the CPU, and which of the vector instructions that matter here it has."""
    wanted = ["avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "amx_tile", "asimd"]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor(), []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    # the name alone says little where a virtual machine hides it
    family = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    name = " ".join(part for part in (fields.get("model name", platform.processor()), family) if part)
    return name, [flag for flag in wanted if flag in flags]


def heading(about):
    ours, theirs = about["ours"], about["pytorch"]
    isa = f"both held to {about['isa']}" if about["isa"] else "each side at its best"
    return "\n".join(
        [
            f"* {about['date']}, {about['system']}, {about['cpu']}, {about['cores']} cores, {about['threads']} threads",
            f"* instructions: {' '.join(about['instructions']) or 'unknown'}; {isa}",
            f"* ours: {ours['version']} {ours['commit']} ({ours['path']})",
            f"* PyTorch {theirs['torch']}, {theirs['capability']}, {theirs['library']}",
            f"* {about['rounds']} rounds in turns, each side in its own process",
            "",
        ]
    )


def check_words(check):
    verdict = f"DIFFERENT in {', '.join(check['far'])}" if check["far"] else "the same"
    return (
        f"Same weights, same input: {verdict} (logits within {check['logits_max_abs_error']:.1e}, losses within "
        f"{check['losses_max_abs_error']:.1e}, {check['gradients']} gradients within "
        f"{check['gradients_max_rel_error']:.1e} of their largest value).\n"
    )


def times_table(rows):
    lines = [
        "| what | part | ours, min / median ms | PyTorch, min / median ms | its variant | ratio of min | of medians |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for part, of_part in row["parts"].items():
            ours, theirs = (f"{side['min_ms']:.1f} / {side['median_ms']:.1f}" for side in pair(of_part))
            ratios = f"**{of_part['ratio_min']:.2f}** | {of_part['ratio_median']:.2f}"
            lines.append(f"| {row['name']} | {part} | {ours} | {theirs} | {of_part['variant']} | {ratios} |")
    return "\n".join(lines) + "\n"


def memory_table(rows):
    lines = [
        "| what | ours, peak / net MiB | PyTorch, peak / net MiB | ratio of peaks | of net |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if not all(pair(row["memory"])):
            continue
        ours, theirs = pair(row["memory"])
        cells = [f"{side['peak_bytes'] / MIB:.0f} / {side['net_bytes'] / MIB:.0f}" for side in (ours, theirs)]
        ratios = [f"{ours[name] / max(theirs[name], 1):.2f}" for name in ("peak_bytes", "net_bytes")]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | **{ratios[0]}** | {ratios[1]} |")
    return "\n".join(lines) + "\n"


def pair(sides):
    return sides["ours"], sides["pytorch"]


if __name__ == "__main__":
    sys.exit(main())
