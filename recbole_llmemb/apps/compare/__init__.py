"""Results side by side: tables, significance, figures, one page.

- :mod:`.grouping` puts runs together that differ in their seed only;
- :mod:`.comparison` has the numbers, :mod:`.significance` the tests;
- :mod:`.tables` writes them for the terminal, Markdown, LaTeX and HTML;
- :mod:`.figures` and :mod:`.maps` draw, :mod:`.page` puts everything on one page.
"""
