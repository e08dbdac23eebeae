"""Results side by side: tables, significance, figures, one page.

:mod:`.grouping` puts runs together that differ in their seed only, :mod:`.comparison` has the
numbers and their tests, :mod:`.figures` draws, :mod:`.report` writes.
"""

from recbole_llmemb.core.imports import lazy

__getattr__ = lazy(
    __name__,
    grouping="choose_baseline read_groups",
    comparison="compare",
    report="LISTING NAMES render_files tables_of to_text verdict",
)
