#!/usr/bin/env python3
"""Makes random tiny models of the supported families, in Hugging Face form.

    python scripts/random_models.py DIR --count 100 --seed 1
    python scripts/differential.py DIR/*

Each model draws its features independently: shapes that are no round numbers, heads and their size,
biases, windows shorter and longer than the text, RoPE scaling of every kind with and without its
options, tied or own output weight, dtype, shards, old and new spellings of config.json, defaults
left out. So models show combinations that nobody wrote a fixture for. Beside config.json and the
weights a directory holds `case.json`: the prompt that goes with the model, and its features in words.

Model K of a seed is the same whatever the count, on any machine: choices and weights come from
numpy's PCG64, seeded by seed, K and tensor name.

Needs: torch, transformers, safetensors, numpy.
"""

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROMPT_MAX = 40
# Tokens that a comparison may generate after the prompt; the context has room for them.
GENERATED_MAX = 24


class Draw:
    """Random choices of one model. Each has a name, so that adding one leaves the others alone."""

    def __init__(self, seed, index):
        self.key = [seed, index]

    def rng(self, name):
        return np.random.default_rng([*self.key, zlib.crc32(name.encode())])

    def of(self, name, *choices):
        return choices[self.rng(name).integers(len(choices))]

    def between(self, name, low, high):
        """An integer, both ends included."""
        return int(self.rng(name).integers(low, high + 1))

    def chance(self, name, probability):
        return bool(self.rng(name).random() < probability)


# --- config -------------------------------------------------------------------------------------


def shape(draw, family):
    """Extents. Few are powers of two, and several are prime, to have tiles and vectors end raggedly."""
    kv_heads = draw.of("kv_heads", 1, 1, 2, 3, 4)
    heads = kv_heads * draw.of("group", 1, 2, 3, 4, 7)
    config = {
        "vocab_size": draw.of("vocab", 31, 61, 96, 97, 128, 211, 509),
        "intermediate_size": draw.of("intermediate", 11, 24, 37, 53, 64, 90, 131),
        "num_hidden_layers": draw.of("layers", 1, 1, 2, 2, 3, 4),
        "num_attention_heads": heads,
    }
    # MHA may go without the count of key/value heads where that is what the family defaults to.
    if kv_heads != heads or family != "llama" or draw.chance("say_kv_heads", 0.5):
        config["num_key_value_heads"] = kv_heads
    if family == "qwen3" or draw.chance("say_head_dim", 0.6):
        config["head_dim"] = draw.of("head_dim", 4, 6, 8, 10, 12, 14, 16, 22, 32)
        config["hidden_size"] = draw.of("hidden", 13, 20, 27, 32, 45, 60, 71)
        if family == "llama":
            # Its config class insists, even where head_dim is given.
            config["hidden_size"] = heads * math.ceil(config["hidden_size"] / heads)
    else:
        config["hidden_size"] = heads * draw.of("hidden_per_head", 4, 6, 8, 10)
        if family in ("llama", "mistral") and draw.chance("null_head_dim", 0.3):
            config["head_dim"] = None
    return config


def windows(draw, family, layers):
    """Sliding windows as the family spells them: used or not, shorter or longer than the text."""
    if family == "llama":
        return {}
    window = draw.of("window", 1, 2, 3, 5, 8, 17, 40, 63, 64, 100)
    if family == "mistral":
        # Left out, it means 4096.
        return draw.of("windows", {}, {"sliding_window": None}, *[{"sliding_window": window}] * 3)
    if draw.chance("no_window", 0.3):
        return draw.of("windows", {}, {"use_sliding_window": False, "sliding_window": window})
    fields = {"use_sliding_window": True, "sliding_window": window}
    first = draw.between("max_window_layers", 0, layers)
    kinds = [
        draw.of(f"layer_type.{i}", "full_attention", "sliding_attention") for i in range(layers)
    ]
    return fields | draw.of(
        "windows", {"max_window_layers": first}, {"max_window_layers": first}, {"layer_types": kinds}
    )


def rope(draw):
    """Parameters of rotary embedding, without theta; empty for none."""
    kind = draw.of("rope", "default", "default", "linear", "dynamic", "llama3", "yarn", "yarn")
    if kind == "default":
        return {}
    parameters = {"rope_type": kind, "factor": draw.of("factor", 1.0, 1.5, 2.0, 4.0, 8.0)}
    original = draw.of("original", 8, 16, 30, 64)
    if kind == "llama3":
        parameters |= {
            "low_freq_factor": draw.of("low", 1.0, 1.5, 2.0),
            "high_freq_factor": draw.of("high", 3.0, 4.0, 8.0),
            "original_max_position_embeddings": original,
        }
    if kind == "yarn":
        options = {
            "original_max_position_embeddings": original,
            "attention_factor": draw.of("attention_factor", 0.8, 1.0, 1.7),
            "beta_fast": draw.of("beta_fast", 4, 8.0, 64),
            "beta_slow": draw.of("beta_slow", 0.1, 1, 2),
            "mscale": draw.of("mscale", 0.7, 1.0, 2.0),
            "mscale_all_dim": draw.of("mscale_all_dim", 0.4, 1.0),
            "truncate": draw.chance("truncate", 0.5),
        }
        parameters |= {k: v for k, v in options.items() if draw.chance(f"yarn.{k}", 0.4)}
    return parameters


