"""One measured process of llama.cpp by its Python package: MODEL PROMPT TEXT THREADS. See sparkc/src/commands/bench.rs."""
import json, resource, sys, time

start = time.perf_counter()
from llama_cpp import Llama

model, prompt, text, threads = sys.argv[1], *map(int, sys.argv[2:5])
net = Llama(model, n_ctx=prompt + text + 8, n_batch=max(prompt, 32), n_ubatch=max(prompt, 32), n_threads=threads, n_threads_batch=threads, verbose=False)
ids = [(1000 + 7919 * i) % (net.n_vocab() - 10) for i in range(prompt)]
begin = time.perf_counter()
net.eval(ids)
token = net.sample(temp=0.0)
print("FIRST", flush=True)
first = time.perf_counter()
for _ in range(text):
    net.eval([token])
    token = net.sample(temp=0.0)
end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("RESULT " + json.dumps(dict(load_s=begin - start, prefill_tps=prompt / (first - begin), decode_tps=text / (end - first), rss_mb=peak)), flush=True)
