"""One measured process of `transformers`: MODEL PROMPT TEXT THREADS. See sparkc/src/commands/bench.rs."""
import json, os, resource, sys, time

start = time.perf_counter()
import torch
from transformers import AutoModelForCausalLM

model, prompt, text, threads = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
where, extra = (os.path.dirname(model) or ".", {"gguf_file": os.path.basename(model)}) if model.endswith(".gguf") else (model, {})
net = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, local_files_only=True, **extra).eval()
ids = torch.tensor([[(1000 + 7919 * i) % (net.config.vocab_size - 10) for i in range(prompt)]])
with torch.no_grad():
    begin = time.perf_counter()
    out = net(ids, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    print("FIRST", flush=True)
    first = time.perf_counter()
    for _ in range(text):
        out = net(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
    end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("RESULT " + json.dumps(dict(load_s=begin - start, prefill_tps=prompt / (first - begin), decode_tps=text / (end - first), rss_mb=peak)), flush=True)
