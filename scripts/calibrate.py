#!/usr/bin/env python3
"""Cycles of `sparkc simulate --kernel` beside the hardware measurements that calibrate the presets.

    cargo build --release && scripts/calibrate.py [--sparkc PATH] [--published] [--fit TARGET] [--json]

Prints each measurement, what the simulator says and the difference. With --fit it also looks for better
values of the constants of plan/targets/TARGET.toml that are marked [cal] there: Gauss-Newton over the
relative differences, each constant kept near its present value by a weak prior, because there are hardly
more measurements than constants. It changes no file: a constant is rounded and written down by hand, with
its reason beside it.

With --published it shows what else is published about the hardware (tests/wafer/published.json: mostly fits over
measurements that are not here) beside the same quantity simulated: `decides` where a constant was taken from it, `checked` where not.

Measurements: tests/wafer/calibration.json, which says where they come from. Nothing else was used.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def points():
    """Target, kernel with its sizes, measured cycles."""
    found = json.loads((ROOT / "tests" / "wafer" / "calibration.json").read_text())["points"]
    for point in found:
        sizes = {k: v for k, v in point.items() if k not in ("target", "kernel", "cycles")}
        flags = [word for name, value in sizes.items() for word in (f"--{name}", value)]
        yield point["target"], [point["kernel"], *flags], point["cycles"]


POINTS = list(points())


class Simulator:
    def __init__(self, sparkc):
        self.sparkc = sparkc

    def run(self, target, kernel):
        words = ["simulate", "--kernel", *map(str, kernel), "--target", str(target), "--json"]
        run = subprocess.run([self.sparkc, *words], capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr)
        return json.loads(run.stdout)

    def cycles(self, target, kernel):
        return self.run(target, kernel)["cycles"]


def table(simulator, points):
    rows = []
    for target, kernel, measured in points:
        found = simulator.cycles(target, kernel)
        rows.append({
            "target": target,
            "kernel": " ".join(map(str, kernel)),
            "measured": round(measured, 1),
            "simulated": found,
            "percent": round(100 * (found / measured - 1), 2),
        })
    return rows


def figures():
    return json.loads((ROOT / "tests" / "wafer" / "published.json").read_text())["figures"]


def timed(simulator, figure, sizes):
    kernel = sizes.get("kernel", figure.get("kernel"))
    flags = [word for name, value in sizes.items() if name != "kernel" for word in (f"--{name}", value)]
    return simulator.run(figure["target"], [kernel, *flags])


def product(simulator, figure, kernel, tile):
    n = figure["grid"] * tile
    return timed(simulator, figure, {"kernel": kernel, "grid": figure["grid"], "m": n, "k": n, "n": n})["cycles"]


def step(simulator, f):
    core = (ROOT / "plan" / "targets" / f"{f['target']}.toml").read_text()
    floor = float(re.search(r"(?m)^gemm_floor = ([\d.]+)", core).group(1))
    setup, group = map(float, re.search(r"mac_f16 = { setup = ([\d.]+), per_group = ([\d.]+)", core).groups())
    call = max(floor, setup + group * -(-f["tile"] // 4))
    return product(simulator, f, f["kernel"], f["tile"]) / f["grid"] - f["tile"] ** 2 * call


def slope(simulator, f):
    ends = [timed(simulator, f, f[end])["cycles"] for end in ("from", "to")]
    return (ends[1] - ends[0]) / (f["to"]["grid"] - f["from"]["grid"]) / f["per"]


def rest(simulator, f):
    found = timed(simulator, f, f["from"])
    return (found["cycles"] - found["breakdown"]["compute"]) / f["per"] - f["slope"] * f["from"]["grid"]


def crossover(simulator, f):
    wins = (t for t in range(1, 25) if product(simulator, f, "summa", t) < product(simulator, f, "meshgemm", t))
    return next(wins)


def optimum(simulator, f):
    cycles = {}
    for grid in f["grids"]:
        d, s, n = (-(-f[name] // grid) for name in ("hidden", "tokens", "ffn"))
        sizes = {"grid": grid, "d": d, "s": s, "f": n} | ({"groups": f["groups"]} if "groups" in f else {})
        cycles[grid] = timed(simulator, f, sizes)["cycles"]
    return min(cycles, key=cycles.get)


def published(simulator):
    """Each figure of published.json and its simulated value; tests/wafer/published.rs asserts the same."""
    quantities = {"step": step, "slope": slope, "rest": rest, "crossover": crossover, "optimum": optimum}
    for figure in figures():
        yield figure, quantities[figure["quantity"]](simulator, figure)


def what(figure):
    shown = ("kernel", "grid", "tile", "hidden", "ffn")
    return f"{figure['quantity']} " + " ".join(f"{k} {figure[k]}" for k in shown if k in figure)


def constants(text):
    """Name and value of each constant marked [cal]; of a vector cost its setup and per_group."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"(\w+) = ([^#]+)#.*\[cal\]", line)
        if not match:
            continue
        name, value = match.group(1), match.group(2).strip()
        if value.startswith("{"):
            for part in ("setup", "per_group"):
                found[f"{name}.{part}"] = float(re.search(part + r" = ([\d.]+)", value).group(1))
        else:
            found[name] = float(value)
    return found


def with_constants(text, values):
    for key, value in values.items():
        name, _, part = key.partition(".")
        if part:
            pattern = rf"(?m)^({name} = .*?{part} = )[\d.]+"
            text = re.sub(pattern, rf"\g<1>{max(value, 0):.4f}", text)
        else:
            text = re.sub(rf"(?m)^({name} = )[\d.]+", rf"\g<1>{max(round(value), 0)}", text)
    return text


def fit(simulator, name, rounds=4, prior=0.02):
    import numpy

    text = (ROOT / "plan" / "targets" / f"{name}.toml").read_text()
    points = [p for p in POINTS if p[0] == name]
    start = constants(text)
    keys = list(start)
    # Whole cycles only move in steps of one, so differences are taken over a quarter of the value.
    step = {k: max(0.25 * start[k], 1.0 if "." not in k else 0.1) for k in keys}

    def residuals(values):
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(with_constants(text, values))
            file.flush()
            return numpy.array([simulator.cycles(file.name, k) / m - 1 for _, k, m in points])

    values = dict(start)
    for _ in range(rounds):
        base = residuals(values)
        columns = [(residuals({**values, k: values[k] + step[k]}) - base) / step[k] for k in keys]
        slope = numpy.stack(columns, axis=1) * numpy.array([step[k] for k in keys])
        here = numpy.array([(values[k] - start[k]) / step[k] for k in keys])
        left = numpy.concatenate([slope, prior * numpy.eye(len(keys))])
        right = numpy.concatenate([-base, -prior * here])
        move = numpy.linalg.lstsq(left, right, rcond=None)[0]
        values = {k: max(values[k] + m * step[k], 0) for k, m in zip(keys, move)}
    return values, residuals(values)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--sparkc", default=str(ROOT / "target" / "release" / "sparkc"))
    args.add_argument("--fit", metavar="TARGET")
    args.add_argument("--published", action="store_true")
    args.add_argument("--json", action="store_true")
    args = args.parse_args()
    simulator = Simulator(args.sparkc)
    rows = table(simulator, POINTS)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        for r in rows:
            print(f"{r['target']}  {r['kernel']:<58} {r['measured']:>9} {r['simulated']:>7} {r['percent']:>+7.2f} %")
        errors = [abs(r["percent"]) for r in rows]
        print(f"mean {sum(errors) / len(errors):.2f} %, largest {max(errors):.2f} %")
    if args.published:
        for figure, found in published(simulator):
            low, high = figure["published"]
            known = f"{low:.2f}" if low == high else f"{low:g} to {high:g}"
            away = 100 * (found / min(max(found, low), high) - 1)
            role = "decides" if figure.get("decides") else "checked"
            print(f"{figure['target']}  {what(figure):<58} {role}  {known:>12} {found:>8.2f} {away:>+6.1f} %")
    if args.fit:
        values, left = fit(simulator, args.fit)
        for key, value in values.items():
            print(f"  {key:<24} {value:.3f}")
        print("  left:", " ".join(f"{100 * r:+.2f}" for r in left), "%")


if __name__ == "__main__":
    main()
