#!/usr/bin/env python3
"""Runs models through everything that sparkc makes of them and compares with `transformers`.

    python scripts/random_models.py DIR --count 100 --seed 1
    python scripts/differential.py DIR/* [--sparkc target/release/sparkc] [--target small]

For each model: `sparkc eval`, the executable and the simulated wafer compute the logits of a prompt
and 24 greedy tokens; the reference is `transformers` in float32 with eager attention, the prompt fed
whole and then token by token. Bounds are those of docs/numerics.md. A greedy token may differ only
where the reference's two best logits lie closer than the bound; the comparison of that model ends
there, and the row says so.

With --strict also, for each model, what must hold bit for bit: logits on 1, 2 and 4 threads, the
beginning of a prompt fed alone, and the artefacts of a second compilation from another directory
with another number of threads. And the executable agrees on every instruction set of this machine.

Prints a row per model and a summary; exits with 1 when anything disagrees or refuses. A target that
is too small for a model (exit code 3) is no disagreement, but it is counted.

A model's prompt is that of its case.json (see random_models.py), else a fixed one.
Needs: torch, transformers, safetensors.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from compare_transformers import default_tolerance, load_reference, relative_difference
from safetensors.torch import load_file
from transformers.utils import logging

EXIT_DOES_NOT_FIT = 3
THREADS = (1, 2, 4)
INSTRUCTION_SETS = ("portable", "aarch64", "x86-64-v3", "x86-64-v4")
COMMAND_SECONDS_MAX = 300


@dataclass
class Reference:
    """What transformers says: logits [positions, vocab] of the prompt, tokens, top-2 margins."""

    logits: torch.Tensor
    tokens: list
    margins: list


@dataclass
class Row:
    """Outcome for one model."""

    name: str
    features: str
    # Per way of running: the largest relative difference.
    differences: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)


class Refusal(Exception):
    """A command that did not exit with 0."""

    def __init__(self, command, process):
        super().__init__(f"{command[1]}: exit {process.returncode}: {process.stderr.strip()}")
        self.code = process.returncode


def call(command, **options):
    """Runs a command and returns its stdout."""
    command = [str(part) for part in command]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, **options
    )
    if process.returncode != 0:
        raise Refusal(command, process)
    return process.stdout


# --- reference ----------------------------------------------------------------------------------


@torch.no_grad()
def reference(directory, prompt, count):
    """Stops at a stop token, which is part of the answer, as `generate` does."""
    model = load_reference(directory)
    stop = model.generation_config.eos_token_id
    stop = stop if isinstance(stop, list) else [stop]
    # transformers keeps the last window - 1 keys of a full sliding cache; for a window of 1 the
    # slice [-0:] keeps all of them, and its cached answers differ from its own uncached ones.
    cached = getattr(model.config, "sliding_window", None) != 1
    output = model(torch.tensor([prompt]), use_cache=cached)
    result = Reference(output.logits[0], [], [])
    while True:
        best, runner_up = output.logits[0, -1].topk(2).values.tolist()
        result.tokens.append(output.logits[0, -1].argmax().item())
        result.margins.append(best - runner_up)
        if len(result.tokens) == count or result.tokens[-1] in stop:
            return result
        if cached:
            step = torch.tensor([result.tokens[-1:]])
            output = model(step, past_key_values=output.past_key_values, use_cache=True)
        else:
            output = model(torch.tensor([prompt + result.tokens]), use_cache=False)


# --- the ways of running ------------------------------------------------------------------------


def run(command, prompt, count, logits):
    """Logits and greedy tokens of anything that takes the common flags."""
    flags = ["--tokens", ",".join(map(str, prompt)), "-n", count, "--greedy", "--json"]
    output = json.loads(call([*command, *flags, "--logits", logits]))
    return load_file(logits)["logits"], output["tokens"]


def compare(row, way, got, want, tolerance):
    """Judges one way of running; `got` and `want` are logits and tokens."""
    logits, tokens = got
    if logits.shape != want.logits.shape:
        shapes = f"{list(logits.shape)} instead of {list(want.logits.shape)}"
        row.problems.append(f"{way}: logits {shapes}")
        return
    difference = relative_difference(logits, want.logits)
    row.differences[way] = difference
    if not difference <= tolerance:
        row.problems.append(f"{way}: logits off by {difference:.2e} of the largest")
    for position, (token, expected) in enumerate(zip(tokens, want.tokens)):
        if token == expected:
            continue
        margin = want.margins[position] / want.logits.abs().max().item()
        verdict = f"{way}: token {position} is {token}, not {expected}; margin {margin:.1e}"
        (row.notes if margin <= tolerance else row.problems).append(verdict)
        return
    if len(tokens) != len(want.tokens):
        row.problems.append(f"{way}: {len(tokens)} tokens instead of {len(want.tokens)}")


def check_instruction_sets(row, args, compiled, prompt, want, tolerance, scratch):
    for name in INSTRUCTION_SETS:
        try:
            command = [compiled / "model", "--cpu", name]
            got = run(command, prompt, args.n, scratch / "isa.safetensors")
        except Refusal as refusal:
            if f"this machine has no {name}" not in str(refusal):
                raise
        else:
            compare(row, name, got, want, tolerance)


def check_bits(row, args, directory, compiled, prompt, scratch):
    """What must hold bit for bit."""
    file = scratch / "bits.safetensors"
    executable = [compiled / "model"]
    whole = None
    for threads in THREADS:
        logits, _ = run([*executable, "--threads", threads], prompt, 1, file)
        if whole is not None and not torch.equal(logits, whole):
            row.problems.append(f"executable: other logits on {threads} threads")
        whole = logits
    # The frequencies of dynamic RoPE are a function of the length of the prompt.
    if "dynamic" not in (directory / "config.json").read_text(encoding="utf-8"):
        for length in sorted({1, len(prompt) // 2, len(prompt) - 1} - {0}):
            logits, _ = run(executable, prompt[:length], 1, file)
            if not torch.equal(logits, whole[:length]):
                row.problems.append(f"executable: other logits for the first {length} tokens")
    again = scratch / "again"
    command = [args.sparkc, "compile", directory, "-o", again, "--target", args.target[0]]
    call(command, cwd=scratch, env=os.environ | {"RAYON_NUM_THREADS": "3"})
    for path in sorted(again.iterdir()):
        other = compiled / path.name
        if path.is_file() and path.read_bytes() != other.read_bytes():
            row.problems.append(f"compile: another {path.name} the second time")


def check(args, directory, scratch):
    """The row of one model."""
    directory = directory.resolve()
    case, features = {"prompt": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]}, ""
    with contextlib.suppress(FileNotFoundError):
        case = json.loads((directory / "case.json").read_text(encoding="utf-8"))
        features = case["features"]
    row, prompt = Row(directory.name, features), case["prompt"]
    want = reference(directory, prompt, args.n)
    tolerance = default_tolerance(directory)
    file = scratch / "logits.safetensors"

    def attempt(way, action):
        try:
            return action()
        except (Refusal, subprocess.TimeoutExpired) as error:
            too_small = getattr(error, "code", None) == EXIT_DOES_NOT_FIT
            (row.notes if too_small and "wafer" in way else row.problems).append(f"{way}: {error}")
            return None

    def judge(way, command):
        got = attempt(way, lambda: run(command, prompt, args.n, file))
        if got is not None:
            compare(row, way, got, want, tolerance)

    judge("eval", [args.sparkc, "eval", directory])
    compiled = None
    for target in args.target:
        out = scratch / target
        command = [args.sparkc, "compile", directory, "-o", out, "--target", target]
        if attempt(f"wafer {target}", lambda: call(command)) is None:
            continue
        judge(f"wafer {target}", [args.sparkc, "simulate", out])
        compiled = compiled or out
    if compiled:
        judge("executable", [compiled / "model"])
        if args.strict:
            attempt("strict", lambda: check_bits(row, args, directory, compiled, prompt, scratch))
            attempt("strict", lambda: check_instruction_sets(
                row, args, compiled, prompt, want, tolerance, scratch
            ))
    return row


# --- report -------------------------------------------------------------------------------------


def print_row(row):
    verdict = "DIFFERS" if row.problems else "ok"
    figures = "  ".join(f"{way} {value:.1e}" for way, value in sorted(row.differences.items()))
    print(f"{row.name:24} {verdict:8} {figures}  {row.features}")
    for problem in row.problems:
        print(f"    {problem}")
    for note in row.notes:
        print(f"    note: {note}")
    sys.stdout.flush()


def print_summary(rows):
    failed = sum(bool(row.problems) for row in rows)
    print(f"\n{len(rows)} models, {failed} with disagreements or refusals")
    for way in sorted({way for row in rows for way in row.differences}):
        values = [row.differences[way] for row in rows if way in row.differences]
        print(f"  {way:14} ran {len(values):4}, largest difference {max(values):.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", type=Path, nargs="+", help="Hugging Face directories")
    parser.add_argument("--sparkc", type=Path, default=Path("target/release/sparkc"))
    parser.add_argument(
        "--target", action="append", help="wafer to compile for; may be repeated (default: wse3)"
    )
    parser.add_argument("-n", type=int, default=24, help="greedy tokens (default: 24)")
    parser.add_argument("--strict", action="store_true", help="also what must hold bit for bit")
    args = parser.parse_args()
    args.sparkc = args.sparkc.resolve()
    args.target = args.target or ["wse3"]
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    rows = []
    for directory in args.models:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(check(args, directory, Path(scratch)))
        print_row(rows[-1])
    print_summary(rows)
    sys.exit(1 if any(row.problems for row in rows) else 0)


if __name__ == "__main__":
    main()
