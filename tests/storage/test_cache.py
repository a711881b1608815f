"""What is made once and kept, and compiled programs."""

from pathlib import Path

import jax

from bertjax.engine.record import begin
from bertjax.machine.processor import thread_count
from bertjax.measure.processes import environment, processors
from bertjax.recipes.finetune import Config
from bertjax.storage.cache import cached_folder


def test_programs_compiled_for_another_number_of_processors_are_kept_apart(tmp_path: Path, monkeypatch):
    """XLA divides a program among the processors it sees, and JAX's key for it does not say how many they were: a run
    keeps its own, and the worker that may use one processor is sent to those for one."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    was, whole = jax.config.values["jax_compilation_cache_dir"], thread_count()
    one, all_of_them = (str(tmp_path / "compiled" / f"{count}-processors") for count in (1, whole))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        begin(tmp_path / "run", Config())
        assert jax.config.values["jax_compilation_cache_dir"] == all_of_them
        assert environment()["JAX_COMPILATION_CACHE_DIR"] == all_of_them
        with processors(1):
            assert environment()["JAX_COMPILATION_CACHE_DIR"] == one
            jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))  # by the user, who has his reasons
            assert environment()["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "chosen")
    finally:
        jax.config.update("jax_compilation_cache_dir", was)


def test_files_of_another_process_with_the_same_number_block_no_other(tmp_path: Path, monkeypatch):
    """In containers every process is number 1."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))

    def quick(folder: Path) -> None:
        (folder / "whose").write_text("second")

    def slow(folder: Path) -> None:
        (folder / "whose").write_text("first")
        cached_folder("kind", "same", quick)

    place = cached_folder("kind", "same", slow)
    assert (place / "whose").read_text() == "second"  # it was ready first
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]
