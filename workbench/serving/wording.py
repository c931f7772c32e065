"""An error as a browser may see it: without the folders of this machine."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from workbench.access import model_folders, store_folders

LONGEST = 2000
"""Characters of a message; what goes on longer quotes something."""
_ABSOLUTE = re.compile(r"""(?<![\w./~:\\-])(?:~|[A-Za-z]:)?(?:[/\\]+[^\s/\\'"`,;:()\[\]<>|]+){2,}[/\\]?""")


def for_browser(error: BaseException) -> str:
    """What an error says, as plain text; a page escapes it for Markdown."""
    folders = [*model_folders(), *store_folders(), Path(tempfile.gettempdir()), Path(sys.prefix), Path.home()]
    return without_folders(str(error)[:LONGEST], folders)


def without_folders(text: str, folders: Iterable[Path]) -> str:
    """The text with every path made relative: to one of the folders, else to the folder that it ends in.

    Args:
        folders: of this machine; of those that lie in one another the inner one counts.
    """
    known = {str(form) for folder in folders for form in (folder, folder.resolve()) if len(form.parts) > 1}
    for folder in sorted(known, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./~-]){re.escape(folder)}(?=$|[/\\\s'\"`,;:.)])", Path(folder).name, text)
    return _ABSOLUTE.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)
