#!/usr/bin/env python3
"""An importer written from SPEC.md alone: it shares no code with the product.

    importer.py SOCKET TARGET [CUT]      the ticket on standard input

Receives the tree of a ticket over a pipe (SPEC 5.13) on a Unix socket into TARGET, which must not exist. With CUT it drops the
pipe after so many bytes of content, once, and resumes over another. Prints what it did as one line of JSON.
"""

import base64
import hashlib
import hmac
import json
import os
import socket
import sys
import time

import cbor
import ed25519

ACK, PIPE_HELLO, PIPE_PROOF, REQUEST, RESPONSE = 0x02, 0x03, 0x04, 0x05, 0x06
MANIFEST_BEGIN, MANIFEST_CHUNK, MANIFEST_END = 0x10, 0x11, 0x12
FILE_BEGIN, FILE_CHUNK, FILE_END = 0x20, 0x21, 0x22
PHASE_END, RETRY_REQUEST, RETRY_BEGIN, RETRY_END = 0x30, 0x31, 0x32, 0x33
PENDING_REQUEST, PENDING_LIST = 0x40, 0x41
FINALIZE_REQUEST, FINALIZE_RESULT, PROGRESS, ABORT = 0x50, 0x51, 0x60, 0x7F
RAW = (REQUEST, RESPONSE, MANIFEST_BEGIN, MANIFEST_CHUNK, FILE_CHUNK)
FILE, DIRECTORY, SYMLINK = 0, 1, 2
IO_ERROR, HASH_MISMATCH, SIZE_MISMATCH, PROTOCOL_ERROR = 0, 1, 2, 4
MAX_CHUNK, MAX_LIST, KEEP_ALIVE = 262144, 4096, 5.0
PEER_ID_OF_KEY = bytes.fromhex("002408011220")


class Refused(Exception):
    """The other side broke a rule, or said no."""


class Cut(Exception):
    """We dropped the pipe on purpose."""


def joined(*parts):
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def mac(key, *parts):
    return hmac.new(key, joined(*parts), hashlib.sha256).digest()


def check(condition, why):
    if not condition:
        raise Refused(why)


