"""Data sets of TensorFlow Datasets, without TensorFlow.

`tfds:NAME/SPLIT` reads a data set that is prepared in TFDS's own folder (`$TFDS_DATA_DIR`, else
`~/tensorflow_datasets`) as array_record files, or prepares it there from the original archives if they are on disk.
TFDS needs TensorFlow to unpack an archive, so a download would end in an error. Instead, the error message names one
command that downloads and unpacks the archive to where TFDS looks; after that the same source works.
"""

import contextlib
import logging
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.text.table import Table

UNPACK = {  # TFDS's prefix of the folder of an unpacked archive -> the command that unpacks it without TensorFlow
    "ZIP": "python -m zipfile -e {archive} {folder}",
    "TAR": "python -m tarfile -e {archive} {folder}",
    "GZIP": "gunzip -c {archive} > {folder}",
    "BZIP2": "bunzip2 -c {archive} > {folder}",
}
METRICS = {"glue/cola": "matthews", "glue/mrpc": "f1", "glue/qqp": "f1"}  # where GLUE's metric is not accuracy


def tfds_table(source: str) -> Table:
    """The rows of `tfds:NAME/SPLIT`, e.g. `tfds:glue/sst2/validation` or `tfds:imdb_reviews/train[:10%]`.

    Bytes become text, and class numbers become names (in the data set's order). The -1 of an unlabelled test split
    becomes a missing label.
    """
    name, _, split = source.removeprefix("tfds:").rpartition("/")
    if not name or not split:
        raise UserError(f'cannot read "{source}": expected tfds:NAME/SPLIT, e.g. tfds:glue/sst2/train')
    builder = open_builder(source, name, split)
    known = list(builder.info.splits)
    if split.partition("[")[0] not in known:
        raise UserError(
            f'{source}: no split "{split}" in {builder.info.full_name}; expected one of: {", ".join(known)}'
        )
    rows = read_rows(source, builder, split)
    features = builder.info.features
    columns = {column: [plain(features[column], row[column]) for row in rows] for column in features}
    columns = {column: cells for column, cells in columns.items() if set(map(str, cells)) - {"None", "-"}}
    names = {column: class_names(features[column]) for column in columns}
    metric = METRICS.get(name.partition(":")[0], "auto")
    return Table(columns, source, lambda row: f"row {row}", label_names=names, metric=metric)


def open_builder(source: str, name: str, split: str) -> Any:
    """The data set's builder, with its data on disk."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # without TensorFlow, only this import registers glue

    data_dir = os.environ.get("TFDS_DATA_DIR")  # TFDS itself reads it only once, at import
    try:
        with quiet():
            builder = tfds.builder(name, data_dir=data_dir)
            if split in builder.builder_configs:
                raise UserError(f"{source}: {split} is a configuration of {name}; add the split, e.g. {source}/train")
            stay_local(source, builder)
            builder.download_and_prepare(
                file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError:
        where = data_dir or "~/tensorflow_datasets"
        raise UserError(f'{source}: TFDS knows no data set "{name}", and there is none in {where}') from None
    except Exception as error:  # whatever TFDS's parsers, checks and TensorFlow's absence raise
        raise UserError(what_to_do(source, name, error)) from error
    return builder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides TFDS's messages and progress bars: stdout may be data, and an error should not be buried."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logger.setLevel(level)


def stay_local(source: str, builder: Any) -> None:
    """Make the builder raise a `UserError` with the command that downloads a file, instead of downloading it in vain.

    Files outside of TFDS's checksum tables are downloaded as usual, because TFDS would not look for them in its folder.
    """
    from tensorflow_datasets.core.download.resource import ExtractMethod, guess_extract_method

    make_manager = builder._make_download_manager  # a private method, but the only hook; covered by a test

    def make_local_manager(**options: Any) -> Any:
        manager = make_manager(**options)
        fetch = manager._download

        def ask(resource: Any) -> Any:
            known = manager._url_infos.get(resource.url)
            if known is None or not known.filename:
                return fetch(resource)
            archive = Path(manager._manual_dir, known.filename)
            command = f"curl -fL --create-dirs -o {shlex.quote(str(archive))} {shlex.quote(resource.url)}"
            method = guess_extract_method(archive.name)
            if method is not ExtractMethod.NO_EXTRACT:
                folder = Path(manager._extract_dir, f"{method.name}.{archive.name}")
                command = f"{command} && {unpack_command(archive, folder)}"
            raise UserError(f"{source}: not downloaded yet; run this command, then try again:\n  {command}")

        manager._download = ask
        return manager

    builder._make_download_manager = make_local_manager


def unpack_command(archive: Path, folder: Path) -> str:
    """The command that unpacks an archive to where TFDS looks for its contents: a folder named after the method
    (ZIP.name.zip)."""
    method = folder.name.partition(".")[0].partition("_")[0]
    return UNPACK[method].format(archive=shlex.quote(str(archive)), folder=shlex.quote(str(folder)))


def what_to_do(source: str, name: str, error: Exception) -> str:
    """The message for a failure of TFDS: if possible with the one command that does by hand what TFDS needs TensorFlow
    for."""
    if match := re.match(r"Error while extracting (.+) to (.+?): ", str(error)):
        archive, folder = (Path(part) for part in match.groups())
        command = unpack_command(archive, folder)
        return (
            f"{source}: TFDS needs TensorFlow to unpack {archive.name}; run this instead, then try again:\n  {command}"
        )
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"{source}: TFDS cannot prepare it without TensorFlow\n  {reason[:300]}\n"
        "prepare it on a machine with TensorFlow, and copy the folder that this command prints:\n"
        f"  tfds build {name} --file_format=array_record"
    )


def read_rows(source: str, builder: Any, split: str) -> list[dict[str, Any]]:
    """All rows of a split; their number must be that of the data set's metadata."""
    try:
        reader = builder.as_data_source(split=split)
        rows = reader.__getitems__(range(len(reader)))  # all at once is 2.5 times as fast as one by one
    except NotImplementedError:
        raise UserError(
            f"{source}: prepared in {builder.data_dir} as {builder.info.file_format.value}, which needs TensorFlow\n"
            "delete that folder and prepare it again as array_record"
        ) from None
    except ValueError as error:
        raise UserError(f'{source}: cannot read the split "{split}" ({error})'[:400]) from None
    except (RuntimeError, OSError) as error:  # a truncated or missing file
        raise UserError(f"{source}: damaged ({error}); delete {builder.data_dir} and try again"[:400]) from None
    expected = builder.info.splits[split].num_examples
    if len(rows) != expected:  # TFDS 4.9.10 writes incomplete Parquet files without an error
        raise UserError(
            f"{source}: {expected} rows expected, {len(rows)} found; delete {builder.data_dir} and try again"
        )
    return rows


def plain(feature: Any, value: Any) -> Any:
    """A TFDS value as plain Python: text, number, class name ("-", no label, for -1), or lists and dicts of these."""
    inner = getattr(feature, "feature", None)  # the feature of a sequence's items
    if isinstance(value, dict) and inner is not None:
        return {key: [plain(inner[key], item) for item in items] for key, items in value.items()}
    if isinstance(value, dict):
        return {key: plain(feature[key], item) for key, item in value.items()}
    if inner is not None:
        return [plain(inner, item) for item in value]
    if names := getattr(feature, "names", None):
        return names[value] if value >= 0 else "-"
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")  # a later check reports row and column of what is no UTF-8
    return value.tolist() if hasattr(value, "tolist") else value


def class_names(feature: Any) -> tuple[str, ...]:
    """The class names of a column, or of the items of its lists, in their order; empty if it has none."""
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())
