"""The lock: write it, or check it offline.

``requirements.lock`` has three parts, so that ``make demo`` installs only what it runs:
build (what installs and builds the rest), runtime, development. Names, versions and hashes
only; the address of the index is the installing machine's business.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PARTS = ("build", "runtime", "development")
BUILD_PACKAGES = frozenset({"setuptools", "uv"})
HEAD = "# Written by `make lock`; checked by `make check`. Parts: see .ci/lock.py\n"


def blocks(text: str) -> dict[str, str]:
    """Pin (``name==version ; marker``) → its lines, hashes included.

    A package may have several pins, one per Python version or platform.
    """
    found: dict[str, str] = {}
    pin = ""
    for line in text.splitlines(keepends=True):
        if line[:1].isalnum():
            pin = line.rstrip("\\ \n")
        if pin and not line.startswith("#"):
            found[pin] = found.get(pin, "") + line
    return found


def name_of(pin: str) -> str:
    return canonicalize_name(Requirement(pin).name)


def version_of(pin: str) -> str:
    (specifier,) = Requirement(pin).specifier
    return specifier.version


def compile_pins(*arguments: str) -> dict[str, str]:
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"]
    command += ["--generate-hashes", "--no-annotate"]
    command += ["--no-header", "--python-version", "3.11", "--universal", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return blocks(done.stdout)


def write(*, upgrade: bool) -> None:
    options = ["--upgrade"] if upgrade else []
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known.txt"
        if LOCK.exists() and not upgrade:
            known.write_text(LOCK.read_text())
            options += ["--constraints", str(known)]
        everything = compile_pins("pyproject.toml", "--extra", "dev", *options)
        # The same versions for the part that runs, whatever dev packages asked for.
        known.write_text("".join(everything.values()))
        running = compile_pins("pyproject.toml", "--constraints", str(known))
    running_names = {name_of(pin) for pin in running}
    parts = {
        "build": [pin for pin in everything if name_of(pin) in BUILD_PACKAGES],
        "runtime": [pin for pin in everything if name_of(pin) in running_names],
        "development": list(everything),
    }
    seen: set[str] = set()
    text = HEAD
    for part in PARTS:
        text += f"# part: {part}\n"
        text += "".join(everything[pin] for pin in parts[part] if pin not in seen)
        seen.update(parts[part])
    LOCK.write_text(text)


def problems() -> list[str]:
    """Why the lock does not fit pyproject.toml and this environment; empty when it does."""
    text = LOCK.read_text()
    pins = blocks(text)
    found = [f"no part {part}" for part in PARTS if f"# part: {part}\n" not in text]
    if re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text):
        found.append("the lock names a download address")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    environment = {key: str(value) for key, value in default_environment().items()}
    for requirement in map(Requirement, wanted):
        versions = [
            version_of(pin) for pin in pins if name_of(pin) == canonicalize_name(requirement.name)
        ]
        if not versions:
            found.append(f"{requirement.name} is in pyproject.toml but not in the lock")
        for version in versions:
            if not requirement.specifier.contains(version, prereleases=True):
                found.append(f"the lock's {version} does not satisfy {requirement}")
    for pin, lines in pins.items():
        if "--hash=sha256:" not in lines:
            found.append(f"{pin} has no hash")
        marker = Requirement(pin).marker
        if marker is None or marker.evaluate(environment):
            installed = distribution(name_of(pin)).version
            if installed != version_of(pin):
                found.append(f"{name_of(pin)} {installed} is installed, the lock says {pin}")
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        listed = problems()
        sys.stdout.write("".join(f"lock: {line}\n" for line in listed) or "lock: ok\n")
        raise SystemExit(bool(listed))
    write(upgrade=sys.argv[1:] == ["--upgrade"])
