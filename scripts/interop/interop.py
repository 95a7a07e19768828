"""What a client written with Google's Python library sees of a node: values, versions, statuses.

Each function whose name begins with `check_` is one fact. Run by scripts/interop-grpcio.sh.
"""

import argparse
import concurrent.futures
import os
import queue
import sys
import threading
import time
import traceback

import grpc

import health_pb2
import health_pb2_grpc
from atomix.p2p_map import p2p_map_pb2 as atomix
from atomix.p2p_map import p2p_map_pb2_grpc
from atomix.primitive import primitive_pb2
from p2pmap.v1 import map_pb2

MAP = "interop"
CONNECT = "/atomix.map.P2PMapService/Connect"
# Requests that one stream has unanswered at most.
WINDOW_COUNT = 256
# No single wait takes longer: a node that hangs is a failure, not a hanging script.
WAIT_S_MAX = 60
# Keys of different runs against one node differ.
RUN = f"{os.getpid()}-{time.time_ns()}"


def command(correlation, **operation):
    body = map_pb2.Command(map=MAP, **operation)
    request = atomix.CommandRequest(message_id=correlation, value=body.SerializeToString())
    return atomix.Message(target=primitive_pb2.Name(name=MAP), command=request)


def query(correlation, **operation):
    body = map_pb2.Query(map=MAP, **operation)
    request = atomix.QueryRequest(message_id=correlation, value=body.SerializeToString())
    return atomix.Message(target=primitive_pb2.Name(name=MAP), query=request)


def put(correlation, key, value):
    return command(correlation, put=map_pb2.Put(key=key, value=value))


def get(correlation, key):
    return query(correlation, get=map_pb2.Get(key=key))


def answer(message):
    """The correlation id, the index and the result of a response."""
    kind = message.WhichOneof("message")
    if kind == "command_response":
        response = message.command_response
        return response.message_id, response.index, map_pb2.Result.FromString(response.value)
    assert kind == "query_response", f"a response is of kind {kind}"
    response = message.query_response
    indexed = atomix.Indexed.FromString(response.value)
    return response.message_id, indexed.index, map_pb2.Result.FromString(indexed.value)


class Stream:
    """A `Connect` stream. `send` blocks while too much is unanswered."""

    def __init__(self, channel, **options):
        self.requests = queue.SimpleQueue()
        self.room = threading.Semaphore(WINDOW_COUNT)
        stub = p2p_map_pb2_grpc.P2PMapServiceStub(channel)
        options.setdefault("timeout", WAIT_S_MAX)
        self.call = stub.Connect(iter(self.requests.get, None), **options)

    def send(self, message):
        assert self.room.acquire(timeout=WAIT_S_MAX), "the node stopped answering"
        self.requests.put(message)

    def receive(self):
        message = next(self.call)
        self.room.release()
        return message

    def ask(self, message):
        self.send(message)
        return answer(self.receive())

    def half_close(self):
        self.requests.put(None)

    def end(self):
        """Half-closes; no answer may be left, and the status has to be OK."""
        self.half_close()
        rest = list(self.call)
        assert not rest, f"{len(rest)} answers too many"
        assert self.call.code() == grpc.StatusCode.OK, self.call.code()


def exchange(stream, requests, expected_count):
    """Sends all requests, pipelined, and returns the answers by correlation id."""

    def send_all():
        for request in requests:
            stream.send(request)

    sender = threading.Thread(target=send_all, daemon=True)
    sender.start()
    answers = {}
    for _ in range(expected_count):
        correlation, index, result = answer(stream.receive())
        assert correlation not in answers, f"{correlation} was answered twice"
        answers[correlation] = (index, result)
    sender.join(WAIT_S_MAX)
    return answers


def put_and_get(channel, name, count):
    """Puts and gets `count` keys over one stream and checks each answer."""
    stream = Stream(channel)
    key = lambda place: f"{RUN}/{name}/{place}".encode()
    value = lambda place: f"value {place} of {name}".encode() * (1 + place % 5)

    puts = (put(1 + place, key(place), value(place)) for place in range(count))
    written = exchange(stream, puts, count)
    for place in range(count):
        index, result = written[1 + place]
        assert result.WhichOneof("outcome") == "written", f"put {place}: {result}"
        assert result.written.version == index > 0, f"put {place} at {index}: {result}"

    gets = (get(count + 1 + place, key(place)) for place in range(count))
    found = exchange(stream, gets, count)
    for place in range(count):
        index, result = found[count + 1 + place]
        assert result.WhichOneof("outcome") == "found", f"get {place}: {result}"
        entry = result.found.entry
        assert entry.value == value(place), f"get {place}: {result}"
        assert entry.version == written[1 + place][0], f"get {place}: {result}"
        assert index >= entry.version, f"get {place} reflects {index}: {result}"
    stream.end()


def expect_status(call, code):
    """The call ends with the status; what came before is returned."""
    messages = []
    try:
        for message in call:
            messages.append(message)
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        return messages, error.details()
    raise AssertionError(f"the stream ended with OK instead of {code}")


