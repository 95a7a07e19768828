"""A client of three nodes as a Python user writes it, and what it sees when one is lost.

The client is `ClusterMap`: one channel with all addresses, gRPC's own load balancing and retries,
and a loop around each request for what gRPC can't repeat by itself. The rest is the test: three
nodes that speak gRPC to each other too, threads that write, and each node in turn killed and
started again. Run by scripts/interop-grpcio.sh.
"""

import argparse
import json
import pathlib
import signal
import socket
import subprocess
import threading
import time

import grpc

from atomix.p2p_map import p2p_map_pb2 as atomix
from atomix.p2p_map import p2p_map_pb2_grpc
from atomix.primitive import primitive_pb2
from p2pmap.v1 import map_pb2

# What gRPC does by itself: each call goes to the next node that is there, and a call that no node
# has begun to answer is made again.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "atomix.map.P2PMapService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
CHANNEL_OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # Made of several addresses, the one that gRPC would send is none that HTTP/2 allows.
    ("grpc.default_authority", "p2pmap"),
    # A node that comes back is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The channels of this process share nothing.
    ("grpc.use_local_subchannel_pool", 1),
]


class Failed(Exception):
    """A request failed in a way that trying again doesn't heal."""


class ClusterMap:
    """A map, by whichever node answers.

    A node answers in two ways that it can't do something now: with gRPC's UNAVAILABLE when it or
    its connection is lost, and with an error of that name in a result, when the partition has no
    leader. Both are tried again elsewhere. The map's third way, OUTCOME_UNKNOWN (the leader was
    lost with the request), is tried again as well: a put without condition may be done twice.
    """

    def __init__(self, addresses, name, patience_s=20):
        self.channel = grpc.insecure_channel("ipv4:" + ",".join(addresses), CHANNEL_OPTIONS)
        self.stub = p2p_map_pb2_grpc.P2PMapServiceStub(self.channel)
        self.name = name
        self.patience_s = patience_s
        # How often each reason to try again came up.
        self.retries = {}

    def put(self, key, value):
        operation = map_pb2.Put(key=key, value=value)
        command = map_pb2.Command(map=self.name, timeout_ms=2_000, put=operation)
        request = atomix.CommandRequest(message_id=1, value=command.SerializeToString())
        return self.ask(atomix.Message(target=self.target(), command=request)).written.version

    def get(self, key):
        query = map_pb2.Query(map=self.name, timeout_ms=2_000, get=map_pb2.Get(key=key))
        request = atomix.QueryRequest(message_id=1, value=query.SerializeToString())
        found = self.ask(atomix.Message(target=self.target(), query=request)).found
        return found.entry.value if found.HasField("entry") else None

    def target(self):
        return primitive_pb2.Name(name=self.name)

    def ask(self, message):
        end, pause_s = time.monotonic() + self.patience_s, 0.01
        while True:
            try:
                result = self.ask_once(message)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise Failed(f"{error.code()}: {error.details()}") from error
                reason = "UNAVAILABLE by gRPC"
            else:
                if result.WhichOneof("outcome") != "error":
                    return result
                reason = map_pb2.Error.Code.Name(result.error.code)
                if reason not in ("UNAVAILABLE", "OUTCOME_UNKNOWN"):
                    raise Failed(f"{reason}: {result.error.message}")
            self.retries[reason] = self.retries.get(reason, 0) + 1
            if time.monotonic() >= end:
                raise Failed(f"{reason} for {self.patience_s} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.2)

    def ask_once(self, message):
        answer = next(self.stub.Connect(iter([message]), timeout=10))
        if answer.WhichOneof("message") == "command_response":
            return map_pb2.Result.FromString(answer.command_response.value)
        indexed = atomix.Indexed.FromString(answer.query_response.value)
        return map_pb2.Result.FromString(indexed.value)

    def close(self):
        self.channel.close()


class Nodes:
    """Three nodes on loopback."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, pathlib.Path(folder)
        names = "abc"
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
        self.addresses = ["127.0.0.1:%d" % listener.getsockname()[1] for listener in sockets]
        for listener in sockets:
            listener.close()
        self.names = list(names)
        self.processes = [None] * len(names)

    def start(self, place):
        members = ",".join("=".join(member) for member in zip(self.names, self.addresses))
        name = self.names[place]
        command = [self.binary, "serve", "--node-id", name, "--members", members]
        command += ["--data-dir", str(self.folder / name), "--partitions", "8", "--cores", "0"]
        command += ["--segment-size", "8MiB", "--peer-protocol", "grpc"]
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.processes[place] = process

    def wait_ready(self, place):
        process = self.processes[place]
        for line in process.stdout:
            if line.startswith("ready"):
                return
        raise Failed(f"node {self.names[place]} has ended: {process.wait()}")

    def kill(self, place):
        self.processes[place].send_signal(signal.SIGKILL)
        self.processes[place].wait()
        self.processes[place] = None

    def end(self):
        for process in filter(None, self.processes):
            process.kill()
            process.wait()


class Writer(threading.Thread):
    """Writes its own keys one after the other, and reads each back."""

    def __init__(self, number, entries):
        super().__init__(daemon=True)
        self.number, self.entries = number, entries
        self.acknowledged = {}
        self.count = 0
        self.longest_s = 0.0
        self.failure = None
        self.stopping = threading.Event()

    def run(self):
        try:
            while not self.stopping.is_set():
                began = time.monotonic()
                key = b"%d/%d" % (self.number, self.count % 50)
                value = b"%d" % self.count
                self.entries.put(key, value)
                self.acknowledged[key] = value
                self.count += 1
                found = self.entries.get(key)
                assert found == value, f"{key}: {found} instead of {value}"
                self.longest_s = max(self.longest_s, time.monotonic() - began)
        except Exception as failure:  # It is told at the end, with what the others say.
            self.failure = failure


def wait_for_writes(writers, count):
    """Until each writer has written so many more, or has failed."""
    wanted = [writer.count + count for writer in writers]
    for _ in range(3_000):
        done = [writer.count >= least for writer, least in zip(writers, wanted)]
        if all(done) or any(writer.failure for writer in writers):
            return
        time.sleep(0.01)
    raise Failed("the writers get no further")


def run(nodes):
    for place in range(3):
        nodes.start(place)
    for place in range(3):
        nodes.wait_ready(place)
    entries = ClusterMap(nodes.addresses, "python")
    writers = [Writer(number, entries) for number in range(4)]
    for writer in writers:
        writer.start()
    for victim in range(3):
        wait_for_writes(writers, 50)
        nodes.kill(victim)
        wait_for_writes(writers, 100)
        nodes.start(victim)
        nodes.wait_ready(victim)
    wait_for_writes(writers, 50)
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive(), "a writer hangs"
    failures = [writer.failure for writer in writers if writer.failure]
    assert not failures, failures
    # Each node has every write, whichever nodes were lost while it was acknowledged.
    for address in nodes.addresses:
        single = ClusterMap([address], "python")
        for writer in writers:
            for key, value in writer.acknowledged.items():
                found = single.get(key)
                assert found == value, f"LOST at {address}: {key} is {found}, not {value}"
        single.close()
    entries.close()
    count = sum(writer.count for writer in writers)
    longest_ms = 1_000 * max(writer.longest_s for writer in writers)
    assert entries.retries, "no node was missed: nothing was tested"
    print(f"{count} puts and as many gets while each of three nodes was killed once: none lost")
    print(f"tried again: {entries.retries}; the longest took {longest_ms:.0f} ms")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True, help="the program p2pmap")
    parser.add_argument("--folder", required=True, help="where data directories and logs are put")
    arguments = parser.parse_args()
    nodes = Nodes(arguments.binary, arguments.folder)
    try:
        run(nodes)
    finally:
        nodes.end()


if __name__ == "__main__":
    main()