def spell(draw, config, theta, parameters, dtype):
    """Adds RoPE and dtype as configs of some age spell them."""
    age = draw.of("spelling", "type", "rope_type", "rope_parameters")
    if age == "rope_parameters":
        # Here transformers wants theta said.
        inner = {"rope_type": "default", "rope_theta": theta or 10000.0} | parameters
        return config | {"rope_parameters": inner, "dtype": dtype}
    config = config | {"torch_dtype": dtype}
    if theta is not None:
        config["rope_theta"] = theta
    if not parameters:
        return config | draw.of("no_scaling", {}, {"rope_scaling": None})
    if age == "type":
        parameters = {("type" if k == "rope_type" else k): v for k, v in parameters.items()}
    return config | {"rope_scaling": parameters}


def random_config(draw, prompt_length):
    family = draw.of("family", *CLASSES)
    config = {"model_type": family, "architectures": [CLASSES[family]]} | shape(draw, family)
    parameters = rope(draw)
    # Scaling means texts beyond the trained context; without, the model ends there.
    needed = prompt_length + GENERATED_MAX
    config["max_position_embeddings"] = (
        draw.of("trained", 8, 16, 20, 40, 512)
        if parameters
        else draw.of("trained", needed, needed + 1, 128, 1000)
    )
    config |= windows(draw, family, config["num_hidden_layers"])
    config |= {
        "hidden_act": draw.of(
            "act", "silu", "silu", "silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"
        )
    }
    if draw.chance("say_eps", 0.8):
        config["rms_norm_eps"] = draw.of("eps", 1e-6, 1e-5, 1e-3, 1e-2)
    if family in ("llama", "qwen3") and draw.chance("say_attention_bias", 0.7):
        config["attention_bias"] = draw.chance("attention_bias", 0.5)
    if family == "llama" and draw.chance("say_mlp_bias", 0.5):
        config["mlp_bias"] = draw.chance("mlp_bias", 0.5)
    if draw.chance("say_tied", 0.7):
        config["tie_word_embeddings"] = draw.chance("tied", 0.5)
    if draw.chance("say_tokens", 0.7):
        config |= {"bos_token_id": 0, "eos_token_id": draw.of("eos", 1, [1, 3], None)}
    theta = draw.of("theta", None, 50.0, 10000.0, 500000.0)
    dtype = draw.of("dtype", "float32", "float32", "bfloat16", "float16")
    return spell(draw, config, theta, parameters, dtype)


# --- weights ------------------------------------------------------------------------------------


def random_weight(draw, name, extents, dtype):
    """Strong enough that attention is not flat, norms are not idle and biases show."""
    values = draw.rng(f"weight.{name}").standard_normal(extents)
    if "norm" in name:
        values = 1.0 + 0.3 * values
    elif name.endswith(".bias"):
        values = 0.5 * values
    elif "embed_tokens" not in name:
        values = 1.5 / math.sqrt(extents[-1]) * values
    return torch.from_numpy(values.astype(np.float32)).to(dtype)


def write_weights(draw, directory, weights):
    """One file, or shards with an index; neighbours among the tensors lie in different shards."""
    shards = draw.of("shards", 1, 1, 2, 3)
    names = sorted(weights)
    if shards == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({n: weights[n] for n in part}, directory / file, metadata={"format": "pt"})
        weight_map |= {n: file for n in part}
    size = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))},
    )


# --- model --------------------------------------------------------------------------------------


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def summary(config):
    """The features that tell most about what went wrong, in one line."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    parts = [
        config["model_type"],
        config.get("dtype") or config.get("torch_dtype"),
        f"L{config['num_hidden_layers']}",
        f"h{config['hidden_size']}",
        f"{heads}/{config.get('num_key_value_heads', heads)}x{head_dim}",
        f"i{config['intermediate_size']}",
        f"v{config['vocab_size']}",
        config["hidden_act"],
        scaling.get("rope_type") or scaling.get("type") or "default",
    ]
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        parts.append(f"window{config['sliding_window']}")
    flags = {"attention_bias": "bias", "mlp_bias": "mlp_bias", "tie_word_embeddings": "tied"}
    parts += [word for field, word in flags.items() if config.get(field)]
    return " ".join(parts)


def write_model(directory, seed, index):
    draw = Draw(seed, index)
    length = draw.of("prompt_kind", 1, 2, draw.between("prompt_length", 1, PROMPT_MAX), PROMPT_MAX)
    config = random_config(draw, length)
    directory.mkdir(parents=True)
    write_json(directory / "config.json", config)
    # transformers says which tensors a model of this config has.
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    extents = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.get("tie_word_embeddings"):
        extents.pop("lm_head.weight", None)
    dtype = DTYPES[config.get("dtype") or config["torch_dtype"]]
    weights = {name: random_weight(draw, name, e, dtype) for name, e in extents.items()}
    write_weights(draw, directory, weights)
    prompt = draw.rng("prompt").integers(0, config["vocab_size"], length).tolist()
    write_json(
        directory / "case.json",
        {"seed": seed, "index": index, "features": summary(config), "prompt": prompt},
    )
    return summary(config)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("directory", type=Path, help="where to put the models; made if needed")
    parser.add_argument("--count", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--first", type=int, default=0, help="index of the first (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="other models (default: 0)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index in range(args.first, args.first + args.count):
        name = f"s{args.seed}-{index:03}"
        print(name, write_model(args.directory / name, args.seed, index), flush=True)


if __name__ == "__main__":
    main()
