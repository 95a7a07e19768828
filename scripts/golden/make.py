#!/usr/bin/env python3
"""Makes tests/golden/*.txt: messages as another implementation of protobuf encodes them.

    python3 -m venv venv && venv/bin/pip install -r scripts/golden/requirements.txt
    venv/bin/python scripts/golden/make.py DOCUMENT

DOCUMENT is the generated documentation of `atomix.map`: it has messages, fields, types and labels, but
no field numbers. The descriptors of `atomix.map` are built from its tables, with the numbers 1, 2, 3 ...
in its order, and not from our .proto: so the golden bytes prove our numbers. That our .proto says the same is
checked as well, and nothing is written unless it does. The messages of `p2pmap.v1` have no such document;
theirs are compiled from our .proto by protoc.

Each line of the output is `message case mode hex json`, separated by tabs:

    mode  `=`: encoding the decoded message gives the same bytes; `<`: it is only read
    json  the fields that are set: bytes in hex, an enum's number, a oneof's member by its name
"""

import argparse
import json
import pathlib
import re
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from grpc_tools import protoc

Field = descriptor_pb2.FieldDescriptorProto

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAP_PROTO = "atomix/p2p_map/p2p_map.proto"
PRIMITIVE_PROTO = "atomix/primitive/primitive.proto"
TIMESTAMP_PROTO = "google/protobuf/timestamp.proto"
V1_PROTOS = ["p2pmap/v1/map.proto", "p2pmap/v1/peer.proto"]
SCALARS = {"uint64": Field.TYPE_UINT64, "string": Field.TYPE_STRING, "bytes": Field.TYPE_BYTES}
MESSAGE_COUNT = 28


# ---- the document ----


def tables(document):
    """The document's messages, in its order: [(name, [(field, type, label)])]."""
    sections = re.findall(
        r'<a name="atomix\.map\.(\w+)"></a>\s*### (\w+)\s*\n(.*?)(?=<a name=|\Z)', document, re.S
    )
    messages = []
    for anchor, title, text in sections:
        rows = re.findall(r"^\| (\w+) \| \[[\w.]+\]\(#([\w.]+)\) \| (\w*) ?\|.*\|$", text, re.M)
        if rows:
            assert anchor == title, f"the anchor {anchor} stands above {title}"
            messages.append((title, rows))
    return messages


def described_file(messages):
    """A descriptor of `atomix.map` made of the document's tables."""
    file = descriptor_pb2.FileDescriptorProto(
        name=MAP_PROTO, package="atomix.map", syntax="proto3"
    )
    file.dependency.extend([PRIMITIVE_PROTO, TIMESTAMP_PROTO])
    for name, rows in messages:
        message = file.message_type.add(name=name)
        if name == "Message":
            message.oneof_decl.add(name="message")
        for number, (field_name, type_name, label) in enumerate(rows, start=1):
            field = message.field.add(name=field_name, number=number)
            assert label in ("", "repeated"), f"{name}.{field_name} is {label}"
            field.label = Field.LABEL_REPEATED if label else Field.LABEL_OPTIONAL
            if type_name in SCALARS:
                field.type = SCALARS[type_name]
            else:
                field.type = Field.TYPE_MESSAGE
                field.type_name = f".{type_name}"
            if name == "Message" and number > 1:
                field.oneof_index = 0
    return file


def primitive_file():
    """`atomix.primitive.Name`, to which the document only links."""
    file = descriptor_pb2.FileDescriptorProto(
        name=PRIMITIVE_PROTO, package="atomix.primitive", syntax="proto3"
    )
    name = file.message_type.add(name="Name")
    for number, field in enumerate(["name", "namespace"], start=1):
        name.field.add(
            name=field, number=number, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL
        )
    return file


