"""Compares `sparkc passes extract` with an integer program on random e-graphs in extraction-gym's JSON.

Families follow those of the public set: `shared` (alternatives that share dear classes, as set covering),
`cyclic` (operands anywhere, as after saturating rewrites), `deep` (long chains of near operands, as lifted
programs), `large` (the sizes of whole models), `cover` (weighted set covering, as its set_covering), `scp` (the same
at the density of the OR library's scp4: few rows, many columns), `maxsat` (clauses that a literal meets or a
penalty), `wide` (few classes with many nodes, as saturated arithmetic of egg, herbie and rover). The integer program is that of extraction-gym's faster ILP:
nodes and classes are 0/1, needed classes pick a node, cycles are cut as they show up, 10 s at most; HiGHS
solves it; and greedy choices, by the algorithm of its faster-greedy-dag. Prints costs and processor seconds, and
what to hold them against: never dearer than the program nor than greedy choices, 5 % of the program's time.

Needs highspy (PyPI).
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

import highspy

FAMILIES = ("shared", "cyclic", "deep", "large", "cover", "scp", "maxsat", "wide")
ILP_SECONDS = 10.0


def egraph(family, seed):
    rng = random.Random(f"{family} {seed}")
    if family in COVERS:
        return COVERS[family](rng)
    count = {"shared": 300, "cyclic": 400, "deep": 800, "large": 4000, "wide": 150}[family]
    nodes, dear = {}, max(8, count // 12)

    def operand(i):
        if family == "shared":
            return rng.randrange(dear) if rng.random() < 0.6 else rng.randrange(i)
        if family == "wide":
            return rng.randrange(count) if rng.random() < 0.05 else rng.randrange(max(0, i - 40), i)
        if family == "cyclic":
            return rng.randrange(count) if rng.random() < 0.15 else rng.randrange(i)
        return rng.randrange(max(0, i - 12), i)

    for i in range(count):
        leaf = i < dear
        for j in range(1 if leaf and family == "shared" else rng.randint(1, 14 if family == "wide" and i else 4)):
            arity = 0 if leaf and j == 0 else rng.randint(1, 3) if i else 0
            cost = rng.randint(20, 60) if leaf else rng.choice([1, 1, 2, 5, rng.randint(1, 30)])
            children = [f"{operand(i)}.0" for _ in range(arity)]
            nodes[f"{i}.{j}"] = {"op": "f", "children": children, "eclass": str(i), "cost": cost}
    roots = rng.sample(range(count - count // 8, count), 6)
    return {"nodes": nodes, "root_eclasses": [str(r) for r in roots]}


def cover(rng):
    """Elements wanted, each by any set that holds it; a set is paid once."""
    sets, elements = 120, 250
    nodes = {f"s{i}": {"op": "set", "children": [], "eclass": f"s{i}", "cost": rng.randint(5, 40)} for i in range(sets)}
    for e in range(elements):
        for j, s in enumerate(rng.sample(range(sets), rng.randint(2, 6))):
            nodes[f"e{e}.{j}"] = {"op": "in", "children": [f"s{s}"], "eclass": f"e{e}", "cost": 0}
    return {"nodes": nodes, "root_eclasses": [f"e{e}" for e in range(elements)]}


def scp(rng):
    """As the OR library's scp4: 200 elements, 500 sets, 2 % of the pairs, costs up to 100."""
    sets, elements = 500, 200
    nodes = {f"s{i}": {"op": "set", "children": [], "eclass": f"s{i}", "cost": rng.randint(1, 100)} for i in range(sets)}
    for e in range(elements):
        for j, s in enumerate(sorted(rng.sample(range(sets), rng.randint(5, 15)))):
            nodes[f"e{e}.{j}"] = {"op": "in", "children": [f"s{s}"], "eclass": f"e{e}", "cost": 0}
    return {"nodes": nodes, "root_eclasses": [f"e{e}" for e in range(elements)]}


def maxsat(rng):
    """Clauses, each met by one of three literals or paid for; each literal taken costs."""
    variables, clauses = 150, 450
    nodes = {}
    for v in range(variables):
        for sign in "tf":
            nodes[f"{sign}{v}"] = {"op": sign, "children": [], "eclass": f"{sign}{v}", "cost": rng.randint(1, 10)}
    for c in range(clauses):
        nodes[f"c{c}.0"] = {"op": "pay", "children": [], "eclass": f"c{c}", "cost": rng.randint(3, 20)}
        for j, v in enumerate(rng.sample(range(variables), 3)):
            literal = f"{rng.choice('tf')}{v}"
            nodes[f"c{c}.{j + 1}"] = {"op": "by", "children": [literal], "eclass": f"c{c}", "cost": 0}
    return {"nodes": nodes, "root_eclasses": [f"c{c}" for c in range(clauses)]}


COVERS = {"cover": cover, "scp": scp, "maxsat": maxsat}


