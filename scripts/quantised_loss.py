#!/usr/bin/env python3
"""Compares quantised executables with llama.cpp's formats: held-out loss and logits on the same text.

    pip install torch transformers gguf safetensors
    python scripts/quantised_loss.py [--sparkc PATH] [--model DIR] [--windows N] TEXT...

Per format: the mean negative log likelihood of the texts, and the mean over positions of the largest
error of a logit as a share of the largest logit. `gguf` rows are `transformers` in float32 on weights
that the `gguf` package (llama.cpp's own Python code) has quantised and dequantised; `sparkc` rows are
executables, which quantise weights and activations themselves. Exits with 1 where an executable's loss
exceeds that of the same format by more than 0.1 %.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

FORMATS = {"none": None, "q8": Q.Q8_0, "q4": Q.Q4_0}
WINDOW = 256


def reference(directory, kind):
    """Logits of windows by transformers, with the matrices in a format."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2 and kind is not None:
                rounded = dequantize(quantize(parameter.numpy(), kind), kind)
                parameter.copy_(torch.from_numpy(rounded.reshape(tuple(parameter.shape))))

    def logits(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].numpy()

    return logits


def executable(sparkc, directory, kind, work):
    """Logits of windows by an executable."""
    out = Path(work) / kind
    command = [sparkc, "compile", directory, "--emit", "cpu", "--quant", kind, "-o", out]
    subprocess.run(command, check=True, capture_output=True)

    def logits(tokens):
        file = out / "logits.safetensors"
        ids = ",".join(map(str, tokens))
        command = [out / "model", "--tokens", ids, "-n", "0", "--logits", file]
        subprocess.run(command, check=True, capture_output=True)
        return load_file(file)["logits"]

    return logits


def loss(logits, tokens):
    """Sum of negative log likelihoods of tokens 1.. given those before."""
    x = logits[:-1].astype(np.float64)
    top = x.max(axis=1)
    log_sum = np.log(np.exp(x - top[:, None]).sum(axis=1)) + top
    return float((log_sum - x[np.arange(len(tokens) - 1), tokens[1:]]).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sparkc", default="target/release/sparkc")
    parser.add_argument("--model", default="models/tinypy")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    text = "\n".join(Path(t).read_text(encoding="utf-8") for t in args.texts)
    ids = tokenizer(text).input_ids
    windows = [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW, WINDOW)][: args.windows]
    count = sum(len(w) - 1 for w in windows)
    exact = [reference(args.model, None)(w) for w in windows]
    failed = False
    print(f"{len(windows)} windows of {WINDOW} tokens; loss in nats per token")
    heads = ["format", "gguf", "sparkc", "gguf error", "sparkc error", "same top"]
    print("{:8} {:>10} {:>10} {:>12} {:>12} {:>10}".format(*heads))
    with tempfile.TemporaryDirectory() as work:
        for kind, form in FORMATS.items():
            losses, errors, same = [], [], []
            for logits in (reference(args.model, form), executable(args.sparkc, args.model, kind, work)):
                found = [logits(w) for w in windows]
                losses.append(sum(loss(f, w) for f, w in zip(found, windows)) / count)
                pairs = list(zip(found, exact))
                error = [np.abs(f - e).max(axis=1) / np.abs(e).max(axis=1) for f, e in pairs]
                errors.append(float(np.concatenate(error).mean()))
                same.append([f.argmax(axis=1) for f in found])
            top = np.mean([np.mean(a == b) for a, b in zip(*same)])
            print(
                f"{kind:8} {losses[0]:10.5f} {losses[1]:10.5f} {errors[0]:12.2e} {errors[1]:12.2e} {top:10.2%}"
            )
            failed |= losses[1] > losses[0] * 1.001
    sys.exit(1 if failed else 0)


main()
