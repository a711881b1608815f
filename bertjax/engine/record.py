"""The record of a run, `OUT/run.json`, and the rules for starting a command on a folder.

The record holds the whole config, package versions, fingerprints of the models and texts that the run started from
and, once it is finished, its result. The same command on the same folder resumes an unfinished run and leaves a
finished one as it is. Refused are other settings on the same folder, and the same settings where a model or text has
been replaced under the same name: the folder would hold a mixture.

`OUT/.lock` is locked while a command works on the folder, and a second command is refused. A bucket has no locks, so
there nothing prevents two commands from writing to one folder.
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
from typing import TYPE_CHECKING, Any

from bertjax.engine.fields import Dataclass, to_dict
from bertjax.engine.hosts import barrier, broadcast_from_main, is_main_process
from bertjax.engine.inputs import changes, inputs
from bertjax.engine.log import json_safe, note
from bertjax.errors import UserError
from bertjax.renamed import renamed
from bertjax.storage.atomic import recover_all
from bertjax.storage.locks import Held, Lock, acquire
from bertjax.storage.paths import absolute, is_remote
from bertjax.storage.typed_json import Json

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.text.reader import TextReader

PACKAGES = ("bertjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "transformers")


def begin(out: Path, config: Dataclass | dict[str, Any], reader: "TextReader | None" = None) -> bool:
    """Starts or resumes a run in this folder. True if the run is finished already. The `reader` of the run gives the
    digests of its files of text, so that each is opened once.

    Raises:
      UserError: Another command works on the folder; it holds a run with other settings, or one that started from
        other models or texts; it cannot be written, or the processes do not share it.
    """
    return broadcast_from_main(lambda: begin_here(out, config, reader))


def begin_here(out: Path, config: Dataclass | dict[str, Any], reader: "TextReader | None" = None) -> bool:
    """`begin`, in one process."""
    keep_compiled_programs()
    acquire_lock(out)
    settings, record = to_dict(config), read_record(out)
    settings.pop("out", None)
    stored = completed(record["config"], config) if record else {}
    stored.pop("out", None)
    fingerprints = inputs(settings, reader)
    different = differences(without_resources(stored), without_resources(settings)) if record else []
    changed = changes((record or {}).get("inputs", {}), fingerprints)
    if record is None or ((different or changed) and not holds_work(out)):
        if not is_main_process():
            raise UserError(
                f"{out} is not the folder of the main process: give --out=gs://BUCKET/NAME, or a folder that all "
                "processes share."
            )
        write_record(out, {"config": settings, "inputs": fingerprints, "versions": versions(), "device": device()})
        return False
    if different:
        raise UserError(
            f"{out} holds a run with other settings (stored -> given): {'; '.join(different[:3])}.\n"
            "Use the same settings to continue it, or another --out."
        )
    if changed:
        state = "a finished run" if "result" in record else "a run"
        raise UserError(
            f"{out} holds {state} that started from other inputs:\n  {'; '.join(changed[:3])}.\n"
            "Restore the inputs of that run, or use another --out."
        )
    return is_finished(out, record)


def keep_compiled_programs() -> None:
    """Turns on jax's compilation cache, so that a resumed or repeated run starts in seconds."""
    import jax

    from bertjax.storage.cache import compiled_dir

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(compiled_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def is_finished(out: Path, record: dict[str, Any]) -> bool:
    """Whether the run has a result and, if it made a model, still has it."""
    if "result" not in record:
        return False
    if record.get("bundle") and not holds_bundle(out):
        note(f"{out} was finished, but its model is missing; the run is repeated")
        return False
    note(f"{out}: finished already{', ' * bool(record['result'])}{result_text(record['result'])}")
    release_lock(out)
    return True


_locks: dict[str, Lock] = {}


def acquire_lock(out: Path) -> None:
    """Locks the folder until `release_lock` or the end of this process, and deletes what killed processes left.

    Raises:
      UserError: Another process works on it, or it cannot be written.
    """
    name = absolute(out)
    if is_remote(out) or not is_main_process() or (name in _locks and _locks[name].exists):
        return
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500]
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    owner = f"process {os.getpid()} on {socket.gethostname()}, since {since}: {command}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _locks[name] = acquire(out / ".lock", owner)
    except Held as holder:
        raise UserError(
            f"another command works on {out}: {holder}\nWait until it ends, or give another --out."
        ) from None
    except OSError as error:
        raise cannot_write(out, error) from None
    recover_all(out)


def release_lock(out: Path) -> None:
    if lock := _locks.pop(absolute(out), None):
        lock.delete()
        lock.close()


@atexit.register
def release_locks() -> None:
    """Releases every folder that this process still holds, as those of a run that failed."""
    for out in list(_locks):
        release_lock(Path(out))


