"""Runs the notebooks and keeps what they print and draw, so that they can be read without running.

python -m notebooks
"""

import nbclient
import nbformat

from notebooks import repository


def main() -> None:
    """Runs each notebook from top to bottom and writes it with its outputs."""
    for path in repository.NOTEBOOKS:
        book = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": str(repository.FOLDER)}}
        nbclient.NotebookClient(book, resources=resources, record_timing=False).execute()
        book.metadata.language_info = {"name": "python"}  # and not which Python it was
        nbformat.write(book, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
