"""The table of scripts/bench-cluster.sh, from what it left in its folder: what p2pmap, Redis and etcd
did, ratios with the interval that `bench compare` gives, CPU time per operation, and the targets.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

# What the reference implementation in C++ does: three replicas in memory, 64 clients, null operation.
REFERENCE = "33 k/s with 64 clients and 10 us of CPU time per operation at the leader"

# What is aimed for, of one server alone: server, scenario, what, sign, bound.
OWN_TARGETS = [
    ("p2pmap", "cluster-put", "throughput", ">=", 100_000),
    ("p2pmap", "cluster-put", "leader", "<=", 5_000),
]
# And as ratios: peer, ours, scenario, metric, sign, bound.
RATIO_TARGETS = [
    ("redis-sync", "p2pmap-sync", "cluster-put", "throughput", ">=", 3.0),
    ("etcd-sync", "p2pmap-sync", "cluster-put", "throughput", ">=", 20.0),
    ("etcd-sync", "p2pmap-sync", "cluster-put", "p99", "<=", 0.2),
]


def verdict(value, sign, bound):
    is_reached = value >= bound if sign == ">=" else value <= bound
    return "reached" if is_reached else "MISSED"


def spread(values, scale=1.0, digits=0):
    """The median, and from where to where."""
    low, middle, high = (
        f"{value / scale:,.{digits}f}"
        for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def summaries(folder):
    """By server and scenario: the summaries of all rounds, without those of failovers."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*/*/round-*/summary.json")):
        server, scenario = path.parts[-4:-2]
        if not scenario.startswith("failover"):
            found[(scenario, server)].append(json.loads(path.read_text()))
    return found


def usage(folder):
    """By scenario and server, a row for each round: CPU time in ns per operation of the leader and of
    all servers, shares of the time that they waited for a core and that the host took, how busy the
    generator was, in percent, and errors."""
    found = defaultdict(list)
    for line in (folder / "cpu.tsv").read_text().splitlines():
        _, server, scenario, *values = line.split("\t")
        found[(scenario, server)].append([float(value) for value in values])
    return found


def ratios(folder):
    """By theirs, ours, scenario and metric: `(ratio, interval)`."""
    found = {}
    for line in (folder / "ratios.txt").read_text().splitlines():
        theirs, ours, comparison = line.split(" ", 2)
        for scenario in json.loads(comparison)["scenarios"]:
            for metric in scenario["metrics"]:
                if metric["name"] not in ("throughput", "p50", "p99"):
                    continue
                key = (theirs, ours, scenario["name"], metric["name"])
                found[key] = (metric["ratio"], metric["interval"])
    return found


def print_measured(measured, used):
    row = "{:<16} {:<19} {:>28} {:>9} {:>10} {:>23} {:>23}  {:>5} {:>5} {:>5} {:>6}"
    print("\nmedians of the rounds, with their range; CPU time per operation in us;")
    print("wait: cores' worth of ready server threads without a core; steal: cores the host took;")
    print("busy: the generator's share of its core, in percent; errors of all rounds: refusals,")
    print("writes of unknown outcome, answers that never came")
    print(row.format(
        "scenario", "servers", "puts/s", "p50 us", "p99 us", "CPU, leader", "CPU, all three",
        "wait", "steal", "busy", "errors",
    ))
    for key, rounds in sorted(measured.items()):
        of = lambda name: statistics.median(
            one["latency_ns"]["percentiles"][name] / 1_000 for one in rounds
        )
        rates = spread([one["throughput_per_s"] for one in rounds])
        leader, everyone, wait, steal, busy, errors = zip(*used[key])
        # Where each leads some partitions there is no leader to look at.
        at_leader = "-" if "spread" in key[1] else spread(leader, 1_000, 1)
        print(row.format(
            *key, rates, f"{of('p50'):,.0f}", f"{of('p99'):,.0f}", at_leader,
            spread(everyone, 1_000, 1), f"{statistics.median(wait):.2f}",
            f"{statistics.median(steal):.2f}", f"{statistics.median(busy):.0f}",
            f"{sum(errors):.0f}",
        ))


def print_ratios(found):
    row = "{:<16} {:<11} {:<19} {:<11} {:>6}  {}"
    print("\np2pmap / peer, with the 95 % interval over the rounds")
    print(row.format("scenario", "peer", "p2pmap", "metric", "ratio", "interval"))
    order = lambda key: (key[2], key[3] != "throughput", key[3], key[0], key[1])
    for key in sorted(found, key=order):
        theirs, ours, scenario, metric = key
        ratio, interval = found[key]
        interval = f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "too few rounds"
        print(row.format(scenario, theirs, ours, metric, f"{ratio:.2f}", interval))


def print_targets(measured, used, found):
    print("\ntargets")
    for server, scenario, what, sign, bound in OWN_TARGETS:
        key = (scenario, server)
        if key not in measured:
            continue
        if what == "throughput":
            value = statistics.median(one["throughput_per_s"] for one in measured[key])
            shown, wanted = f"{value:,.0f}/s", f"{sign} {bound:,}/s"
        else:
            value = statistics.median(leader for leader, *_ in used[key])
            shown, wanted = f"{value / 1_000:.1f} us", f"{sign} {bound / 1_000:g} us"
            what = "CPU time of the leader"
        print(f"{server}, {scenario}: {what} {shown}, wanted {wanted}:"
              f" {verdict(value, sign, bound)}")
    for theirs, ours, scenario, metric, sign, bound in RATIO_TARGETS:
        if (theirs, ours, scenario, metric) not in found:
            continue
        ratio, _ = found[(theirs, ours, scenario, metric)]
        print(f"{ours} / {theirs}, {scenario}: {metric} {ratio:.2f}, wanted {sign} {bound:g}:"
              f" {verdict(ratio, sign, bound)}")
    print(f"for reference, elsewhere: NOPaxos in C++ does {REFERENCE}")


def print_failovers(folder):
    found = defaultdict(list)
    for path in sorted(folder.glob("*/failover-*/round-*/summary.json")):
        found[path.parts[-3]].append(json.loads(path.read_text())["latency_ns"])
    if not found:
        return
    print("\nlongest time without an acknowledged put of each partition that the victim led, in ms")
    print("(Redis Sentinel: 30,000 ms by default until a master counts as down)")
    for scenario, rounds in sorted(found.items()):
        count = sum(one["count"] for one in rounds)
        p50 = spread([one["percentiles"]["p50"] for one in rounds], 1e6, 1)
        longest = max(one["max"] for one in rounds) / 1e6
        print(f"{scenario:<16} {count:>6} gaps, p50 of the rounds {p50}, longest {longest:,.1f}")


def main():
    folder = Path(sys.argv[1])
    measured, used, found = summaries(folder), usage(folder), ratios(folder)
    print_measured(measured, used)
    print_ratios(found)
    print_targets(measured, used, found)
    print_failovers(folder)


if __name__ == "__main__":
    main()
