"""The part of CBOR that SPEC.md uses (1.6): deterministic, without tags and floating-point numbers."""


def head(major, value):
    for width, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if value < 24:
            return bytes([major << 5 | value])
        if value < 1 << 8 * width:
            return bytes([major << 5 | code]) + value.to_bytes(width, "big")
    raise ValueError("too large")


def encode(value):
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode()
        return head(3, len(raw)) + raw
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(encode, value))
    fields = sorted((encode(key), encode(field)) for key, field in value.items() if field is not None)
    return head(5, len(fields)) + b"".join(key + field for key, field in fields)


def item(raw, at):
    """The item at `at`, and where the next one begins."""
    major, low = raw[at] >> 5, raw[at] & 31
    at += 1
    if major == 7:
        return {20: False, 21: True}[low], at
    value = low
    if low >= 24:
        width = {24: 1, 25: 2, 26: 4, 27: 8}[low]
        value, at = int.from_bytes(raw[at : at + width], "big"), at + width
    if major == 0:
        return value, at
    if major == 1:
        return -1 - value, at
    if major in (2, 3):
        end = at + value
        if end > len(raw):
            raise ValueError("cut off")
        return (raw[at:end] if major == 2 else raw[at:end].decode()), end
    if major == 4:
        items = []
        for _ in range(value):
            one, at = item(raw, at)
            items.append(one)
        return items, at
    if major == 5:
        fields = {}
        for _ in range(value):
            key, at = item(raw, at)
            fields[key], at = item(raw, at)
        return fields, at
    raise ValueError("a tag")


def decode(raw, deterministic=True):
    """Exactly one item; with `deterministic` only if these are the bytes that it has."""
    value, end = item(raw, 0)
    if end != len(raw) or deterministic and encode(value) != raw:
        raise ValueError("not canonical")
    return value
