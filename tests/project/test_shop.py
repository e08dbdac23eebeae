"""The shop that docs/shop holds is the one that its script makes."""

import gzip
import subprocess
import sys
from pathlib import Path

SHOP = Path(__file__).parents[2] / "docs/shop"


def test_the_shop_is_what_its_script_makes(tmp_path):
    subprocess.run([sys.executable, SHOP / "make_shop.py", tmp_path], check=True)
    assert (tmp_path / "products.csv").read_bytes() == (SHOP / "products.csv").read_bytes()
    made, kept = (gzip.decompress((at / "orders.csv.gz").read_bytes()) for at in (tmp_path, SHOP))
    assert made == kept
