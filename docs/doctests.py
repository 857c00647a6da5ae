"""For the documentation site: examples in docstrings become blocks of code, and formulas stay as they are written, as
docstrings are plain text and Markdown would read `a**2 + b**2` as bold."""

import re
import textwrap
from typing import Any

import griffe

# What stands in backticks or in a block of code is left alone; what follows is one asterisk of any other text.
ASTERISK = re.compile(r"```.*?```|``.*?``|`[^`]*`|(?<!\S)\*(?= )|(\*)", re.DOTALL)
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts fences around every example, a paragraph that begins with `>>>`, and escapes asterisks."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute that is read."""
        if obj.docstring:
            text = EXAMPLE.sub(_fenced, obj.docstring.value)
            obj.docstring.value = ASTERISK.sub(lambda found: "\\*" if found[1] else found[0], text)


def _fenced(example: re.Match) -> str:
    return textwrap.indent(f"\n```pycon\n{textwrap.dedent(example[0])}\n```", example[1])
