"""Runs a command under the filter that a container's seccomp profile describes.

    under.py PROFILE [--without NAME]... -- COMMAND...

Does what a container runtime does with the profile, for this machine: everything that no rule
names gets the profile's errno. `--without` takes a system call out of it. Rules that depend on
capabilities or kernels aren't known here, and refused. Needs the kernel's headers for the numbers
of the calls; x86-64 only.
"""

import ctypes
import json
import os
import re
import struct
import sys

HEADER = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
AUDIT_ARCH_X86_64 = 0xC000003E
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
# Loads, jumps and returns of classic BPF; offsets into what the kernel shows of a call.
LOAD, JUMP_EQUAL, AND, RETURN = 0x20, 0x15, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16


def numbers():
    with open(HEADER, encoding="ascii") as header:
        found = re.findall(r"#define __NR_(\w+) (\d+)", header.read())
    return {name: int(number) for name, number in found}


def action_of(name, rule):
    if name == "SCMP_ACT_ALLOW":
        return ALLOW
    if name == "SCMP_ACT_ERRNO":
        return ERRNO | rule.get("errnoRet", rule.get("defaultErrnoRet", 1))
    raise SystemExit(f"unknown action {name}")


def rule_code(number, rule):
    """If the call is this one and its arguments match: the rule's action; else: go on."""
    body = []
    for argument in rule.get("args", []):
        value, second = argument["value"], argument.get("valueTwo", 0)
        body.append((LOAD, 0, 0, ARGUMENTS + 8 * argument["index"]))
        operator = argument["op"]
        if operator == "SCMP_CMP_MASKED_EQ":
            body += [(AND, 0, 0, value), (JUMP_EQUAL, "next", "out", second)]
        elif operator == "SCMP_CMP_EQ":
            body.append((JUMP_EQUAL, "next", "out", value))
        elif operator == "SCMP_CMP_NE":
            body.append((JUMP_EQUAL, "out", "next", value))
        else:
            raise SystemExit(f"unknown comparison {operator}")
    body.append((RETURN, 0, 0, action_of(rule["action"], rule)))
    code = [(LOAD, 0, 0, NUMBER), (JUMP_EQUAL, "next", "out", number)] + body
    place = {"next": lambda at: 0, "out": lambda at: len(code) - at - 1}
    fix = lambda jump, at: place[jump](at) if isinstance(jump, str) else jump
    return [(op, fix(yes, at), fix(no, at), k) for at, (op, yes, no, k) in enumerate(code)]


def program(profile, without):
    known = numbers()
    code = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        (RETURN, 0, 0, KILL),
    ]
    for rule in profile["syscalls"]:
        if rule.keys() - {"comment", "names", "action", "args", "errnoRet"}:
            raise SystemExit(f"unknown condition in {rule}")
        for name in rule["names"]:
            # Names of other machines are passed over, as runtimes do.
            if name in known and name not in without:
                code += rule_code(known[name], rule)
    code.append((RETURN, 0, 0, action_of(profile["defaultAction"], profile)))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install(filter_bytes):
    libc = ctypes.CDLL(None, use_errno=True)
    memory = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
    count = len(filter_bytes) // 8
    descriptor = struct.pack("HxxxxxxQ", count, ctypes.addressof(memory))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SystemExit("no_new_privs is refused")
    pointer = ctypes.create_string_buffer(descriptor, len(descriptor))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, pointer, 0, 0) != 0:
        raise SystemExit(f"the filter is refused: {os.strerror(ctypes.get_errno())}")


def main():
    options, command = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    without = [options[at + 1] for at, option in enumerate(options) if option == "--without"]
    with open(options[0], encoding="utf-8") as file:
        profile = json.load(file)
    install(program(profile, without))
    os.execvp(command[0], command)


main()