def compiled_files():
    """Our .proto files as protoc reads them."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "descriptors"
        include = pathlib.Path(protoc.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", "--include_imports"]
        arguments += [f"--descriptor_set_out={out}", MAP_PROTO, *V1_PROTOS]
        if protoc.main(arguments) != 0:
            sys.exit("protoc failed")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file


def check_agreement(described, compiled, document):
    """Our .proto is what the document says: the same messages, fields, numbers, types, labels."""

    def shape(file):
        return {
            message.name: [
                (f.number, f.name, f.type, f.type_name, f.label, f.HasField("oneof_index"))
                for f in sorted(message.field, key=lambda field: field.number)
            ]
            for message in file.message_type
        }

    ours, theirs = shape(compiled), shape(described)
    if len(theirs) != MESSAGE_COUNT:
        sys.exit(f"the document has {len(theirs)} messages, not {MESSAGE_COUNT}")
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            sys.exit(f"{name}: ours is {ours.get(name)}, the document's {theirs.get(name)}")
    for message in compiled.message_type:
        for field in message.field:
            if field.options.HasField("packed") or field.proto3_optional:
                sys.exit(f"{message.name}.{field.name} has options that the document hasn't")
    method = compiled.service[0].method[0]
    streams = (method.client_streaming, method.server_streaming)
    ours = (compiled.service[0].name, method.name, method.input_type, method.output_type, streams)
    message = ".atomix.map.Message"
    theirs = ("P2PMapService", "Connect", message, message, (True, True))
    if ours != theirs or "| Connect | [Message](#atomix.map.Message) stream |" not in document:
        sys.exit(f"the service is {ours}")


# ---- values ----


class Values:
    """Values that differ from each other, so that no two fields can be mixed up."""

    def __init__(self):
        self.count = 0

    def next(self, field):
        self.count += 1
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            text = f"{field.name}-{self.count}-é"
            if field.type == FieldDescriptor.TYPE_STRING:
                return text
            return bytes([0, 0xFF]) + text.encode()
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return True
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return 1 + self.count % (len(field.enum_type.values) - 1)
        if field.containing_type.full_name == "google.protobuf.Timestamp" and field.name == "nanos":
            return 999_000_000 + self.count
        return 1_000 + 77 * self.count


def most(field):
    """The most that a number holds; of bytes, as many as need a length of two bytes."""
    return {
        FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
        FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
        FieldDescriptor.CPPTYPE_INT64: 2**63 - 1,
        FieldDescriptor.CPPTYPE_INT32: 2**31 - 1,
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_ENUM: 2**31 - 1,
        FieldDescriptor.CPPTYPE_STRING: "\U0010FFFF" + 124 * "z"
        if field.type == FieldDescriptor.TYPE_STRING
        else bytes(range(128, 256)),
    }[field.cpp_type]


SIGNED = {
    FieldDescriptor.CPPTYPE_INT64: -(2**63),
    FieldDescriptor.CPPTYPE_INT32: -(2**31),
    FieldDescriptor.CPPTYPE_ENUM: -(2**31),
}


def least(field):
    """The least that a field with a sign holds."""
    return SIGNED.get(field.cpp_type)


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def set_field(message, field, scalar, filled=True):
    """Sets one field; what is below it is set whole, or left empty."""
    if is_map(field):
        if scalar is not least:
            getattr(message, field.name)["member-a"] = scalar(field.message_type.fields[1])
    elif field.message_type and field.is_repeated:
        for _ in range(2):
            item = getattr(message, field.name).add()
            if filled:
                fill(item, scalar)
    elif field.message_type:
        part = getattr(message, field.name)
        part.SetInParent()
        if filled:
            fill(part, scalar)
    elif field.is_repeated:
        if scalar is not least:
            values = [scalar(field), 0, scalar(field), 1, 127, 128]
            getattr(message, field.name).extend(values)
    else:
        value = scalar(field)
        if value is not None:
            setattr(message, field.name, value)


def fill(message, scalar, member=None):
    """Sets all fields; of a oneof only `member`, or the first."""
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is None or field.name == (member or oneof.fields[0].name):
            set_field(message, field, scalar)


def described(message):
    """What is set, for comparing values."""
    out = {}
    for field, value in message.ListFields():
        if is_map(field):
            out[field.name] = dict(sorted(value.items()))
        elif field.is_repeated:
            out[field.name] = [plain(field, item) for item in value]
        else:
            out[field.name] = plain(field, value)
    return out


def plain(field, value):
    if field.message_type:
        return described(value)
    return value.hex() if isinstance(value, bytes) else value


# ---- cases ----


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def cases(cls, values):
    """[(case, mode, bytes, message)] of a class."""
    out = []

    def add(name, message):
        out.append((name, "=", message.SerializeToString(deterministic=True), message))

    add("empty", cls())
    for field in cls.DESCRIPTOR.fields:
        message = cls()
        set_field(message, field, values.next)
        add(field.name, message)
        if field.message_type and not is_map(field):
            message = cls()
            set_field(message, field, values.next, filled=False)
            add(f"{field.name}.empty", message)
        if field.containing_oneof and not field.message_type:
            message = cls()
            setattr(message, field.name, field.default_value)
            add(f"{field.name}.zero", message)
        if is_map(field):
            message = cls()
            getattr(message, field.name).update({"a": 1, "b": 0, "c": 2**64 - 1})
            encoded = message.SerializeToString(deterministic=True)
            out.append((f"{field.name}.many", "<", encoded, message))
        if field.is_repeated and not field.message_type:
            out.extend(unpacked(cls, field))
    oneofs = cls.DESCRIPTOR.oneofs
    for member in oneofs[0].fields if oneofs else [None]:
        name = member.name if member else None
        suffix = f".{name}" if name else ""
        message = cls()
        fill(message, values.next, name)
        add(f"all{suffix}", message)
    message = cls()
    fill(message, most)
    add("most", message)
    if has_signed(cls.DESCRIPTOR):
        message = cls()
        fill(message, least)
        add("least", message)
    return out


def has_signed(descriptor):
    return any(
        has_signed(field.message_type) if field.message_type else field.cpp_type in SIGNED
        for field in descriptor.fields
    )


def unpacked(cls, field):
    """A repeated number in the forms that are read but not written."""
    numbers = [5, 0, 300, most(field)]
    message = cls()
    getattr(message, field.name).extend(numbers)
    each = b"".join(varint(field.number << 3) + varint(number) for number in numbers)
    pack = lambda part: varint(field.number << 3 | 2) + varint(len(part)) + part
    first, rest = numbers[:1], numbers[1:]
    packs = pack(b"".join(map(varint, first))) + pack(b"") + pack(b"".join(map(varint, rest)))
    mixed = pack(varint(numbers[0])) + b"".join(
        varint(field.number << 3) + varint(number) for number in rest
    )
    for name, encoded in (("unpacked", each), ("packs", packs), ("mixed", mixed)):
        assert cls.FromString(encoded) == message, "this implementation reads it too"
        yield f"{field.name}.{name}", "<", encoded, message


def write(path, title, pool, names, values):
    lines = [f"# {title} Made by scripts/golden/make.py; not to be edited."]
    for name in names:
        cls = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for case, mode, encoded, message in cases(cls, values):
            assert cls.FromString(encoded) == message
            text = json.dumps(described(message), ensure_ascii=True, separators=(",", ":"))
            lines.append("\t".join([name, case, mode, encoded.hex() or "-", text]))
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines) - 1} cases of {len(names)} messages")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("document", type=pathlib.Path, help="the documentation of atomix.map")
    document = parser.parse_args().document.read_text()
    golden = ROOT / "tests" / "golden"

    timestamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    from_document = described_file(tables(document))
    compiled = {file.name: file for file in compiled_files()}
    check_agreement(from_document, compiled[MAP_PROTO], document)

    pool = descriptor_pool.DescriptorPool()
    for file in (timestamp, primitive_file(), from_document):
        pool.Add(file)
    names = [f"atomix.map.{message.name}" for message in from_document.message_type]
    title = "The messages of atomix.map, numbered as their document orders them."
    write(golden / "atomix_map.txt", title, pool, ["atomix.primitive.Name", *names], Values())

    pool = descriptor_pool.DescriptorPool()
    for file in (timestamp, *(f for f in compiled.values() if f.name != TIMESTAMP_PROTO)):
        pool.Add(file)
    names = [f"p2pmap.v1.{m.name}" for name in V1_PROTOS for m in compiled[name].message_type]
    title = "The messages of p2pmap.v1, as protoc compiles them."
    write(golden / "p2pmap_v1.txt", title, pool, names, Values())


if __name__ == "__main__":
    main()
