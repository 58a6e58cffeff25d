"""Names of files as one safe line of text."""

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Where Python keeps the bytes of a name that are not UTF-8.
_RAW_BYTES = range(0xDC80, 0xDD00)


def shown(text: str) -> str:
    r"""The text on one line, with everything that cannot be seen escaped.

    Line breaks, control characters, marks of direction, odd spaces and bytes that are not UTF-8
    become `\n`, `\x1b`, `\u202e` and the like, and a backslash becomes two, so that different
    texts stay different. What comes back can always be encoded as UTF-8.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    if code in _RAW_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
