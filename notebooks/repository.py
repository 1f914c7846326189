"""The repository's address in README.md, CITATION.cff and the notebooks, which have it in two places.

The one setting is `url` in the section `[metadata]` of setup.cfg. After it has changed:

    python -m notebooks.repository
"""

import configparser
import re
from pathlib import Path

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FILES = [FOLDER.parent / "README.md", FOLDER.parent / "CITATION.cff", *NOTEBOOKS]
_COLAB = "https://colab.research.google.com/"


def address() -> str:
    """`url` of setup.cfg; empty if it says none."""
    settings = configparser.ConfigParser()
    settings.read(FOLDER.parent / "setup.cfg")
    return settings.get("metadata", "url", fallback="").rstrip("/")


def badge_target(url: str, notebook: str) -> str:
    """What a badge opens: the notebook in Colab if it is on GitHub, else Colab, which asks for a file.

    Example:
      >>> badge_target("https://github.com/someone/project", "1_first_line.ipynb")
      'https://colab.research.google.com/github/someone/project/blob/main/notebooks/1_first_line.ipynb'
      >>> badge_target("", "1_first_line.ipynb")
      'https://colab.research.google.com/'
    """
    prefix = "https://github.com/"
    if not url.startswith(prefix):
        return _COLAB
    return f"{_COLAB}github/{url.removeprefix(prefix)}/blob/main/notebooks/{notebook}"


def addressed(text: str, url: str, name: str) -> str:
    """The text of a file with an address, or with none."""
    if name == "README.md":
        clone = f"[this repository]({url})" if url else "this repository"
        return re.sub(
            r"(?<=In a clone of )(\[this repository\]\(.*?\)|this repository)", clone, text
        )
    if name == "CITATION.cff":
        text = re.sub(r"^repository-code: .*\n", "", text, flags=re.MULTILINE)
        line = f"repository-code: {url}\n" if url else ""
        return re.sub(r"^license: .*\n", lambda m: m[0] + line, text, flags=re.MULTILINE)
    target = badge_target(url, name)
    text = re.sub(r"(colab-badge\.svg\)\]\()[^)]*\)", lambda m: f"{m[1]}{target})", text)
    return re.sub(r'(REPOSITORY = \\")[^"\\]*', lambda m: f"{m[1]}{url}", text)


def main() -> None:
    """Rewrites the files where their address is another."""
    for path in FILES:
        text = path.read_text()
        new = addressed(text, address(), path.name)
        if new != text:
            path.write_text(new)
        print(f"{path.name}: {address() or 'no address; add `url` to [metadata] of setup.cfg'}")


if __name__ == "__main__":
    main()