def flush(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


class Pipe:
    """Frames over a socket (5.1)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.spoke = time.monotonic()

    def send(self, kind, body):
        raw = body if kind in RAW else cbor.encode(body)
        self.socket.sendall(bytes([kind, 0, 0, 0]) + len(raw).to_bytes(4, "big") + raw)

    def exactly(self, length):
        parts = bytearray()
        while len(parts) < length:
            more = self.socket.recv(min(length - len(parts), 1 << 20))
            check(more, "the pipe ended")
            parts += more
        return bytes(parts)

    def receive(self):
        head = self.exactly(8)
        kind, length = head[0], int.from_bytes(head[4:], "big")
        check(head[1:4] == b"\0\0\0", "flags")
        limit = 1 << 20 if kind in (MANIFEST_CHUNK, FILE_CHUNK) else 1 << 16
        check(length <= limit, "a frame that is too large")
        body = self.exactly(length)
        if kind in RAW:
            return kind, body
        return kind, cbor.decode(body)

    def expect(self, *kinds):
        kind, body = self.receive()
        check(kind in kinds, f"frame {kind:#04x} where {kinds} are due")
        return body

    def ask(self, variant, body):
        """A request and its answer (6.1): the variant, and the body."""
        self.send(REQUEST, cbor.encode([variant, [body]]))
        answer, inner = cbor.decode(self.expect(RESPONSE), deterministic=False)
        check(answer != 5, f"refused: {inner}")
        check(answer == variant, "another answer")
        return inner[0]


class Importer:
    def __init__(self, path, target, ticket, cut):
        self.path, self.target, self.cut = path, target, cut
        self.staging = target + ".staging"
        self.ticket = ticket
        self.exporter = ticket[1]
        self.key = ed25519.Key(os.urandom(32))
        self.peer_id = PEER_ID_OF_KEY + self.key.public
        self.session = self.secret = self.manifest = self.digest = None
        self.ok, self.partial, self.directories = set(), {}, set()
        self.content = self.rounds = self.pipes = 0

    # 5.13
    def handshake(self):
        pipe = Pipe(self.path)
        self.pipes += 1
        nonce = os.urandom(16)
        resumes = self.session is not None
        id_, secret = (self.session, self.secret) if resumes else (self.ticket[3], self.ticket[4])
        pipe.send(PIPE_HELLO, {0: self.peer_id, 1: nonce, 2: [1 if resumes else 0, [id_]]})
        answer = pipe.expect(PIPE_HELLO)
        check(answer[0] == self.exporter, "another device")
        about = (self.exporter, self.peer_id, id_, nonce, answer[1])
        theirs, ours = (b"me-sync/4 pipe exporter", *about), (b"me-sync/4 pipe importer", *about)
        check(hmac.compare_digest(answer[3][0], mac(secret, *theirs)), "it does not know the secret")
        check(self.exporter[:6] == PEER_ID_OF_KEY, "a PeerId without its key")
        check(ed25519.verify(self.exporter[6:], joined(*theirs), answer[3][1]), "it is not that device")
        pipe.send(PIPE_PROOF, {0: mac(secret, *ours), 1: self.key.sign(joined(*ours))})
        hello = {0: "importer.py", 1: "python", 2: [4], 3: {"me_sync_v4_streaming": True}, 4: 0, 5: MAX_CHUNK}
        theirs = pipe.ask(0, hello)
        check(4 in theirs[2] and theirs[3].get("me_sync_v4_streaming") is True, "another version")
        return pipe

    # 6.3, 6.4
    def open(self):
        pipe = self.handshake()
        nonce = os.urandom(16)
        if self.session is None:
            id_, secret, context, variant = self.ticket[3], self.ticket[4], b"me-sync/4 redeem", 1
        else:
            id_, secret, context, variant = self.session, self.secret, b"me-sync/4 resume", 2
        proof = mac(secret, context, self.exporter, self.peer_id, id_, nonce)
        body = {0: id_, 1: nonce, 2: proof, 3: 0, 4: MAX_CHUNK}
        if variant == 2:
            body[5] = self.digest
        granted = pipe.ask(variant, body)
        if variant == 1:
            self.session, self.secret = granted[0], granted[1]
        check(granted[3 if variant == 1 else 1] == 0, "lanes on a pipe")
        return pipe

    def run(self):
        while True:
            try:
                return self.conversation(self.open())
            except Cut:
                continue

    def conversation(self, pipe):
        if self.digest is None:
            self.receive_manifest(pipe)
        self.quiet(pipe, PENDING_REQUEST)
        self.prepare()
        self.ask_for_pending(pipe)
        failed = self.round(pipe, self.pending(), PHASE_END, 0)
        number = 1
        while failed:
            check(number <= 3, "retry rounds are used up")
            self.request_retry(pipe, number, failed)
            self.rounds = number
            begin = self.quiet(pipe, RETRY_BEGIN)
            check(begin == {0: number, 1: len(failed)}, "another round")
            failed = self.round(pipe, sorted(failed), RETRY_END, number)
            number += 1
        pipe.send(RETRY_REQUEST, {0: number, 1: [], 2: False})
        request = self.quiet(pipe, FINALIZE_REQUEST)
        total = sum(entry.get(2, 0) for entry in self.manifest)
        check(request == {0: self.digest, 1: len(self.manifest), 2: total}, "another manifest")
        self.apply()
        pipe.send(FINALIZE_RESULT, {})
        check(self.quiet(pipe, ACK) == {}, "not acknowledged")

    def quiet(self, pipe, *kinds):
        """The next frame that is not about progress (5.8); says something itself when it is time."""
        while True:
            if time.monotonic() - pipe.spoke > KEEP_ALIVE / 2:
                files = sum(1 for entry in self.manifest or [] if entry[1] == FILE)
                pipe.send(PROGRESS, {0: 2, 1: {0: len(self.ok), 1: 0, 2: files, 3: 0, 4: 0, 5: 0}, 2: False})
                pipe.spoke = time.monotonic()
            kind, body = pipe.receive()
            if kind == PROGRESS:
                continue
            check(kind != ABORT, f"aborted: {body}")
            check(kind in kinds, f"frame {kind:#04x} where {kinds} are due")
            return body if len(kinds) == 1 else (kind, body)

    # 4
    def receive_manifest(self, pipe):
        header = self.quiet(pipe, MANIFEST_BEGIN)
        declared = cbor.decode(header)
        check(declared[0] == 4 and 6 not in declared, "another kind of manifest")
        digest, entries = hashlib.sha256(header), []
        while True:
            kind, body = self.quiet(pipe, MANIFEST_CHUNK, MANIFEST_END)
            if kind == MANIFEST_END:
                break
            digest.update(body)
            at = 0
            while at < len(body):
                entry, end = cbor.item(body, at)
                check(cbor.encode(entry) == body[at:end], "an entry that is not canonical")
                at = end
                entries.append(entry)
                self.check_entry(entries)
        check(len(entries) == declared[1], "another number of entries")
        check(sum(entry.get(2, 0) for entry in entries) == declared[2], "another number of bytes")
        check(digest.digest() == body[0], "another digest")
        self.header, self.manifest, self.digest = declared, entries, digest.digest()

    # 3.3, 4.2, 4.3
    def check_entry(self, entries):
        entry = entries[-1]
        path, kind = entry[0], entry[1]
        parts = path.split("/")
        check(path and all(part not in ("", ".", "..") for part in parts), "a path that leaves the tree")
        check(len(path.encode()) <= 1024 and len(parts) <= 64, "a path that is too long")
        check(all(len(part.encode()) <= 255 for part in parts), "a name that is too long")
        check(not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F or c in "\u2028\u2029" for c in path), "a control character")
        check(not path.startswith("\ufeff"), "a mark of byte order")
        check(len(entries) < 2 or entries[-2][0].encode() < path.encode(), "entries out of order")
        needs = {FILE: {2, 3}, DIRECTORY: set(), SYMLINK: {7}}
        check(kind in needs, "an unknown kind")
        optional = {5, 6} if kind == SYMLINK else {4, 5, 6}
        check(needs[kind] <= set(entry) - {0, 1} <= needs[kind] | optional, "fields of another kind")
        if entry.get(2) == 0:
            check(entry[3] == hashlib.sha256().digest(), "the digest of nothing")
        check(len(parts) == 1 or "/".join(parts[:-1]) in self.directories, "no such directory before it")
        if kind == DIRECTORY:
            self.directories.add(path)

    def at(self, entry):
        return os.path.join(self.staging, entry[0])

    def prepare(self):
        """Directories first; what is in them gets modes and times at the end."""
        os.makedirs(self.staging, exist_ok=True)
        for entry in self.manifest:
            if entry[1] == DIRECTORY:
                os.makedirs(self.at(entry), exist_ok=True)

    def pending(self):
        return [n for n, entry in enumerate(self.manifest) if entry[1] == FILE and n not in self.ok]

    # 5.5
    def ask_for_pending(self, pipe):
        ranges = []
        for index in self.pending():
            if ranges and ranges[-1][0] + ranges[-1][1] == index:
                ranges[-1][1] += 1
            else:
                ranges.append([index, 1])
        parts = [ranges[n : n + MAX_LIST] for n in range(0, len(ranges), MAX_LIST)] or [[]]
        for n, part in enumerate(parts):
            inside = lambda index: any(start <= index < start + length for start, length in part)
            partial = [[index, offset] for index, offset in sorted(self.partial.items()) if inside(index)]
            pipe.send(PENDING_LIST, {0: part, 1: partial, 2: n + 1 < len(parts)})

    # 5.6
    def request_retry(self, pipe, number, failed):
        every = sorted([index, reason] for index, reason in failed.items())
        parts = [every[n : n + MAX_LIST] for n in range(0, len(every), MAX_LIST)]
        for n, part in enumerate(parts):
            pipe.send(RETRY_REQUEST, {0: number, 1: part, 2: n + 1 < len(parts)})

    # 5.4
    def round(self, pipe, wanted, ends_with, number):
        """Takes the files of a round; which failed, and why."""
        wanted, failed, judged = set(wanted), {}, 0
        partial, self.partial = self.partial, {}
        while True:
            kind, body = self.quiet(pipe, FILE_BEGIN, ends_with)
            if kind == ends_with:
                count = body[0] if number == 0 else body[1]
                check(number == 0 or body[0] == number, "the end of another round")
                check(count == judged, "another number of files")
                failed.update((index, PROTOCOL_ERROR) for index in wanted)
                return failed
            index = body[0]
            check(index in wanted, "a file that was not asked for")
            wanted.remove(index)
            entry = self.manifest[index]
            check((body[1], body[2]) == (entry[2], entry[3]), "another file than the manifest has")
            offset = body[3]
            check(offset == 0 or number == 0 and offset == partial.get(index), "another offset")
            reason = self.file(pipe, index, entry, offset)
            judged += 1
            if reason is None:
                self.ok.add(index)
            else:
                failed[index] = reason

    def file(self, pipe, index, entry, offset):
        digest, length = hashlib.sha256(), offset
        path = self.at(entry)
        with open(path, "r+b" if offset else "wb") as out:
            if offset:
                digest.update(out.read(offset))
                out.seek(offset)
                out.truncate()
            while True:
                kind, body = self.quiet(pipe, FILE_CHUNK, FILE_END)
                if kind == FILE_END:
                    break
                check(len(body) <= MAX_CHUNK, "a chunk that is too large")
                length += len(body)
                self.content += len(body)
                check(length <= entry[2] + MAX_CHUNK, "far more than was declared")
                if length <= entry[2]:
                    out.write(body)
                    digest.update(body)
                if self.cut is not None and self.content >= self.cut:
                    self.cut = None
                    pipe.socket.close()
                    if 0 < length <= entry[2]:
                        self.partial = {index: length}
                    raise Cut
        check(body[0] == index, "the end of another file")
        if length > entry[2]:
            return SIZE_MISMATCH
        if 1 in body:
            return IO_ERROR
        if length < entry[2]:
            return SIZE_MISMATCH
        return None if digest.digest() == entry[3] else HASH_MISMATCH

    # 5.7, 4.4
    def apply(self):
        for entry in self.manifest:
            if entry[1] == SYMLINK:
                os.symlink(entry[7], self.at(entry))
        self.persist()
        for entry in reversed(self.manifest):
            self.dress(self.at(entry), entry.get(4), entry.get(5), entry.get(6), entry[1])
        self.dress(self.staging, self.header.get(3), self.header.get(4), self.header.get(5), DIRECTORY)
        found = sum(len(names) + len(dirs) for _, dirs, names in os.walk(self.staging))
        check(found == len(self.manifest), "something is missing, or too much")
        check(not self.pending(), "files are missing")
        os.rename(self.staging, self.target)
        flush(os.path.dirname(self.target))

    def persist(self):
        """This tree and nothing else: the exporter waits no longer than 5.8 allows for what others wrote."""
        for entry in self.manifest:
            if entry[1] != SYMLINK:
                flush(self.at(entry))
        flush(self.staging)

    def dress(self, path, mode, ms, ns, kind):
        if kind != SYMLINK:
            default = 0o644 if kind == FILE else 0o755
            os.chmod(path, (default if mode is None else mode) & 0o777 & ~0o002)
        if ms is not None:
            stamp = ms * 1_000_000 + ns
            os.utime(path, ns=(stamp, stamp), follow_symlinks=False)


def main():
    path, target = sys.argv[1:3]
    cut = int(sys.argv[3]) if len(sys.argv) > 3 else None
    text = sys.stdin.read().strip().removeprefix("me.things:me.sync.v4:")
    ticket = cbor.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    check(ticket[0] == 4 and not os.path.lexists(target), "another ticket, or there is something already")
    importer = Importer(path, target, ticket, cut)
    importer.run()
    done = {"files": len(importer.ok), "rounds": importer.rounds, "pipes": importer.pipes}
    print(json.dumps({**done, "payload_bytes": importer.content, "manifest_sha256": importer.digest.hex()}))


main()
