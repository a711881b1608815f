"""What every run leaves in its folder, and how it is found again.

`OUT/run.json` says what was asked (the whole config), with what (versions, fingerprints of the models and texts that
the run began from) and, once it is finished, what came out. The same command on the same folder continues an unfinished
run and leaves a finished one as it is; another command on it is refused, because the folder would then hold something
that nobody asked for, and so is the same command where another model or text stands under the same name by now.

While a command works on the folder, `OUT/.lock` says so, and any other is refused. A bucket has no locks, so nothing
keeps two commands apart there.
"""

import atexit
import dataclasses
import json
import os
import re
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import Any

from bertjax.engine.fields import to_dict
from bertjax.engine.hosts import barrier, broadcast_from_main, is_main_process
from bertjax.engine.inputs import changes, inputs
from bertjax.engine.log import defined, note
from bertjax.errors import UserError
from bertjax.renamed import renamed
from bertjax.storage.atomic import settle_all
from bertjax.storage.locks import Held, Lock, acquire
from bertjax.storage.paths import absolute, is_remote

PACKAGES = ("bertjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "transformers")


def begin(out: Path, config: Any) -> bool:
    """Claims the folder for this config. True if the run is finished already.

    Raises:
      UserError: Another command works on the folder; it holds a run with other settings, or one that began from other
        models or texts than those that stand there now; it cannot be written, or is another one for each process.
    """
    return broadcast_from_main(lambda: claim(out, config))


def claim(out: Path, config: Any) -> bool:
    """`begin`, in one process."""
    import jax

    from bertjax.storage.cache import compiled_dir

    # Compiled programs are kept between runs: a resumed or repeated run starts in seconds.
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(compiled_dir()))
    occupy(out)
    asked, record = to_dict(config), read_record(out)
    asked.pop("out", None)
    stored = completed(record["config"], config) if record else {}
    stored.pop("out", None)
    differing = differences(what(stored), what(asked)) if record else []
    found = inputs(asked)
    changed = changes((record or {}).get("inputs", {}), found)
    if record is None or ((differing or changed) and not holds_work(out)):
        if not is_main_process():
            raise UserError(
                f"{out} is not the folder that the first process sees: give --out=gs://BUCKET/NAME, or a folder that "
                "all of them share."
            )
        write_record(out, {"config": asked, "inputs": found, "versions": versions(), "device": device()})
        return False
    if differing:
        raise UserError(
            f"{out} holds a run with other settings (there -> here): {'; '.join(differing[:3])}.\n"
            "Use the same settings to continue it, or another --out."
        )
    if changed:
        state = "is finished, and began" if "result" in record else "holds a run that began"
        raise UserError(
            f"{out} {state} with something else than what stands there now:\n  {'; '.join(changed[:3])}.\n"
            "Put back what it began with, or use another --out."
        )
    if "result" in record and record.get("bundle") and not holds_bundle(out):
        note(f"{out} was finished, and its model is gone: it is made again")
    elif "result" in record:
        note(f"{out}: finished already{', ' * bool(record['result'])}{show(record['result'])}")
        vacate(out)
        return True
    return False


_locks: dict[str, Lock] = {}


def occupy(out: Path) -> None:
    """Locks the folder for this process until it ends or is done with it, and removes what killed ones left there.

    Raises:
      UserError: Another process works on it, or it cannot be written.
    """
    name = absolute(out)
    if is_remote(out) or not is_main_process() or (name in _locks and _locks[name].stands):
        return
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500]
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _locks[name] = acquire(
            out / ".lock", f"process {os.getpid()} on {socket.gethostname()}, since {since}: {command}"
        )
    except Held as holder:
        raise UserError(
            f"another command works on {out}: {holder}\nWait until it ends, or give another --out."
        ) from None
    except OSError as error:
        raise no_room(out, error) from None
    settle_all(out)


def vacate(out: Path) -> None:
    """Lets others work on the folder."""
    if lock := _locks.pop(absolute(out), None):
        lock.delete()
        lock.close()


@atexit.register
def _vacate_all() -> None:
    for out in list(_locks):
        vacate(Path(out))


