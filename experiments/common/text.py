"""Text from outside, made harmless where it is shown. Imports nothing of the project.

A name may hold an escape sequence that moves a terminal's cursor, or a mark that turns the reading direction, so that
what is read is not what stands there. Each such character is shown as a sign of its own; line breaks and tabs stay.
"""

from __future__ import annotations

import re

SHOWN = "�"  # in place of each character that would act instead of being read
# C0, DEL and C1 but for tab and line feed; marks and overrides of the reading direction; separators of lines and
# paragraphs; half of a pair that no encoding can write
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def visible(text: str) -> str:
    """A text in which every character is only read: none moves a cursor, rings a bell or turns what follows it."""
    return ACTING.sub(SHOWN, text)