def check_one_stream(channel, count):
    put_and_get(channel, "one", count)


def check_eight_streams(channel, count):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        done = [pool.submit(put_and_get, channel, f"eight-{i}", count // 8) for i in range(8)]
        for future in done:
            future.result()


def check_long_value(channel, count):
    stream = Stream(channel)
    key, value = f"{RUN}/long".encode(), os.urandom(1 << 20)
    _, index, result = stream.ask(put(1, key, value))
    assert result.written.version == index, result
    _, _, result = stream.ask(get(2, key))
    assert result.found.entry.value == value
    stream.end()


def check_absent_key(channel, count):
    stream = Stream(channel)
    correlation, _, result = stream.ask(get(7, f"{RUN}/absent".encode()))
    assert correlation == 7
    assert result.WhichOneof("outcome") == "found" and not result.found.HasField("entry"), result
    stream.end()


def check_refused_request(channel, count):
    """A request that is understood and wrong is answered, and its stream goes on."""
    stream = Stream(channel)
    correlation, _, result = stream.ask(put(8, b"", b"value"))
    assert correlation == 8
    assert result.error.code == map_pb2.Error.INVALID_ARGUMENT, result
    assert result.error.message, "the error says nothing"
    correlation, _, _ = stream.ask(get(9, b"key"))
    assert correlation == 9
    stream.end()


def check_empty_message_ends_stream(channel, count):
    stream = Stream(channel)
    stream.ask(get(1, b"key"))
    stream.send(atomix.Message())
    _, details = expect_status(stream.call, grpc.StatusCode.INVALID_ARGUMENT)
    assert details, "the status says nothing"


def check_undecodable_message_ends_stream(channel, count):
    method = channel.stream_stream(CONNECT)
    call = method(iter([b"\xff\xff\xff\xff"]), timeout=WAIT_S_MAX)
    expect_status(call, grpc.StatusCode.INVALID_ARGUMENT)


def check_members_message_is_denied(channel, count):
    stream = Stream(channel)
    stream.send(atomix.Message(start_view=atomix.StartView(sender_id="me")))
    expect_status(stream.call, grpc.StatusCode.PERMISSION_DENIED)


def check_too_long_message(channel, count):
    method = channel.stream_stream(CONNECT)
    call = method(iter([bytes((4 << 20) + 1)]), timeout=WAIT_S_MAX)
    expect_status(call, grpc.StatusCode.RESOURCE_EXHAUSTED)


def check_compression_is_refused(channel, count):
    stream = Stream(channel, compression=grpc.Compression.Gzip)
    stream.send(get(1, b"key" * 100))
    expect_status(stream.call, grpc.StatusCode.UNIMPLEMENTED)


def check_unknown_method(channel, count):
    for path in ("/atomix.map.P2PMapService/Nothing", "/no.Service/Connect"):
        try:
            channel.unary_unary(path)(b"", timeout=WAIT_S_MAX)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
        else:
            raise AssertionError(f"{path} was answered")


def check_headers_come_at_once(channel, count):
    stream = Stream(channel)
    assert stream.call.initial_metadata() is not None
    stream.end()


def check_cancel(channel, count):
    stream = Stream(channel)
    other = Stream(channel)
    stream.ask(put(1, b"cancel", b"value"))
    stream.send(get(2, b"cancel"))
    stream.call.cancel()
    assert stream.call.code() == grpc.StatusCode.CANCELLED, stream.call.code()
    stream.half_close()
    correlation, _, _ = other.ask(get(3, b"cancel"))
    assert correlation == 3
    other.end()


def check_deadline(channel, count):
    began = time.monotonic()
    stream = Stream(channel, timeout=0.3)
    stream.ask(get(1, b"key"))
    expect_status(stream.call, grpc.StatusCode.DEADLINE_EXCEEDED)
    took = time.monotonic() - began
    assert 0.25 < took < 5, f"it took {took:.3f} s"
    stream.half_close()


def check_health(channel, count):
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "atomix.map.P2PMapService"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=WAIT_S_MAX).status == serving
        watch = stub.Watch(request, timeout=WAIT_S_MAX)
        assert next(watch).status == serving
        watch.cancel()
    try:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=WAIT_S_MAX)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("an unknown service is healthy")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    checks = [(n, f) for n, f in globals().items() if n.startswith("check_")]
    failed = 0
    with grpc.insecure_channel(arguments.address, options=options) as channel:
        grpc.channel_ready_future(channel).result(timeout=WAIT_S_MAX)
        for name, check in checks:
            began = time.monotonic()
            try:
                check(channel, arguments.count)
                outcome = "ok"
            except Exception:  # Each check is judged, whatever the others did.
                traceback.print_exc()
                outcome = "FAILED"
                failed += 1
            took_ms = 1_000 * (time.monotonic() - began)
            print(f"{name.removeprefix('check_'):32} {outcome:8} {took_ms:9.1f} ms", flush=True)
    print(f"grpcio {grpc.__version__}: {len(checks) - failed} of {len(checks)} checks passed")
    # Threads of abandoned streams must not keep the process.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


if __name__ == "__main__":
    main()