def no_room(out: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {out}: {error.strerror or error}. Free space, or give another --out.")


WHERE = ("sharding", "profile")
"""Fields that say where and how a run is computed. It may be continued with others, on more or fewer devices."""


def what(config: Any) -> Any:
    """A config, as JSON, without `WHERE`."""
    if isinstance(config, dict):
        return {name: what(value) for name, value in config.items() if name not in WHERE}
    return [what(value) for value in config] if isinstance(config, list) else config


def keep(bundle: Any, folder: Path) -> None:
    """Saves a model, from the first process; the others go on when it is there."""
    import bertjax

    if is_main_process():
        bertjax.save(bundle, folder)
    barrier()


def holds_work(out: Path) -> bool:
    """Whether there is anything that would be lost or mistaken for something else. A run that ended in a user's mistake
    before its first checkpoint left nothing, and must not stand in the way of the corrected command."""
    from bertjax.storage.paths import names

    work = re.compile(
        r"(^|/)(checkpoints/\d|(bundle|cut)/model\.safetensors$|parts/[^/]+/[^/]+\.jsonl$|augmented\.jsonl$)"
    )
    return any(work.search(name) for name in names(out))


def finish(out: Path, result: dict[str, float], **fingerprints: str) -> None:
    """Records the result; from now on the run is finished."""
    update_record(out, data=fingerprints, result=result, bundle=holds_bundle(out))
    vacate(out)
    note(f"{out / 'bundle'}: {show(result) or 'trained'}")


def holds_bundle(out: Path) -> bool:
    """Whether there is a model, config and weights, in the folder of a run."""
    folder = out / "bundle"
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def show(result: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in result.items())


def read_record(out: Path) -> dict[str, Any] | None:
    path = out / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise ValueError("no record of a run")
        return record
    except (ValueError, RecursionError):
        raise UserError(
            f"{path} is damaged. Delete it if the settings are the same as before, or use another --out."
        ) from None


def update_record(out: Path, **fields: Any) -> None:
    """Adds to the record of a run that has begun."""
    record = read_record(out)
    if record is not None:
        write_record(out, {**record, **fields})


def write_record(out: Path, record: dict[str, Any]) -> None:
    """A killed run leaves the old record or the new one. The first process writes it."""
    from bertjax.storage.paths import write_text

    if not is_main_process():
        return
    try:
        text = json.dumps(defined(record), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(out / "run.json", text + "\n")
    except OSError as error:
        raise no_room(out, error) from None
    except UnicodeEncodeError as error:
        raise UserError(f"the settings hold {error.object[error.start : error.end]!r}, which is no Unicode.") from None


def completed(stored: Any, config: Any) -> Any:
    """A stored config with the fields that its version did not know yet: each at its default, which is what it did."""
    if dataclasses.is_dataclass(config) and isinstance(stored, dict):
        defaults = {field.name: default_of(field) for field in dataclasses.fields(config) if field.init}
        stored = renamed(stored, defaults)
        known = {name: completed(value, getattr(config, name, None)) for name, value in stored.items()}
        return {**{name: to_dict(value) for name, value in defaults.items() if name not in known}, **known}
    if isinstance(stored, list) and isinstance(config, (list, tuple)) and len(stored) == len(config):
        return [completed(*pair) for pair in zip(stored, config, strict=True)]
    return stored


def default_of(field: dataclasses.Field) -> Any:
    """A field's default; None where it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """Every field that differs, as `path: there -> here`. A field that is missing on one side, where it was not yet
    known, is as good as None."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = list(dict.fromkeys([*there, *here]))
        return [line for name in names for line in differences(there.get(name), here.get(name), f"{path}{name}.")]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return [line for i, pair in enumerate(zip(there, here)) for line in differences(*pair, f"{path}{i}.")]  # noqa: B905
    return [] if there == here else [f"{path[:-1]}: {there} -> {here}"]


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            from bertjax import __version__

            found[package] = __version__ if package == "bertjax" else "not installed"
    return found


def device() -> str:
    import jax

    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"
