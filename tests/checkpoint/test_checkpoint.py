"""Checkpoints: what was saved comes back bit for bit or is named as damaged; never anything in between."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from bertjax.checkpoint import Checkpoints, restore, save, steps
from bertjax.errors import UserError


def params(seed: int = 0, rows: int = 64) -> dict[str, Any]:
    key = jax.random.key(seed)
    return {
        "encoder": {"layer_0": {"kernel": jax.random.normal(key, (rows, 32)), "bias": jnp.zeros(32)}},
        "head": {"kernel": jax.random.normal(key, (32, 3), jnp.bfloat16)},
    }


def everything(seed: int = 0) -> dict[str, Any]:
    """Every kind of leaf that a training state may hold."""
    weights = params(seed)
    optimiser = optax.adamw(1e-3)
    _, opt = jax.jit(optimiser.update)(weights, optimiser.init(weights), weights)
    return {
        "params": weights,
        "opt": opt,
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "raw_key": jax.random.key_data(jax.random.key(seed)),
        "mask": jnp.array([True, False]),
        "int4": jnp.array([-8, 7], jnp.int4),
        "numpy": [np.arange(3), np.float64(0.1), np.array(7, np.int8)],
        "python": (3, 0.5, True),
        "empty": (jnp.zeros((0, 4)), np.zeros(0, np.int64), None, {}),
        "bits": np.array([0x7FC00001, 0xFF800001, 0x80000000, 1], np.uint32).view(np.float32),
    }


def assert_same(ours: Any, theirs: Any) -> None:
    """Same structure, kinds of leaf, dtypes, shapes and bits."""
    chex.assert_trees_all_equal_structs(ours, theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert type(a) is type(b)
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A Python process of its own, with one device."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder: Path) -> Path:
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


# What comes back


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    state, extra = everything(), {"position": {"next_index": 7}, "metrics": {"accuracy": 0.1}, "note": "é"}
    save(tmp_path, 12, state, extra=extra)
    restored = restore(tmp_path, jax.tree.map(lambda x: x, everything(1)))
    assert (restored.step, restored.extra, restored.skipped) == (12, extra, [])
    assert_same(restored.state, state)


def test_a_template_of_shapes_is_enough(tmp_path):
    state = {"params": params(), "key": jax.random.key(5), "opt": optax.adam(1e-3).init(params())}
    save(tmp_path, 1, state)
    assert_same(restore(tmp_path, jax.eval_shape(lambda: state)).state, state)


def test_a_bare_array_is_a_state_too(tmp_path):
    save(tmp_path, 0, jnp.arange(3))
    assert_same(restore(tmp_path, np.zeros(3, np.int32)).state, np.arange(3, dtype=np.int32))


def test_the_newest_step_or_the_one_asked_for(tmp_path):
    for step in (2, 10, 9):
        save(tmp_path, step, {"x": jnp.full(3, step)})
    assert steps(tmp_path) == [2, 9, 10]
    assert restore(tmp_path, {"x": jnp.zeros(3, int)}).step == 10
    assert restore(tmp_path, {"x": np.zeros(3, np.int32)}, step=9).state["x"].tolist() == [9, 9, 9]


def test_plain_orbax_opens_a_step(tmp_path):
    state = {"params": params(), "opt": optax.adam(1e-3).init(params()), "key": jax.random.key(3)}
    save(tmp_path, 4, state, extra={"position": 9})
    np.save(tmp_path / "kernel.npy", state["params"]["encoder"]["layer_0"]["kernel"])
    done = run(
        """
        import sys
        import numpy as np
        import orbax.checkpoint as ocp
        folder = sys.argv[1]
        manager = ocp.CheckpointManager(folder)
        wanted = ocp.args.Composite(state=ocp.args.StandardRestore(), record=ocp.args.JsonRestore())
        items = manager.restore(4, args=wanted)
        assert items.record["extra"] == {"position": 9}
        trees = [items.state]
        trees += [ocp.StandardCheckpointer().restore(f"{folder}/4/state")]
        trees += [ocp.PyTreeCheckpointer().restore(f"{folder}/4/state")]
        for tree in trees:
            kernel = tree["params"]["encoder"]["layer_0"]["kernel"]
            assert np.array_equal(kernel, np.load(f"{folder}/kernel.npy"))
            assert tree["params"]["head"]["kernel"].dtype == "bfloat16"
            assert set(tree["opt"]["0"]) == {"count", "mu", "nu"}
            assert np.asarray(tree["key"]).tolist() == [0, 3]
        assert "bertjax" not in sys.modules
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


