#!/usr/bin/env python3
"""Where the processor time of a migration goes, stage by stage.

usage: stages.py RECORDING...

RECORDING is what `perf record -e cpu-clock -g -o RECORDING ...` wrote while both ends of a migration ran on one
machine. Each sample belongs to the stage of its system call or, in user space, of the function it was in; the end that
decrypts most is the importer. Prints seconds and shares, a column for each recording.
"""
import collections
import subprocess
import sys

# by system call: (exporter's stage, importer's stage)
CALLS = {
    "getdents64": ("walk", "survey"), "newfstatat": ("walk", "survey"), "faccessat2": ("walk", "survey"),
    "faccessat": ("walk", "survey"), "readlinkat": ("walk", "survey"),
    "openat": ("open", "create"), "openat2": ("open", "create"), "close": ("open", "metadata"), "fstat": ("open", "metadata"),
    "newfstat": ("open", "metadata"), "fadvise64": ("open", "write"),
    "read": ("read to hash", "read again"), "pread64": ("read to send", "read again"),
    "sendto": ("send", "send"), "write": ("send", "write"), "writev": ("send", "write"), "sendmsg": ("send", "send"),
    "recvfrom": ("receive", "receive"), "recvmsg": ("receive", "receive"), "recvmmsg": ("receive", "receive"),
    "fallocate": ("other", "write"), "pwrite64": ("records", "records"), "fdatasync": ("records", "records"), "fsync": ("records", "swap"),
    "mkdirat": ("other", "create"), "symlinkat": ("other", "create"), "fchmod": ("other", "metadata"), "utimensat": ("other", "metadata"),
    "statx": ("walk", "metadata"), "syncfs": ("other", "syncfs"), "renameat2": ("other", "swap"), "unlinkat": ("other", "swap"),
    "futex": ("waking", "waking"), "epoll_wait": ("waking", "waking"), "sched_yield": ("waking", "waking"),
}
# by what a symbol of user space contains, first match
SYMBOLS = [
    ("sha256", "SHA-256"), ("chacha20_poly1305_seal", "encrypt"), ("chacha20_poly1305_open", "decrypt"), ("chacha", "encrypt"),
    ("ZSTD", "compress"), ("HUF", "compress"), ("memmove", "copy"), ("memcpy", "copy"), ("memset", "clear"),
    ("redb", "records"), ("manifest", "manifest"), ("minicbor", "manifest"), ("path::check", "manifest"), ("yamux", "streams"),
    ("malloc", "memory"), ("_int_free", "memory"), ("cfree", "memory"), ("tokio", "waking"), ("malloc_consolidate", "memory"),
]


def samples(recording):
    """(process, period in seconds, [symbol, innermost first]) of each sample."""
    text = subprocess.run(["perf", "script", "-i", recording, "-F", "pid,comm,period,ip,sym"], capture_output=True, text=True).stdout
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if lines:
            head = lines[0].split()
            numbers = [word for word in head if word.isdigit()]
            stack = [line.split(None, 1)[1] for line in lines[1:] if len(line.split(None, 1)) == 2]
            yield int(numbers[-2]), int(numbers[-1]) / 1e9, stack


# a call whose entry was inlined is known by what it does
INNER = {
    "do_sys_openat2": "openat", "vfs_fstat": "fstat", "vfs_statx": "newfstatat", "vfs_read": "read", "vfs_write": "write",
    "iterate_dir": "getdents64", "filp_close": "close", "vfs_utimes": "utimensat", "chmod_common": "fchmod",
    "do_fsync": "fdatasync", "__sys_sendto": "sendto", "__sys_recvfrom": "recvfrom", "do_epoll_wait": "epoll_wait", "do_futex": "futex",
}


def system_call(stack):
    for symbol in stack:
        symbol = symbol.split("+")[0].strip()
        for prefix in ("__x64_sys_", "__do_sys_", "ksys_"):
            if symbol.startswith(prefix):
                return symbol[len(prefix):]
        if symbol in INNER:
            return INNER[symbol]
    return None


def stage(stack, importer):
    call = system_call(stack)
    if call:
        return CALLS.get(call, ("other", "other"))[importer]
    leaf = stack[0] if stack else "?"
    for part, name in SYMBOLS:
        if part in leaf:
            return name
    if any("CharSearcher" in symbol or "from_utf8" in symbol for symbol in stack):
        return "manifest"
    if any("page_fault" in symbol for symbol in stack):
        return "memory"
    if any("softirq" in symbol or "tcp_" in symbol for symbol in stack):
        return "receive"
    return "other"


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    columns = []
    for recording in sys.argv[1:]:
        all_samples = list(samples(recording))
        decrypting = collections.Counter(pid for pid, _, stack in all_samples if stack and "poly1305_open" in stack[0])
        receiver = decrypting.most_common(1)[0][0] if decrypting else None
        seconds = collections.Counter()
        for pid, period, stack in all_samples:
            end = "importer" if pid == receiver else "exporter"
            seconds[end, stage(stack, pid == receiver)] += period
        columns.append(seconds)
    rows = sorted({key for column in columns for key in column}, key=lambda key: (key[0], -max(c[key] for c in columns)))
    print("%-9s %-13s" % ("end", "stage") + "".join("  %18s" % name.rsplit("/", 1)[-1][-18:] for name in sys.argv[1:]))
    for end, name in rows:
        cells = ["  %9.2f s %5.1f %%" % (c[end, name], 100 * c[end, name] / max(sum(c.values()), 1e-9)) for c in columns]
        print("%-9s %-13s" % (end, name) + "".join(cells))
    print("%-23s" % "in all" + "".join("  %9.2f s        " % sum(c.values()) for c in columns))


if __name__ == "__main__":
    main()
