"""``python run_recbole_llm.py …`` is the same as the installed command ``recbole-llm …``."""

import sys

from recbole_llmemb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
