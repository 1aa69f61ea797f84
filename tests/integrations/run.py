"""``make test-integrations``: an environment per trainer, its tests in it, and the result in docs/measurements/integrations.txt.

Environments are ``.venv-<name>``: the packages listed in ``packages/<name>.txt``, beside those of ``.venv``, so that there is one PyTorch.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULT = ROOT / "docs" / "measurements" / "integrations.txt"
SHOWN = ("torch", "gymnasium", "ray", "transformers")


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in (HERE / "packages").glob("*.txt"))
    if unknown := sorted(set(names) - set(known)):
        print(f"there is no {unknown[0]!r}; known are: {', '.join(known)}", file=sys.stderr)
        return 2
    lines = [judge(name) for name in names or known]
    if not names:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        head = f"make test-integrations, {today}, Python {platform.python_version()}, {platform.system()} without a GPU"
        RESULT.write_text("\n".join([head, "", *lines]) + "\n")
    print("\n".join(lines))
    return int(any(not line.endswith(" passed") for line in lines))


def judge(name: str) -> str:
    """The result of one trainer's tests, as a line; a test that is skipped has not passed."""
    python, report = environment(name), ROOT / "build" / f"integrations-{name}.xml"
    report.unlink(missing_ok=True)
    tests = str(HERE / f"test_{name}.py")
    subprocess.run([python, "-m", "pytest", tests, f"--junit-xml={report}"], cwd=ROOT)
    versions = subprocess.run([python, "-c", VERSIONS, name, *SHOWN], capture_output=True, text=True, check=True).stdout.strip()
    if not report.exists():
        return f"{name:<10} {versions}: no test ran"
    suite = next(ElementTree.parse(report).iter("testsuite"))
    tried, bad, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "skipped"))
    bad += int(suite.get("errors", 0))
    told = [f"{count} {what}" for count, what in ((bad, "failed"), (skipped, "skipped"), (tried - bad - skipped, "passed")) if count]
    return f"{name:<10} {versions}: {', '.join(reversed(told)) or 'no test ran'}"


VERSIONS = """
import sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(", ".join(f"{name} {number}" for name, number in found.items()))
"""


def environment(name: str) -> str:
    """The interpreter of a trainer's environment, which is made if its list of packages has changed."""
    listed, folder = HERE / "packages" / f"{name}.txt", ROOT / f".venv-{name}"
    python, stamp = str(folder / "bin" / "python"), folder / ".stamp"
    made_of = hashlib.sha256(listed.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != made_of:
        print(f"Making {folder.name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        (place,) = folder.glob("lib/python*/site-packages")
        (beside,) = (ROOT / ".venv").glob("lib/python*/site-packages")
        (place / "beside.pth").write_text(f"import site; site.addsitedir({str(beside)!r})\n")  # its .pth files too: ours is one of them
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(listed)]
        subprocess.run([python, *install], check=True)
        stamp.write_text(made_of)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