def cannot_write(out: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {out}: {error.strerror or error}. Free space, or give another --out.")


RESOURCES = ("sharding", "profile")
"""Fields that do not change the result. A run may be resumed with other values, on more or fewer devices."""


def without_resources(config: Json) -> Json:
    """A config, as JSON, without `RESOURCES`."""
    if isinstance(config, dict):
        return {name: without_resources(value) for name, value in config.items() if name not in RESOURCES}
    return [without_resources(value) for value in config] if isinstance(config, list) else config


def keep(bundle: "Bundle", folder: Path) -> None:
    """Saves a model in the main process; the others wait until it is written."""
    if is_main_process():
        import bertjax

        bertjax.save(bundle, folder)
    barrier()


def holds_work(out: Path) -> bool:
    """Whether the folder holds results that another run would overwrite. A run that failed before its first checkpoint
    holds none, and must not block the corrected command."""
    from bertjax.storage.paths import names

    work = re.compile(
        r"(^|/)(checkpoints/\d|(bundle|cut)/model\.safetensors$|parts/[^/]+/[^/]+\.jsonl$|augmented\.jsonl$)"
    )
    return any(work.search(name) for name in names(out))


def finish(out: Path, result: dict[str, float], **fingerprints: str) -> None:
    """Records the result and releases the folder: the run is finished."""
    update_record(out, data=fingerprints, result=result, bundle=holds_bundle(out))
    release_lock(out)
    if result or holds_bundle(out):
        note(f"{out / 'bundle'}: {result_text(result) or 'trained'}")


def holds_bundle(out: Path) -> bool:
    """Whether OUT/bundle holds a model: config and weights."""
    folder = out / "bundle"
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def result_text(result: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in result.items())


def read_record(out: Path) -> dict[str, Any] | None:
    path = out / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise ValueError("not the record of a run")
        return record
    except (ValueError, RecursionError):
        raise UserError(
            f"{path} is damaged. Delete it if the settings are the same as before, or use another --out."
        ) from None


def update_record(out: Path, **fields: Any) -> None:
    """Adds fields to the record, if there is one."""
    record = read_record(out)
    if record is not None:
        write_record(out, {**record, **fields})


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Replaces the record atomically, in the main process."""
    from bertjax.storage.paths import write_text

    if not is_main_process():
        return
    try:
        text = json.dumps(json_safe(record), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(out / "run.json", text + "\n")
    except OSError as error:
        raise cannot_write(out, error) from None
    except UnicodeEncodeError as error:
        raise UserError(
            f"the settings hold {error.object[error.start : error.end]!r}, which is not valid Unicode."
        ) from None


def completed(stored: Json, config: Any) -> Any:
    """A stored config of an older version, with new fields at their defaults and renamed fields under their new
    names."""
    if dataclasses.is_dataclass(config) and isinstance(stored, dict):
        defaults = {field.name: default_of(field) for field in dataclasses.fields(config) if field.init}
        stored = renamed(stored, defaults)
        known = {name: completed(value, getattr(config, name, None)) for name, value in stored.items()}
        return {**{name: to_dict(value) for name, value in defaults.items() if name not in known}, **known}
    if isinstance(stored, list) and isinstance(config, (list, tuple)) and len(stored) == len(config):
        return [completed(*pair) for pair in zip(stored, config, strict=True)]
    return stored


def default_of(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def differences(stored: Json, given: Json, path: str = "") -> list[str]:
    """Every field that differs, as `path: stored -> given`. A field that is missing on one side counts as None. Version
    0.1.0 stored the names of classes without their modules."""
    if isinstance(stored, dict) and isinstance(given, dict):
        names = list(dict.fromkeys([*stored, *given]))
        return [line for name in names for line in differences(stored.get(name), given.get(name), f"{path}{name}.")]
    if isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        return [line for i, pair in enumerate(zip(stored, given)) for line in differences(*pair, f"{path}{i}.")]  # noqa: B905
    same_class = path.endswith("_type.") and str(given).rpartition(".")[2] == stored
    same = stored == given or same_class or same_place(stored, given)
    return [] if same else [f"{path[:-1]}: {stored} -> {given}"]


def same_place(stored: Json, given: Json) -> bool:
    """Whether both are paths of one existing file or folder, such as a relative and an absolute one. What it holds is
    compared with the run's other inputs."""
    if not (isinstance(stored, str) and isinstance(given, str)):
        return False
    return os.path.exists(stored) and os.path.exists(given) and os.path.samefile(stored, given)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            from bertjax import __version__

            installed[package] = __version__ if package == "bertjax" else "not installed"
    return installed


def device() -> str:
    import jax

    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"
