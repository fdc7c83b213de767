#!/usr/bin/env python3
"""Compares a logits file with what `transformers` computes in float32 for the same model and tokens.

    sparkc eval MODEL --tokens 1,2,3 --logits got.safetensors
    python scripts/compare_transformers.py MODEL got.safetensors --tokens 1,2,3

MODEL is a Hugging Face directory; the file holds one tensor `logits`, f32 [positions, vocab]. Prints
the largest difference and where it lies, as a share of the largest logit, and exits with 1 when it
exceeds the tolerance. The default tolerance follows the dtype of the weights as docs/numerics.md
has it: 1e-4 for float32, 2e-3 for bfloat16 and float16.

Needs: torch, transformers, safetensors.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TOLERANCE_F32 = 1e-4
TOLERANCE_HALF = 2e-3


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="directory with config.json and *.safetensors")
    parser.add_argument("logits", type=Path, help="safetensors file with a tensor `logits`")
    parser.add_argument("--tokens", required=True, help="token ids, as in 1,2,3")
    parser.add_argument("--tolerance", type=float, help="share of max|logit| (default: by dtype)")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="also write the reference logits to this file"
    )
    return parser.parse_args()


def default_tolerance(directory):
    """Two-byte weights anywhere in the model mean the wider tolerance."""
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                if file.get_slice(name).get_dtype() in ("BF16", "F16"):
                    return TOLERANCE_HALF
    return TOLERANCE_F32


def load_reference(directory):
    """The model in float32 with eager attention. A fresh one each time: dynamic RoPE keeps state."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


@torch.no_grad()
def reference_logits(directory, tokens):
    return load_reference(directory)(torch.tensor([tokens])).logits[0]


def distance(got, want):
    """Absolute differences; a NaN is infinitely wrong, for it compares false with everything."""
    difference = (got.float() - want).abs()
    difference[difference.isnan()] = float("inf")
    return difference


def relative_difference(got, want):
    """max |got - want| / max |want|, the measure of docs/numerics.md."""
    return distance(got, want).max().item() / want.abs().max().item()


def main():
    args = parse_arguments()
    tokens = [int(token) for token in args.tokens.split(",")]
    got = load_file(args.logits)["logits"].float()
    want = reference_logits(args.model, tokens)
    if args.write:
        save_file({"logits": want.contiguous()}, args.write)
    if got.shape != want.shape:
        sys.exit(f"shape {list(got.shape)}, but the reference has {list(want.shape)}")
    difference = distance(got, want)
    position, token = divmod(difference.argmax().item(), want.shape[1])
    scale = want.abs().max().item()
    relative = difference.max().item() / scale
    tolerance = args.tolerance or default_tolerance(args.model)
    agreeing = (got.argmax(-1) == want.argmax(-1)).sum().item()
    print(f"max|difference| / max|logit|  {relative:.3e}  (tolerance {tolerance:g})")
    print(f"at position {position}, token {token}: got {got[position, token]:.6f}, "
          f"want {want[position, token]:.6f}")
    print(f"largest logit {scale:.4f}; same best token at {agreeing} of {len(want)} positions")
    sys.exit(0 if relative <= tolerance else 1)


if __name__ == "__main__":
    main()
