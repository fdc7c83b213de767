#!/usr/bin/env python3
"""Trains `tinypy`, the small Llama-architecture model of Python source that ships with sparkc.

Data: the standard library of the running interpreter, as it lies on disk. Nothing is downloaded.
Files are held out by a hash of their path, so the split does not depend on the order of the disk.
Method: a byte-level BPE, then plain float32 training with AdamW and a cosine schedule. The schedule
runs over a number of steps (--steps: the same seed gives the same weights on the same machine) or
over a wall-clock budget (--minutes: what happens to fit).
Out: an ordinary Hugging Face directory, weights in bf16, with the held-out loss of exactly those
rounded weights in its README.md, and heldout.safetensors for checks of the quantisation loss.

    python train.py --work /tmp/tinypy --out models/tinypy --minutes 100
    python train.py --work /tmp/tinypy --out models/tinypy --minutes 120     # resumes

Needs: torch, transformers, tokenizers, safetensors, numpy.
"""

import argparse
import hashlib
import json
import math
import os
import random
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0

# Directories that are not ordinary library code: tests hold broken syntax on purpose; `encodings`
# and `pydoc_data` are tables and prose, 2 MB that would teach the model nothing about code.
SKIPPED_DIRECTORIES = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__",
    "encodings", "pydoc_data",
}
# One file in this many is held out (about 3 %).
HOLD_OUT_ONE_IN = 28

# The windows in heldout.safetensors: count, and length in tokens (one more than the 256 predicted).
HELDOUT_WINDOWS = 32
HELDOUT_WINDOW_TOKENS = 257

# Mean distance in characters between artificial cuts, see `cut`.
CUT_EVERY = 400


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="tokenizer, checkpoint, log")
    parser.add_argument("--out", type=Path, required=True, help="where the finished model goes")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="training budget, resumed time included")
    budget.add_argument("--steps", type=int, help="training budget in optimiser steps")
    parser.add_argument("--export-every", type=float, default=10.0, help="minutes between exports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--intermediate", type=int, default=512)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8, help="windows per step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--warmup-steps", type=int, default=200)
    return parser.parse_args()


# --- data -------------------------------------------------------------------------------------


