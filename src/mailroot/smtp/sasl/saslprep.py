"""SASLprep (RFC 4013): one form for names and passwords that different keyboards and programs write differently.

A profile of stringprep (RFC 3454), which is tied to Unicode 3.2: newer characters are unassigned in it.
"""

_PROHIBITED = ("c12", "c21_c22", "c3", "c4", "c5", "c6", "c7", "c8", "c9")

_LONGEST = 1024
"""Characters. No name or password that is kept is nearly as long, and a stranger must not make us look at each of
tens of thousands."""


def saslprep(text: str, *, stored: bool = False) -> str:
    """The text prepared. `stored`: for keeping, where unassigned characters are refused too (RFC 3454 §7).

    Raises ValueError for what may not be in it; its text names the character's number, and only where `stored`:
    then it is for who chooses the text.
    """
    if text.isascii():
        if text.isprintable():
            return text
        raise ValueError("control characters")
    # Not wanted for what nearly all of the world uses in passwords.
    import stringprep
    from unicodedata import ucd_3_2_0

    if len(text) > _LONGEST:
        raise ValueError("too long")
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    prohibitions = [getattr(stringprep, f"in_table_{table}") for table in _PROHIBITED]
    for character in prepared:
        if any(prohibited(character) for prohibited in prohibitions):
            raise ValueError(_naming("not allowed", character, stored))
        if stored and stringprep.in_table_a1(character):
            raise ValueError(_naming("too new for SASLprep", character, stored))
    # RFC 3454 §6: letters of one direction only, and right-to-left text begins and ends with such letters.
    if any(map(stringprep.in_table_d1, prepared)):
        if any(map(stringprep.in_table_d2, prepared)):
            raise ValueError("letters of both directions")
        if not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])):
            raise ValueError("right-to-left text must begin and end with such letters")
    return prepared


def _naming(what: str, character: str, stored: bool) -> str:
    return f"the character U+{ord(character):04X} is {what}" if stored else f"a character is {what}"