# Devices


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))


def test_any_sharding_restores_onto_any_other(tmp_path):
    split, whole = NamedSharding(mesh(), P("data")), NamedSharding(mesh(), P())
    one = SingleDeviceSharding(jax.devices()[3])
    x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    for step, place in enumerate((split, whole, one)):
        save(tmp_path, step, {"x": jax.device_put(x, place)})
        for target in (split, whole, one):
            got = restore(tmp_path, {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=target)}, step=step).state[
                "x"
            ]
            assert got.sharding.is_equivalent_to(target, 2)
            assert np.array_equal(got, x)
        assert isinstance(restore(tmp_path, {"x": x}, step=step).state["x"], np.ndarray)


def test_eight_devices_wrote_and_one_device_reads(tmp_path):
    x = jnp.arange(32.0).reshape(16, 2)
    keys = jax.random.split(jax.random.key(0), 8)
    save(tmp_path, 3, jax.device_put({"x": x, "keys": keys}, NamedSharding(mesh(), P("data"))))
    done = run(
        """
        import sys, jax, numpy as np
        from bertjax.checkpoint import restore
        assert jax.device_count() == 1
        template = {"x": jax.ShapeDtypeStruct((16, 2), np.float32), "keys": jax.random.split(jax.random.key(1), 8)}
        state = restore(sys.argv[1], template).state
        assert np.array_equal(state["x"], np.arange(32.0).reshape(16, 2))
        assert (state["keys"] == jax.random.split(jax.random.key(0), 8)).all()
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


# Damage


def damage_bits(step: Path) -> None:
    path = largest(step / "state")
    flip(path, 4 * path.stat().st_size)


def damage_length(step: Path) -> None:
    path = largest(step / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_extra(step: Path) -> None:
    path = step / "record" / "metadata"
    path.write_text(path.read_text().replace('"position": 7', '"position": 8'))


def damage_text(step: Path) -> None:
    (step / "record" / "metadata").write_bytes(b'{"leaves": \xff')


def damage_by_emptying(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


DAMAGE = {
    damage_bits: "the bits of params/encoder/layer_0/kernel are not those",
    damage_length: "its arrays cannot be read",
    damage_extra: "record/metadata was changed after it was written",
    damage_text: "record/metadata is not JSON",
    damage_by_emptying: "the folder is empty",
    lambda step: shutil.rmtree(step / "record"): "record/metadata cannot be read",
    lambda step: shutil.rmtree(step / "state"): "its arrays cannot be read",
    lambda step: (step / "state" / "manifest.ocdbt").unlink(): "its arrays cannot be read",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.items())
def test_a_damaged_step_is_named_and_the_step_before_it_used(tmp_path, damage, reason):
    template = {"params": params(9), "opt": optax.adam(1e-3).init(params())}
    states = {step: template | {"params": params(step)} for step in (1, 2)}
    for step, state in states.items():
        save(tmp_path, step, state, extra={"position": 7})
    damage(tmp_path / "2")
    before = files(tmp_path)

    restored = restore(tmp_path, template)
    assert restored.step == 1
    assert_same(restored.state, states[1])
    assert len(restored.skipped) == 1
    assert restored.skipped[0].startswith(f"step 2: {reason}")
    with pytest.raises(UserError, match=f"step 2 in .* is damaged: {reason}"):
        restore(tmp_path, template, step=2)
    assert files(tmp_path) == before  # reading changes nothing

    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(template)
        assert restored is not None
        assert restored.skipped[0].startswith(f"step 2: {reason}")
        assert checkpoints.save(2, states[2])
    assert steps(tmp_path) == [1, 2]
    assert (tmp_path / "bad-2").is_dir()
    assert_same(restore(tmp_path, template, step=2).state, states[2])


def test_no_flipped_bit_anywhere_in_a_step_goes_unseen(tmp_path):
    """Random bits of all files: the state comes back exact (the bit was of no use), or the step is named as damaged."""
    rng, state, extra = random.Random(0), params(), {"position": 7}
    save(tmp_path / "good", 1, state)
    save(tmp_path / "good", 2, state, extra=extra)
    paths = [path.relative_to(tmp_path / "good") for path in files(tmp_path / "good" / "2")]
    seen = 0
    for _ in range(60):
        path = rng.choice(paths)
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        flip(tmp_path / "bad" / path, rng.randrange(8 * (tmp_path / "bad" / path).stat().st_size))
        restored = restore(tmp_path / "bad", state)
        assert_same(restored.state, state)
        assert (restored.step, restored.extra, restored.skipped) == (2, extra, []) or restored.step == 1
        seen += restored.step == 1
    assert seen > 10


def test_half_written_steps_are_named_and_cleared_away(tmp_path):
    save(tmp_path, 5, params())
    half = tmp_path / "6.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "5", half)
    assert restore(tmp_path, params()).skipped == ["step 6: half-written"]
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(params())
        assert restored is not None
        assert (restored.step, restored.skipped) == (5, ["step 6: half-written"])
        assert not half.exists()
        checkpoints.save(6, params())
    assert steps(tmp_path) == [5, 6]


def test_a_damaged_step_does_not_block_its_number_without_a_restore(tmp_path):
    (tmp_path / "8").mkdir()
    save(tmp_path, 8, params())
    assert restore(tmp_path, params()).step == 8
    damage_bits(tmp_path / "8")
    save(tmp_path, 8, params())
    assert restore(tmp_path, params()).skipped == []
    assert {path.name for path in tmp_path.iterdir()} == {"8", "bad-8", "bad-8-2"}


def test_when_every_step_is_damaged_nothing_is_touched_and_nothing_starts_anew_by_itself(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, params())
        damage_bits(tmp_path / str(step))
    before = files(tmp_path)
    for _ in range(2):
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(UserError, match=r"(?s)every checkpoint.*step 2.*step 1"),
        ):
            checkpoints.restore_latest(params())
    assert files(tmp_path) == before


def test_damaged_steps_do_not_count_among_those_to_keep(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, params(step))
    damage_bits(tmp_path / "3")
    damage_by_emptying(tmp_path / "4")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore_latest(params()).step == 2  # type: ignore[union-attr]
        checkpoints.save(3, params(3))
    assert steps(tmp_path) == [2, 3]


# Templates that do not fit


def test_a_template_that_does_not_fit_is_told_where_and_no_step_is_called_damaged(tmp_path):
    save(
        tmp_path,
        1,
        {"a": jnp.zeros(2), "b": jnp.zeros((2, 3)), "k": jax.random.key(0), **{f"x{i}": 1 for i in range(5)}},
    )
    template = {
        "a": jnp.zeros(2, jnp.bfloat16),
        "b": jnp.zeros((3, 2)),
        "k": jax.random.key_data(jax.random.key(0)),
        "c": 1,
    }
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore_latest(template)
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        "only in the template: c",
        "only in the checkpoint: x0, x1, x2 (+2 more)",
        "stored with another dtype or shape: a is float32[2], expected bfloat16[2]; b is float32[2,3], expected "
        "float32[3,2]; k is threefry2x32 key as uint32[2], expected uint32[2]",
    ]
    assert steps(tmp_path) == [1]


def test_eight_byte_numbers_are_not_halved(tmp_path):
    save(tmp_path, 1, {"x": np.array([0.1])})
    with pytest.raises(UserError, match="x: jax holds float64 only with jax_enable_x64"):
        restore(tmp_path, {"x": jax.ShapeDtypeStruct((1,), np.float64)})
    assert restore(tmp_path, {"x": np.zeros(1)}).state["x"] == 0.1


# What a run keeps


def test_the_newest_steps_and_the_best_stay(tmp_path):
    accuracy = [0.1, 0.8, 0.8, 0.3, 0.2, float("nan"), None]
    with Checkpoints(tmp_path, keep=2, best=lambda extra: extra["accuracy"]) as checkpoints:
        for step, score in enumerate(accuracy):
            checkpoints.save(step, {"x": jnp.zeros(2)}, {"accuracy": score})
        checkpoints.wait()
        assert checkpoints.best_step() == 2
    assert steps(tmp_path) == [2, 5, 6]
    with Checkpoints(tmp_path, keep=1, best=lambda extra: extra["accuracy"]) as checkpoints:
        checkpoints.save(7, {"x": jnp.zeros(2)}, {"accuracy": 0.1})
    assert steps(tmp_path) == [2, 7]


def test_every_so_many_steps_and_whenever_forced(tmp_path):
    with Checkpoints(tmp_path, keep=None, every=3) as checkpoints:
        assert checkpoints.restore_latest({"x": 0}) is None
        saved = [step for step in range(1, 8) if checkpoints.save(step, {"x": step})]
        assert checkpoints.save(7, {"x": 7}, force=True)
        assert not checkpoints.save(7, {"x": 7}, force=True)
    assert saved == [3, 6]
    assert steps(tmp_path) == [3, 6, 7]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest({"x": 0}).step == 7  # type: ignore[union-attr]
        assert not checkpoints.save(7, {"x": 7}, force=True)


def test_a_whole_step_is_never_overwritten(tmp_path):
    save(tmp_path, 1, {"x": jnp.zeros(2)})
    with pytest.raises(UserError, match=r"step 1 is already in .*\nSave another step, or delete"):
        save(tmp_path, 1, {"x": jnp.ones(2)})
    assert restore(tmp_path, {"x": jnp.ones(2)}).state["x"].tolist() == [0, 0]


# Saving while training goes on


def test_donated_buffers_and_changed_arrays_are_saved_as_they_were(tmp_path):
    """The step after `save` writes into the very memory that is being saved, many times before the write ends."""
    step_fn = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state, host = step_fn({f"x{i}": jnp.zeros((512, 512)) for i in range(8)}), np.zeros(2**20)
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        for step in range(1, 4):
            expected = float(state["x0"][0, 0])
            checkpoints.save(step, {"device": state, "host": host}, {"expected": expected})
            host += 1
            for _ in range(5):
                state = step_fn(state)
    step_fn(state)  # a template whose buffers are gone will do
    for step in (1, 2, 3):
        restored = restore(tmp_path, {"device": state, "host": host}, step=step)
        assert all((x == restored.extra["expected"]).all() for x in restored.state["device"].values())
        assert (restored.state["host"] == step - 1).all()


@pytest.mark.slow
def test_a_run_killed_while_saving_goes_on_from_a_whole_step(tmp_path):
    """SIGKILL at random moments of writing, in a process that saves without pause; the next one goes on from there."""
    code = """
        import sys
        import jax.numpy as jnp
        from bertjax.checkpoint import Checkpoints
        state = lambda step: {"x": jnp.full((256, 1024), step, jnp.int32), "step": step}
        with Checkpoints(sys.argv[1]) as checkpoints:
            restored = checkpoints.restore_latest(state(0))
            step = restored.step if restored else 0
            print(step, flush=True)
            while True:
                step += 1
                checkpoints.save(step, state(step), {"position": step})
                checkpoints.wait() if step % 2 else None
                print(step, flush=True)
    """
    rng, reached = random.Random(os.getpid()), 0
    for _ in range(4):
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == reached
            for _ in range(2 + rng.randrange(4)):
                process.stdout.readline()
            while not list(tmp_path.glob("*.orbax-checkpoint-tmp")):
                pass
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        restored = restore(tmp_path, {"x": np.zeros((256, 1024), np.int32), "step": 0})
        assert restored.extra == {"position": restored.step}
        assert restored.state["step"] == restored.step
        assert (restored.state["x"] == restored.step).all()
        assert restored.step > reached
        assert all("half-written" in reason for reason in restored.skipped)
        reached = restored.step
    assert not list(tmp_path.glob("bad-*"))


# What the disk refuses


def test_a_write_that_fails_is_one_sentence_and_the_last_good_step_stays(tmp_path):
    """Files are limited to 1 MB, as a quota or a full disk would: the writes themselves fail, in Orbax's threads."""
    done = run(
        """
        import resource, sys
        import jax, numpy as np
        from bertjax.checkpoint import Checkpoints, restore, save, steps
        from bertjax.errors import UserError
        small, large = {"x": np.ones(10)}, {"x": np.random.default_rng(0).normal(size=10**6)}
        checkpoints = Checkpoints(sys.argv[1], keep=1)
        checkpoints.save(1, small)
        checkpoints.wait()
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, unlimited[1]))
        for attempt in (
            lambda: (checkpoints.save(2, large), checkpoints.wait()),
            lambda: (checkpoints.save(2, large), checkpoints.save(3, small)),
            lambda: save(sys.argv[1], 2, large),
        ):
            try:
                attempt()
            except UserError as error:
                print(error)
            assert steps(sys.argv[1]) == [1]
            assert restore(sys.argv[1], small).skipped == []
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        checkpoints.save(2, large)
        checkpoints.close()
        assert steps(sys.argv[1]) == [2]
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    hint = "Existing checkpoints are unchanged. Free disk space or choose another folder, and run again."
    assert done.stdout.splitlines() == [f"cannot write checkpoints to {tmp_path}: File too large.", hint] * 3
    assert done.stderr == ""


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*: Not a directory\."):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*: File exists\."):
        save(tmp_path / "file", 1, {"x": jnp.zeros(1)})


# Mistakes


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": "text"}, "a of the state is a str; a checkpoint holds arrays and numbers only"),
        ({"a": np.array(["x"])}, "a of the state has dtype <U1"),
        ({"a": jnp.zeros(0)}, "the state is empty: no array in it has an element"),
        ({}, "the state is empty: no array in it has an element"),
        ({"a": {"b": 1}, "a/b": 2}, "two entries of the state have the path 'a/b'"),
        ({"a": {"b": 1}, "a.b": 2}, r"stored under the same path \(a.b, a/b\)|stored under the same path \(a/b, a.b\)"),
        ({"a": 1, "a/b": 2}, r"stored under the same path \(a\)"),
    ],
)
def test_a_state_that_cannot_be_stored_is_refused(tmp_path, state, message):
    with pytest.raises(UserError, match=message):
        save(tmp_path, 1, state)
    assert steps(tmp_path) == []


def test_mistakes_say_what_there_is(tmp_path):
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}"):
        restore(tmp_path, {"x": 0})
    save(tmp_path, 3, {"x": 0})
    with pytest.raises(UserError, match=r"no step 4 in .*; it holds: 3\."):
        restore(tmp_path, {"x": 0}, step=4)
    with pytest.raises(UserError, match=r"`extra` of a checkpoint must hold JSON values only: .*ndarray"):
        save(tmp_path, 5, {"x": 0}, extra={"metrics": np.zeros(3)})
    with pytest.raises(UserError, match="must be 1 or more"):
        Checkpoints(tmp_path, keep=0)


def test_the_record_is_for_people_too(tmp_path):
    save(tmp_path, 1, {"w": jnp.zeros((2, 3), jnp.bfloat16)}, extra={"config": {"seed": 1}})
    record = json.loads((tmp_path / "1" / "record" / "metadata").read_text())
    assert record["extra"] == {"config": {"seed": 1}}
    assert record["leaves"]["w"] | {"digest": ""} == {"dtype": "bfloat16", "shape": [2, 3], "digest": ""}
