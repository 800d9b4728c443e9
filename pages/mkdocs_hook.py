"""What mkdocs needs beside `mkdocs.yml` to show pages that are also read in the repository.

Files of the project that a page links to lie in the site, too, and lists are indented as Python-Markdown wants them.
"""

import re
from pathlib import Path
from posixpath import relpath
from typing import Any

from mkdocs.structure.files import File

from pages.commonmark import indented

_LINK = re.compile(r"\]\((\.\./[^)#\s]+)((?:#[^)\s]*)?)\)")
_SHOWN = "files"
"""The folder of the site with files of the project that are no pages."""


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    folder = Path(page.file.abs_src_path).parent
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)

    def inside(found: "re.Match[str]") -> str:
        path = (folder / found[1]).resolve()
        if path.is_relative_to(docs) or not path.is_relative_to(root) or not path.is_file():
            return found[0]  # mkdocs says what is wrong with it
        name = f"{_SHOWN}/{path.relative_to(root).as_posix()}"
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(path)))
        return f"]({relpath(name, Path(page.file.src_uri).parent.as_posix())}{found[2]})"

    return indented(_LINK.sub(inside, markdown))
