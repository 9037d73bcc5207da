"""Makes the environment of a job from the interpreter that runs this; the standard library alone.

Argument: a JSON object {parent, index, find_links}. The last line of output is a JSON object {version, directory}.
Exit code 3: nothing here has pip, and no network was given to fetch it.
"""

import glob
import hashlib
import html.parser
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
import urllib.parse
import urllib.request
import venv
import zipfile

NEEDS_INDEX = 3
LONGEST_PAGE = 32 << 20
LONGEST_WHEEL = 32 << 20


def main():
    settings = json.loads(sys.argv[1])
    version = platform.python_version()
    name = version + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
    directory = os.path.join(settings["parent"], name)
    if not os.path.exists(os.path.join(directory, "bin", "pip")):
        wheels = local_wheels(settings["find_links"])
        package = None if "pip" in wheels else own_pip()
        if "pip" not in wheels and package is None:
            if not os.environ.get("HTTPS_PROXY"):
                sys.exit(NEEDS_INDEX)
            os.makedirs(settings["parent"], exist_ok=True)
            wheels["pip"] = fetch(settings["index"], settings["parent"])
        venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(directory)
        base = {"base": directory, "platbase": directory}
        scheme = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"
        site = sysconfig.get_path("purelib", scheme, vars=base)
        for wheel in wheels.values():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        if package is not None:
            for source in package:
                target = os.path.join(site, os.path.basename(source))
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        write_scripts(directory, site)
    print(json.dumps({"version": version, "directory": directory}))


def local_wheels(find_links):
    """The newest wheels of pip, and of setuptools where Python used to bring it, that lie on this machine."""
    places = []
    try:
        import ensurepip

        places.append(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"))
    except ImportError:
        pass
    places += [sysconfig.get_config_var("WHEEL_PKG_DIR"), "/usr/share/python-wheels"]
    places += find_links
    found = {}
    for package in ["pip"] + (["setuptools"] if sys.version_info < (3, 12) else []):
        for place in places:
            # The interpreter's own comes before others, however new they are: it is known to fit.
            candidates = glob.glob(os.path.join(glob.escape(place), package + "-*-py3-none-any.whl")) if place else []
            if candidates:
                found[package] = max(candidates, key=numbers)
                break
    return found


def own_pip():
    """The directories of a pip that is installed for this interpreter."""
    import importlib.util

    # Isolated mode leaves the site directories in place; a package of the user's own is not looked at.
    spec = importlib.util.find_spec("pip")
    if spec is None or not spec.origin:
        return None
    package = os.path.dirname(spec.origin)
    info = glob.glob(os.path.join(glob.escape(os.path.dirname(package)), "pip-*.dist-info"))
    return [package] + info[:1]


def write_scripts(directory, site):
    body = "#!{}\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
    text = body.format(os.path.join(directory, "bin", "python"))
    names = ["pip", "pip3", "pip{}.{}".format(*sys.version_info[:2])]
    for name in names:
        path = os.path.join(directory, "bin", name)
        with open(path, "w") as script:
            script.write(text)
        os.chmod(path, 0o755)
    # What pip needs to know to replace itself.
    for info in glob.glob(os.path.join(glob.escape(site), "pip-*.dist-info")):
        with open(os.path.join(info, "INSTALLER"), "w") as installer:
            installer.write("pip\n")
        with open(os.path.join(info, "RECORD"), "a") as record:
            # What the record does not name would outlive the pip that it belongs to, and look like another one.
            record.write(os.path.basename(info) + "/INSTALLER,,\n")
            for name in names:
                record.write(os.path.relpath(os.path.join(directory, "bin", name), site) + ",,\n")


def numbers(name):
    match = re.search(r"-(\d+(?:\.\d+)*)-", os.path.basename(name))
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.links = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "a" and attributes.get("href"):
            self.links.append((attributes["href"], attributes.get("data-requires-python") or ""))


def read(url, limit, accept):
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "caisson"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = answer.read(limit + 1)
        if len(content) > limit:
            raise SystemExit("the answer of {} is too long".format(url))
        return answer.geturl(), answer.headers.get_content_type(), content


def fetch(index, parent):
    """Downloads the newest pip for this interpreter, and holds it against the digest that the index names."""
    if not index:
        raise SystemExit("no package index is configured, and no wheel of pip lies in find-links")
    url, kind, content = read(
        index.rstrip("/") + "/pip/", LONGEST_PAGE, "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    )
    files = []
    if kind.endswith("json"):
        for file in json.loads(content)["files"]:
            digest = (file.get("hashes") or {}).get("sha256", "")
            files.append((urllib.parse.urljoin(url, file["url"]), digest, file.get("requires-python") or ""))
    else:
        page = Links()
        page.feed(content.decode("utf-8", "replace"))
        for link, requires in page.links:
            whole, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(url, link))
            files.append((whole, fragment.partition("sha256=")[2], requires))
    best = None
    for link, digest, requires in files:
        name = urllib.parse.unquote(urllib.parse.urlsplit(link).path.rpartition("/")[2])
        match = re.fullmatch(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl", name) or re.fullmatch(
            r"pip-(\d+(?:\.\d+)*)-py2\.py3-none-any\.whl", name
        )
        if match and digest and fits(requires):
            key = tuple(int(part) for part in match.group(1).split("."))
            if best is None or key > best[0]:
                best = (key, name, link, digest)
    if best is None:
        raise SystemExit("the package index {} has no pip with a digest for this Python".format(index))
    _, name, link, digest = best
    _, _, content = read(link, LONGEST_WHEEL, "*/*")
    if hashlib.sha256(content).hexdigest() != digest.lower():
        raise SystemExit("{} is not what the package index announced".format(name))
    path = os.path.join(parent, name)
    with open(path, "wb") as wheel:
        wheel.write(content)
    return path


def fits(requires):
    for part in requires.split(","):
        match = re.fullmatch(r"\s*(>=|!=|<|==)\s*(\d+(?:\.\d+)*)(\.\*)?\s*", part)
        if not match:
            continue
        operator, number = match.group(1), tuple(int(one) for one in match.group(2).split("."))
        here = tuple(sys.version_info[:3])
        same = here[: len(number)] == number
        if (operator, same) in ((">=", True), ("==", True), ("!=", False)):
            continue
        if operator in ("!=", "==") or (operator == ">=" and here < number) or (operator == "<" and here >= number):
            return False
    return True


main()
