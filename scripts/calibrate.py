#!/usr/bin/env python3
"""Cycles of `sparkc simulate --kernel` beside the hardware measurements that calibrate the presets.

    cargo build --release && scripts/calibrate.py [--sparkc PATH] [--published] [--fit TARGET] [--json]

Prints each measurement, what the simulator says and the difference. With --fit it also looks for better
values of the constants of plan/targets/TARGET.toml that are marked [cal] there: Gauss-Newton over the
relative differences, each constant kept near its present value by a weak prior, because there are hardly
more measurements than constants. It changes no file: a constant is rounded and written down by hand, with
its reason beside it.

With --published it shows what else is published about the hardware, mostly fits over measurements that are
not here, beside the same quantity simulated: `decides` where a constant was taken from it, `checked` where not.

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

    def cycles(self, target, kernel):
        words = ["simulate", "--kernel", *map(str, kernel), "--target", str(target), "--json"]
        run = subprocess.run([self.sparkc, *words], capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr)
        return json.loads(run.stdout)["cycles"]


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


def product(simulator, target, kernel, grid, tile):
    n = grid * tile
    return simulator.cycles(target, [kernel, "--grid", grid, "--m", n, "--k", n, "--n", n])


def slope(simulator, target, kernel, low, high, flags=()):
    ends = [simulator.cycles(target, [kernel, "--grid", p, *flags]) for p in (low, high)]
    return (ends[1] - ends[0]) / (high - low)


def published(simulator):
    """Target, quantity, whether it decided a constant, published, simulated."""
    core = (ROOT / "plan" / "targets" / "wse2.toml").read_text()
    floor = float(re.search(r"(?m)^gemm_floor = ([\d.]+)", core).group(1))
    setup, group = map(float, re.search(r"mac_f16 = { setup = ([\d.]+), per_group = ([\d.]+)", core).groups())
    for kernel, fixed, square in (("meshgemm", 45, 1.59), ("summa", 369, 1.06)):
        for tile in (3, 6, 12, 24):
            call = max(floor, setup + group * -(-tile // 4))
            step = product(simulator, "wse2", kernel, 240, tile) / 240 - tile * tile * call
            role = "decides" if tile == 3 else "checked"
            yield "wse2", f"{kernel}: cycles a step that products of {tile} x {tile} do not hide", role, fixed + square * tile**2, step
    chain = ("--tile", 6)
    yield "wse2", "chain-gemv: cycles a PE", "checked", 6.92, slope(simulator, "wse2", "chain-gemv", 240, 720, chain)
    yield "wse3", "chain-gemv: cycles a PE", "checked", 14.74, slope(simulator, "wse3", "chain-gemv", 120, 720, chain)
    mesh = ("--tile", 24, "--group-size", 15)
    yield "wse3", "meshgemv: cycles a PE", "checked", 2 + 11 / 30, slope(simulator, "wse3", "meshgemv", 360, 720, mesh)
    layer = ("--d", 10, "--s", 10, "--f", 35, "--groups", 22)
    for target, per_pe in (("wse2", 1.5), ("wse3", 2.4)):
        found = slope(simulator, target, "decode-layer", 420, 660, layer) / 10
        yield target, "decode-layer: cycles a PE and allreduce", "checked", per_pe, found
    ratios = {t: product(simulator, "wse3", "summa", 360, t) / product(simulator, "wse3", "meshgemm", 360, t) for t in range(6, 13)}
    yield "wse3", "first tile at which summa beats meshgemm (8 to 12)", "checked", 10, min(t for t, r in ratios.items() if r < 1)


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
        for target, what, role, known, found in published(simulator):
            print(f"{target}  {what:<62} {role}  {known:>8.2f} {found:>8.2f} {100 * (found / known - 1):>+7.1f} %")
    if args.fit:
        values, left = fit(simulator, args.fit)
        for key, value in values.items():
            print(f"  {key:<24} {value:.3f}")
        print("  left:", " ".join(f"{100 * r:+.2f}" for r in left), "%")


if __name__ == "__main__":
    main()