def is_held_out(relative_path):
    digest = hashlib.sha256(relative_path.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HOLD_OUT_ONE_IN == 0


def read_standard_library():
    """Returns (training texts, held-out texts), each a list of strings sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    training, held_out = [], []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        # `_sysconfigdata*` describes the machine that built the interpreter.
        if SKIPPED_DIRECTORIES & set(relative.parts) or path.name.startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            (held_out if is_held_out(relative.as_posix()) else training).append(text)
    return training, held_out


def train_tokenizer(texts, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == vocab
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    return tokenizer


def cut(text, rng):
    """Splits a text at random characters, half of them just behind a blank.

    A user's prompt ends anywhere: inside a word, or in `def ` with a blank that the tokenizer would
    otherwise have joined to the next word. The model must have seen such seams.
    """
    pieces, start = [], 0
    while start < len(text):
        end = start + 1 + int(rng.expovariate(1.0 / CUT_EVERY))
        if rng.random() < 0.5:
            blank = text.find(" ", end)
            end = blank + 1 if blank >= 0 else end
        pieces.append(text[start:end])
        start = end
    return pieces


def encode(tokenizer, documents):
    """Concatenates documents (lists of pieces), each opened by END_OF_TEXT, into one i32 array."""
    pieces = [piece for document in documents for piece in document]
    encoded = iter(tokenizer.encode_batch_fast(pieces))
    stream = []
    for document in documents:
        stream.append(END_OF_TEXT_ID)
        for _ in document:
            stream.extend(next(encoded).ids)
    stream.append(END_OF_TEXT_ID)
    return np.array(stream, dtype=np.int32)


class Batches:
    """An endless, resumable walk over shuffled windows; every epoch shuffles and cuts anew."""

    def __init__(self, tokenizer, texts, context, batch, seed, position):
        self.tokenizer, self.texts = tokenizer, texts
        self.context, self.batch, self.seed = context, batch, seed
        self.epoch, self.index = position
        self.windows = self.cut_windows()

    def cut_windows(self):
        rng = random.Random(f"{self.seed}/{self.epoch}")
        documents = [cut(text, rng) for text in self.texts]
        rng.shuffle(documents)
        stream = encode(self.tokenizer, documents)
        count = (len(stream) - 1) // self.context
        # Neighbours overlap by one token, so that every token is predicted once an epoch.
        starts = np.arange(count) * self.context
        windows = stream[starts[:, None] + np.arange(self.context + 1)]
        order = list(range(count))
        rng.shuffle(order)
        return windows[order]

    def next(self):
        if self.index + self.batch > len(self.windows):
            self.epoch, self.index = self.epoch + 1, 0
            self.windows = self.cut_windows()
        window = self.windows[self.index : self.index + self.batch]
        self.index += self.batch
        return torch.from_numpy(window.astype(np.int64))


# --- training ---------------------------------------------------------------------------------


def make_config(args):
    return LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=args.hidden // args.heads,
        max_position_embeddings=args.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
        use_cache=False,
    )


def make_optimizer(model, learning_rate):
    decayed = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    other = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate_factor(progress, step, warmup_steps):
    """Cosine from 1 to 0.02 over the budget, with a linear warm-up counted in steps."""
    cosine = 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / warmup_steps) * cosine


def loss_of(model, windows):
    logits = model(input_ids=windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), windows[:, 1:].reshape(-1)
    )


def save_checkpoint(path, state):
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train(args, tokenizer, training_texts, export):
    checkpoint_path = args.work / "checkpoint.pt"
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(make_config(args))
    optimizer = make_optimizer(model, args.learning_rate)
    step, seconds, position = 0, 0.0, (0, 0)
    if checkpoint_path.exists():
        saved = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, seconds, position = saved["step"], saved["seconds"], tuple(saved["position"])
        print(f"resumed at step {step}, {seconds / 60:.1f} min", flush=True)
    batches = Batches(
        tokenizer, training_texts, args.context, args.batch, args.seed, position
    )
    # Compiling wraps the same parameters: checkpoints and exports always use `model`.
    forward = torch.compile(model) if args.compile else model
    exported_at, running, last = seconds, None, time.monotonic()

    def progress():
        return step / args.steps if args.steps else seconds / (60 * args.minutes)

    def facts():
        return {
            "step": step,
            "minutes": seconds / 60,
            "tokens": step * args.batch * args.context,
            "epochs": batches.epoch + batches.index / len(batches.windows),
        }

    while progress() < 1.0:
        rate = args.learning_rate * learning_rate_factor(progress(), step, args.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(forward, batches.next())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        value = loss.item()
        running = value if running is None else 0.98 * running + 0.02 * value
        if step % 50 == 0:
            print(
                f"step {step} epoch {facts()['epochs']:.2f} {seconds / 60:.1f} min "
                f"loss {running:.4f} rate {rate:.2e}",
                flush=True,
            )
        if seconds - exported_at > 60 * args.export_every:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "seconds": seconds,
                "position": (batches.epoch, batches.index),
            }
            save_checkpoint(checkpoint_path, state)
            export(model, args.work / "snapshot", facts())
            exported_at = seconds
            last = time.monotonic()  # Measuring an export is not training.
    export(model, args.out, facts())


# --- measuring and exporting --------------------------------------------------------------------


def rounded_to_bf16(model):
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict({k: v.bfloat16().float() for k, v in model.state_dict().items()})
    return copy.eval()


@torch.no_grad()
def measure(model, stream, context, held_out_bytes):
    """Returns (nats per token, bits per byte) over every token of the stream but the first."""
    nats, count = 0.0, 0
    for start in range(0, len(stream) - 1, context):
        window = torch.from_numpy(stream[start : start + context + 1].astype(np.int64))[None]
        predicted = window.shape[1] - 1
        nats += loss_of(model, window).item() * predicted
        count += predicted
    return nats / count, nats / math.log(2) / held_out_bytes


@torch.no_grad()
def continue_text(model, tokenizer, prompt, sample, new_tokens=96):
    generator = torch.Generator().manual_seed(0)
    ids = tokenizer.encode(prompt).ids
    for _ in range(new_tokens):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        if sample:
            # Temperature 0.8, then the smallest set of tokens that holds 95 % of the mass.
            mass, order = torch.softmax(logits / 0.8, -1).sort(descending=True)
            mass[mass.cumsum(-1) - mass > 0.95] = 0.0
            chosen = order[torch.multinomial(mass, 1, generator=generator)].item()
        else:
            chosen = logits.argmax().item()
        if chosen == END_OF_TEXT_ID:
            break
        ids.append(chosen)
    return tokenizer.decode(ids)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_configs(directory, args):
    """The classic spelling of config.json, which every release of transformers reads."""
    write_json(directory / "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": args.vocab,
        "hidden_size": args.hidden,
        "intermediate_size": args.intermediate,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "head_dim": args.hidden // args.heads,
        "hidden_act": "silu",
        "max_position_embeddings": args.context,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "torch_dtype": "bfloat16",
    })
    write_json(directory / "generation_config.json", {
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    })
    write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": args.context,
    })


def make_exporter(args, tokenizer, held_out_texts):
    stream = encode(tokenizer, [[text] for text in held_out_texts])
    held_out_bytes = sum(len(text.encode()) for text in held_out_texts)
    starts = np.linspace(0, len(stream) - HELDOUT_WINDOW_TOKENS, HELDOUT_WINDOWS).astype(int)
    windows = np.stack([stream[s : s + HELDOUT_WINDOW_TOKENS] for s in starts])

    def export(model, directory, facts):
        directory.mkdir(parents=True, exist_ok=True)
        exact = rounded_to_bf16(model)
        facts = dict(facts)
        facts["nats"], facts["bits"] = measure(exact, stream, args.context, held_out_bytes)
        facts["window_nats"] = np.mean(
            [measure(exact, window, args.context, 1)[0] for window in windows]
        )
        facts["parameters"] = sum(p.numel() for p in exact.parameters())
        facts["held_out_files"], facts["held_out_bytes"] = len(held_out_texts), held_out_bytes
        facts["held_out_tokens"] = len(stream)
        facts["greedy"] = continue_text(exact, tokenizer, "def ", sample=False)
        facts["sampled"] = continue_text(exact, tokenizer, "def ", sample=True)
        weights = {k: v.bfloat16() for k, v in exact.state_dict().items() if k != "lm_head.weight"}
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        save_file({"tokens": torch.from_numpy(windows)}, directory / "heldout.safetensors")
        tokenizer.save(str(directory / "tokenizer.json"))
        write_configs(directory, args)
        (directory / "README.md").write_text(model_card(args, facts), encoding="utf-8")
        print(
            f"exported {directory}: {facts['nats']:.4f} nats/token, {facts['bits']:.4f} bits/byte\n"
            f"{facts['greedy']}\n-----\n{facts['sampled']}\n-----",
            flush=True,
        )

    return export


def model_card(args, facts):
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return f"""---
language: code
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [python, llama, tiny]
---

# tinypy

A {facts['parameters'] / 1e6:.2f} M parameter language model of Python source, small enough to be part of a
source repository. It is the model that sparkc compiles when no other is given, and the one that
its end-to-end tests and benches run. It writes text that looks like Python; it does not write
programs that work, and its greedy continuations soon repeat themselves: sample.

## Architecture

`LlamaForCausalLM`: {args.layers} layers, hidden size {args.hidden}, {args.heads} query heads and \
{args.kv_heads} key/value heads of {args.hidden // args.heads}, SwiGLU of {args.intermediate},
RMSNorm, RoPE (theta 10000), tied embeddings, vocabulary {args.vocab} (byte-level BPE), context {args.context}.
Weights are bf16. `<|endoftext|>` (id {END_OF_TEXT_ID}) opens and closes every file; it is both BOS and EOS, and
it is not added to prompts.

## Data

The source of the Python {version} standard library (`*.py`, without tests, `encodings`, `pydoc_data` and
installed packages). One file in {HOLD_OUT_ONE_IN}, chosen by a hash of its path, is held out: {facts['held_out_files']} files,
{facts['held_out_bytes']} bytes, {facts['held_out_tokens']} tokens.

`heldout.safetensors` holds one tensor `tokens`, i32 [{HELDOUT_WINDOWS}, {HELDOUT_WINDOW_TOKENS}]: windows spread evenly over the
held-out files, for measuring what a change of the weights (such as quantisation) costs.

## Results

Measured in float32 on the bf16 weights of this directory.

| what | value |
|---|---|
| held-out loss, all files, windows of {args.context} | {facts['nats']:.4f} nats/token |
| the same | {facts['bits']:.4f} bits/byte |
| loss on `heldout.safetensors` | {facts['window_nats']:.4f} nats/token |

## Training

`models/train.py`, PyTorch float32, AdamW (0.9, 0.95), peak learning rate {args.learning_rate:g}, cosine
schedule, batches of {args.batch} x {args.context} tokens, seed {args.seed}: {facts['step']} steps, {facts['tokens'] / 1e6:.1f} M tokens, \
{facts['epochs']:.1f} epochs,
{facts['minutes']:.0f} minutes on 2 CPU cores (shared with other work, no accelerator).

## Samples

Prompt `def `, greedy:

```python
{facts['greedy']}
```

Prompt `def `, temperature 0.8, top-p 0.95:

```python
{facts['sampled']}
```

## Licence

The weights and files here are under Apache-2.0, as the rest of the project. The training data is
under the PSF License Agreement, Copyright © 2001 Python Software Foundation; a model this size can
repeat short passages of it.
"""


def main():
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    training_texts, held_out_texts = read_standard_library()
    tokenizer_path = args.work / "tokenizer.json"
    if not tokenizer_path.exists():
        train_tokenizer(training_texts, args.vocab).save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    characters = sum(map(len, training_texts))
    print(f"{len(training_texts)} files, {characters} characters to train on", flush=True)
    train(args, tokenizer, training_texts, make_exporter(args, tokenizer, held_out_texts))


if __name__ == "__main__":
    main()
