"""The table of scripts/bench-peers.sh, from what it left in its folder: ratios of p2pmap to each peer
with the interval that `bench compare` gives, CPU time per operation, bytes per key, and the targets.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

# What is aimed for: way, scenario, metric, and against whom; `best` is the better of the peers.
TARGETS = [
    ("spin", "get-c50", "throughput", "best", ">=", 1.8),
    ("spin", "put-c50", "throughput", "best", ">=", 1.8),
    ("spin", "get-c50-p64", "throughput", "best", ">=", 2.0),
    ("spin", "put-c50-p64", "throughput", "best", ">=", 2.0),
    ("spin", "put-sync-c50", "throughput", "best", ">=", 3.0),
    ("spin", "put-sync-c50-p64", "throughput", "best", ">=", 2.0),
    ("park", "get-1", "p50", "best", "<=", 1.0),
    ("spin", "get-1", "p50", "best", "<=", 0.2),
    ("spin", "put-sync-c50", "throughput", "etcd", ">=", 20.0),
    ("spin", "put-sync-c50", "p99", "etcd", "<=", 0.1),
]


def ratios(folder):
    """By way, peer, scenario and metric: `(theirs, ours, ratio, interval)`."""
    found = {}
    for line in (folder / "ratios.txt").read_text().splitlines():
        peer, ours, comparison = line.split(" ", 2)
        way = ours.removeprefix("p2pmap-").removesuffix("-sync")
        for scenario in json.loads(comparison)["scenarios"]:
            for metric in scenario["metrics"]:
                key = (way, peer.removesuffix("-sync"), scenario["name"], metric["name"])
                found[key] = (metric["a"], metric["b"], metric["ratio"], metric["interval"])
    return found


def better(found, way, scenario, metric):
    """The better of the peers but etcd, whose durability costs more than theirs."""
    peers = [
        key[1]
        for key in found
        if (key[0], key[2], key[3]) == (way, scenario, metric) and key[1] != "etcd"
    ]
    value = lambda peer: found[(way, peer, scenario, metric)][0]
    if not peers:
        return None
    return max(peers, key=value) if metric == "throughput" else min(peers, key=value)


def shown(metric, value):
    return f"{value:,.0f}/s" if metric == "throughput" else f"{value / 1000:,.1f} us"


def target(found, way, peer, scenario, metric):
    for of_way, of_scenario, of_metric, against, sign, bound in TARGETS:
        if (of_way, of_scenario, of_metric) != (way, scenario, metric):
            continue
        if against != peer and not (
            against == "best" and peer == better(found, way, scenario, metric)
        ):
            continue
        ratio = found[(way, peer, scenario, metric)][2]
        is_met = ratio >= bound if sign == ">=" else ratio <= bound
        return f"{sign} {bound:g} {'met' if is_met else 'MISSED'}"
    return ""


def tsv(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


def main():
    folder = Path(sys.argv[1])
    found = ratios(folder)
    columns = "{:<17} {:<7} {:<11} {:>5} {:>13} {:>13} {:>7}  {:<17} {}"
    print()
    print(columns.format(
        "scenario", "peer", "metric", "ours", "peer's", "ours", "ratio", "95 % interval", "target"
    ))
    for key in sorted(found, key=lambda key: (key[2], key[3] != "throughput", key[3], key[1])):
        way, peer, scenario, metric = key
        if metric not in ("throughput", "p50", "p99"):
            continue
        theirs, ours, ratio, interval = found[key]
        interval = f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "too few rounds"
        print(columns.format(
            scenario, peer, metric, way, shown(metric, theirs), shown(metric, ours),
            f"{ratio:.2f}", interval, target(found, way, peer, scenario, metric),
        ))

    print("\nCPU time of the server per operation, in ns: the median of the rounds, and their range")
    print("(one that spins is always busy: what it needs is what the parked one takes)")
    cpu = defaultdict(list)
    for _, server, scenario, ns in tsv(folder / "cpu.tsv"):
        if "-spin" not in server:
            cpu[(scenario, server)].append(float(ns))
    for (scenario, server), values in sorted(cpu.items()):
        middle = statistics.median(values)
        print(f"{scenario:<17} {server:<17} {middle:>9,.0f}  {min(values):,.0f} to {max(values):,.0f}")

    memory = [line.split() for line in (folder / "memory.tsv").read_text().splitlines()]
    if memory:
        print("\nresident bytes per key (16 B + 64 B), without what an empty server takes")
        of = {server: int(size) for server, size in memory}
        for server, size in of.items():
            print(f"{server:<17} {size:>9}")
        if "valkey" in of:
            is_met = of["p2pmap-park"] <= of["valkey"]
            print(f"target: at most Valkey's: {'met' if is_met else 'MISSED'}")

    own = defaultdict(list)
    for _, server, depth, name, rate in tsv(folder / "redis-benchmark.tsv"):
        own[(server, int(depth), name)].append(float(rate))
    if own:
        print("\nwhat redis-benchmark says of them, 50 connections (median of the rounds)")
        for (server, depth, name), rates in sorted(own.items()):
            print(f"{server:<17} {name} depth {depth:<3} {statistics.median(rates):>12,.0f}/s")


if __name__ == "__main__":
    main()