def greedy(graph):
    """The cost of the choice in which each class takes the node whose graph costs least, shared parts once."""
    nodes, readers, best = graph["nodes"], {}, {}
    needs = {n: [nodes[c]["eclass"] for c in node["children"]] for n, node in nodes.items()}
    for n, classes in needs.items():
        for c in classes:
            readers.setdefault(c, []).append(n)
    queue = [n for n, classes in needs.items() if not classes]
    while queue:
        later = {}
        for n in queue:
            own, costs = nodes[n]["eclass"], {}
            if any(c not in best for c in needs[n]):
                continue
            for c in needs[n]:
                costs.update(best[c][1])
            if own in costs:
                continue
            costs[own] = nodes[n]["cost"]
            total = sum(costs.values())
            if own not in best or total < best[own][0]:
                best[own] = (total, costs, n)
                later.update(dict.fromkeys(readers.get(own, [])))
        queue = list(later)
    seen, stack = set(), list(graph["root_eclasses"])
    while stack:
        c = stack.pop()
        if c not in seen:
            seen.add(c)
            stack.extend(needs[best[c][2]])
    return sum(nodes[best[c][2]]["cost"] for c in seen)


def processor(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def ours(sparkc, path):
    begin = processor(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sparkc, "passes", "extract", path, "--json"], capture_output=True)
    seconds = processor(resource.RUSAGE_CHILDREN) - begin
    if run.returncode:
        sys.exit(run.stderr.decode())
    found = json.loads(run.stdout)
    return found["cost"], found["bound"], seconds


def cycle(picks, roots):
    """Nodes of a cycle among the picks that the roots need."""
    state, stack = {}, [(r, iter((r,))) for r in roots]
    path = []

    def visit(c):
        state[c] = 1
        path.append(c)
        for d in picks.get(c, ((), None))[0]:
            if state.get(d) == 1:
                return path[path.index(d):]
            if d not in state and (found := visit(d)):
                return found
        state[c] = 2
        path.pop()
        return None

    for r in roots:
        if r not in state and (found := visit(r)):
            return found
    return None


def ilp(graph):
    begin, wall = processor(resource.RUSAGE_SELF), time.monotonic()
    h = highspy.Highs()
    h.silent()
    classes = {}
    for name, node in graph["nodes"].items():
        needs = sorted({graph["nodes"][c]["eclass"] for c in node["children"]})
        if node["eclass"] not in needs:
            classes.setdefault(node["eclass"], []).append((name, needs, node["cost"]))
        else:
            classes.setdefault(node["eclass"], [])
    active = {c: h.addBinary() for c in classes}
    pick = {n[0]: h.addBinary(obj=n[2]) for nodes in classes.values() for n in nodes}
    for c, nodes in classes.items():
        h.addConstr(sum(pick[n[0]] for n in nodes) >= active[c]) if nodes else h.addConstr(active[c] <= 0)
        for name, needs, _ in nodes:
            for d in needs:
                h.addConstr(pick[name] <= active[d])
    for root in graph["root_eclasses"]:
        h.addConstr(active[root] >= 1)
    cost = None
    while (left := ILP_SECONDS - (time.monotonic() - wall)) > 0:
        h.setOptionValue("time_limit", h.getRunTime() + left)
        h.minimize()
        if h.getInfo().primal_solution_status != 2:
            break
        values = h.getSolution().col_value
        chosen = {}
        for c, nodes in classes.items():
            on = [n for n in nodes if values[pick[n[0]].index] > 0.5]
            if on:
                chosen[c] = (on[0][1], on[0][0])
        loop = cycle(chosen, graph["root_eclasses"])
        if not loop:
            seen, stack = set(), list(graph["root_eclasses"])
            while stack:
                c = stack.pop()
                if c not in seen:
                    seen.add(c)
                    stack.extend(chosen[c][0])
            cost = sum(graph["nodes"][chosen[c][1]]["cost"] for c in seen)
            break
        # Not all classes of the loop may pick nodes that go round.
        inside = [
            [n[0] for n in classes[c] if loop[(i + 1) % len(loop)] in n[1]] for i, c in enumerate(loop)
        ]
        blocked = []
        for names in inside:
            v = h.addBinary()
            blocked.append(v)
            for n in names:
                h.addConstr(pick[n] <= 1 - v)
        h.addConstr(sum(blocked) >= 1)
    return cost, processor(resource.RUSAGE_SELF) - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sparkc", help="the program")
    parser.add_argument("seeds", type=int, nargs="?", default=3, help="e-graphs of each family [default: 3]")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES, help="only these [default: all]")
    args = parser.parse_args()
    sys.setrecursionlimit(100_000)
    dearer, above, times = 0, 0, [0.0, 0.0]
    for family in args.families:
        for seed in range(args.seeds):
            graph = egraph(family, seed)
            with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
                json.dump(graph, file)
            found = ours(args.sparkc, file.name)
            os.unlink(file.name)
            cost, seconds = ilp(graph)
            dearer += cost is not None and found[0] > cost
            choices = greedy(graph)
            above += found[0] > choices
            times[0] += found[2]
            times[1] += seconds
            gap = found[0] - found[1]
            print(f"{family:8} {seed}: {found[0]:g} (gap {gap:g}) in {found[2]:.3f} s, program {cost} in {seconds:.2f} s, greedy {choices}")
    print(f"dearer than the program: {dearer}, than greedy: {above}; time {100 * times[0] / max(times[1], 1e-9):.1f} % of its")


if __name__ == "__main__":
    main()
