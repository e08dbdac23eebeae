"""Results side by side: tables, significance, figures, one page.

:mod:`.grouping` puts runs together that differ in their seed only, :mod:`.comparison` has the
numbers and their tests, :mod:`.figures` draws, :mod:`.report` writes.
"""
