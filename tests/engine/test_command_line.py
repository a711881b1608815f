import dataclasses
import errno
import json
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

import pytest

from bertjax.engine import command_line
from bertjax.engine.fields import leaves, replace, to_dict
from bertjax.errors import UserError
from bertjax.machine.signals import Stopped
from bertjax.recipes.data import Data, Metric
from bertjax.text.tasks import METRICS


@dataclasses.dataclass(frozen=True)
class Soft:
    weight: float = 1.0
    """How much this term counts."""
    layers: dict[int, int] | None = None

    def __post_init__(self):
        if self.weight < 0:
            raise UserError(f"weight={self.weight}: a loss cannot count less than nothing")


class Loss(Protocol):
    @property
    def weight(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Stage:
    rate: float = 1e-4
    losses: tuple[Loss, ...] = (Soft(), Soft(2.0))


@dataclasses.dataclass(frozen=True)
class Config:
    model: str = "demo"
    """Where the weights are."""
    data: Data = Data()
    stages: tuple[Any, ...] = (Stage(),)
    more: tuple[Any, ...] = ()
    steps: int | None = None
    """Number of updates. Or give epochs."""
    epochs: float | None = 3
    batch_size: int = 32
    kind: Literal["soft", "hard"] = "soft"
    cached: bool = True
    mesh: tuple[int, int] = (1, 1)
    columns: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    out: Path = Path("runs/here")

    def __post_init__(self):
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs say the same thing: set one to none")


def parse(*argv: str) -> Config:
    return command_line.parse(Config, argv)


def mistake(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv)
    assert str(caught.value).count("\n") < 5
    return str(caught.value)


@pytest.fixture
def config_file(tmp_path):
    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(textwrap.dedent(text))
        return f"--config={tmp_path / name}"

    return write


@pytest.mark.parametrize(
    ("argv", "path", "value"),
    [
        (["--model=hf:bert"], "model", "hf:bert"),
        (["--model=--odd=name"], "model", "--odd=name"),
        (["--model", "a b"], "model", "a b"),
        (["--model="], "model", ""),
        (["--data.max_length=64"], "data.max_length", 64),
        (["--data.max-length", "64"], "data.max_length", 64),
        (["--max-length=64"], "data.max_length", 64),
        (["--max_length=32", "--data.max_length=64"], "data.max_length", 64),
        (["--train=a.tsv"], "data.train", "a.tsv"),
        (["--data.text_pair=question"], "data.text_pair", "question"),
        (["--data.text_pair=none"], "data.text_pair", None),
        (["--epochs=none"], "epochs", None),
        (["--epochs=2"], "epochs", 2.0),
        (["--kind=hard"], "kind", "hard"),
        (["--cached=false"], "cached", False),
        (["--cached", "False"], "cached", False),
        (["--cached"], "cached", True),
        (["--mesh=2,4"], "mesh", (2, 4)),
        (["--mesh", "2", "4"], "mesh", (2, 4)),
        (["--mesh=(2, 4)"], "mesh", (2, 4)),
        (["--columns=a,b,c"], "columns", ("a", "b", "c")),
        (["--columns="], "columns", ()),
        (["--columns", "a,b", "c"], "columns", ("a,b", "c")),
        (["--rates=(a|b)/.*,0.5"], "rates", (("(a|b)/.*", 0.5),)),
        (["--rates", "a{1,2}", "0.5", "b", "2"], "rates", (("a{1,2}", 0.5), ("b", 2.0))),
        (["--out=/tmp/x"], "out", Path("/tmp/x")),
        (["--stages.0.rate=-3e-1"], "stages.0.rate", -0.3),
        (["--stages.0.rate", "-3e-1"], "stages.0.rate", -0.3),
        (["--stages.0.losses.1.weight=0.5"], "stages.0.losses.1.weight", 0.5),
        (["--stages.0.losses.0.layers=0:1,1:3"], "stages.0.losses.0.layers", {0: 1, 1: 3}),
        (["--batch_size=1", "--batch_size=2"], "batch_size", 2),
    ],
)
def test_a_flag_sets_its_leaf_and_nothing_else(argv, path, value):
    before, after = leaves(Config()), leaves(parse(*argv))
    assert after[path].value == value
    assert type(after[path].value) is type(value)
    assert {name: leaf for name, leaf in after.items() if name != path} == {
        name: leaf for name, leaf in before.items() if name != path
    }


def test_flags_that_belong_together_are_applied_together():
    config = parse("--steps=10", "--epochs=none")
    assert (config.steps, config.epochs) == (10, None)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--batch_sise=3"], "--batch_size"),
        (["--max_lenght=3"], "--data.max_length"),
        (["--dta.kind=qa"], "--data.kind"),
        (["--weight=3"], "--stages.0.losses.0.weight"),
        (["--data=demo"], "--data.train"),
        (["--stages.0.losses=3"], "--stages.0.losses.1.weight"),
        (["--stages.1.rate=3"], "--stages.0.rate"),
        (["--zzz=1"], "--help"),
        (["demo"], "--field=value"),
        (["--batch_size=many"], "--batch_size=many: expected int"),
        (["--batch_size=1.5"], "--batch_size=1.5: expected int"),
        (["--batch_size"], "--batch_size: expected int"),
        (["--batch_size=1", "2"], "--batch_size=1 2: expected int"),
        (["--steps=few"], "expected int | none"),
        (["--cached=maybe"], "expected true | false"),
        (["--kind=hart"], "expected soft | hard; did you mean hard?"),
        (["--data.kind=clasification"], "did you mean classification?"),
        (["--mesh=1"], "expected int, int"),
        (["--mesh=1,2,3"], "expected int, int"),
        (["--more=1"], "config file"),
        (["--steps=10"], "set one to none"),
        (["--stages.0.losses.0.weight=-1"], "weight=-1.0"),
        (["--data.max_length=2"], "--data.max_length=2"),
        (["--data.kind=qa", "--data.metric=f1"], "squad_f1"),
        (["--config=nowhere"], 'no config file "nowhere"'),
        (["--config=configs/nowhere.py"], 'no config file "configs/nowhere.py"'),
        (["--config"], "no config file"),
    ],
)
def test_a_mistake_names_what_would_have_been_right(argv, said, capsys):
    assert said in mistake(*argv)
    assert capsys.readouterr() == ("", "")


def test_a_config_file_brings_its_own_dataclasses_and_flags_win_over_it(config_file):
    flag = config_file("""
        from dataclasses import dataclass
        from tests.engine.test_command_line import Config, Stage

        @dataclass(frozen=True)
        class Mine:
            power: int = 3
            weight: float = 1.0

        config = Config(batch_size=7, stages=(Stage(), Stage(losses=(Mine(),))))
    """)
    config = parse(flag, "--stages.1.losses.0.power=5", "--model=other")
    assert (config.batch_size, config.model) == (7, "other")
    assert config.stages[1].losses[0].power == 5
    assert to_dict(config)["stages"][1]["losses"] == [{"_type": "config_file_mine.Mine", "power": 5, "weight": 1.0}]


def test_one_of_several_recipes_in_a_file_is_chosen_by_its_name(config_file):
    flag = config_file("""
        from tests.engine.test_command_line import Config
        config, small, other = Config(batch_size=7), Config(batch_size=2), 3
    """)
    assert parse(f"{flag}:small").batch_size == 2
    assert parse(f"{flag}:small", "--batch_size=5").batch_size == 5
    said = mistake(f"{flag}:other")
    assert (
        "`other` must be a tests.engine.test_command_line.Config; it is a builtins.int. It has: mine:config, mine:small"
        in said
    )
    assert 'no config file "nowhere:small"' in mistake("--config=nowhere:small")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config = 3", "`config` must be a tests.engine.test_command_line.Config; it is a builtins.int"),
        ("confg = 3", "the file has no such name"),
        ("x = 1\nconfig = (", "mine.py, line 2: "),
        ("x = 1\nconfig = Config()", "mine.py, line 2: NameError"),
        (
            "from tests.engine.test_command_line import Config\nconfig = Config(batchsize=3)",
            "TypeError: Config.__init__() got an unexpected keyword argument 'batchsize'; did you mean batch_size?",
        ),
        (
            "from tests.engine.test_command_line import *\nconfig = Config(stages=(Stage(losses=(Soft(-1),)),))",
            "line 2: weight=-1",
        ),
        (
            "from tests.engine.test_command_line import *\nconfig = Config(batch_size='32')",
            "batch_size is '32'; expected int",
        ),
        (
            "from tests.engine.test_command_line import *\nconfig = Config(kind='sft')",
            "kind is 'sft'; expected soft | hard",
        ),
        ("from tests.engine.test_command_line import *\nconfig = Config(out='runs')", "out is 'runs'; expected"),
    ],
)
def test_a_broken_config_file_is_named_with_its_line(config_file, text, said):
    assert said in mistake(config_file(text))


def printed(capsys: pytest.CaptureFixture, cls: type, *argv: str) -> str:
    with pytest.raises(SystemExit) as left:
        command_line.parse(cls, argv, "Teach a model.\n\n    prog --steps=3\n\nMore of it.", "prog")
    assert left.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_field_with_meaning_and_default(config_file, capsys):
    flag = config_file("""
        from tests.engine.test_command_line import Config, Soft, Stage
        config = Config(batch_size=7, stages=(Stage(), Stage(losses=(Soft(0.25),))))
    """)
    shown = printed(capsys, Config, flag, "--help=all")
    config = command_line.load_config(flag.removeprefix("--config="), Config)
    for path in leaves(config):
        assert f"--{path}=" in shown
    for words in (
        "Teach a model.",
        "More of it.",
        "Where the weights are.",
        "Number of updates. Or give epochs.",
        "--batch_size=7\n",
        "--stages.1.losses.0.weight=0.25",
        "How much this term counts.",
        "(soft | hard)",
        "data: The text, and how to read it.",
        "Shipped configs, by name: albert",
    ):
        assert words in shown


@dataclasses.dataclass(frozen=True)
class Tiered(Config):
    everyday: ClassVar[tuple[str, ...]] = ("data.train", "steps", "kind")


def test_help_shows_the_everyday_flags_first_and_the_first_sentence_on_each(capsys):
    shown = printed(capsys, Tiered, "--help")
    assert re.findall(r"^  --([\w.]+)=", shown, flags=re.M) == ["data.train", "steps", "kind"]
    assert "Number of updates." in shown
    assert "prog --steps=3" in shown
    for words in ("Or give epochs.", "More of it.", "batch_size"):
        assert words not in shown
    everything = printed(capsys, Tiered, "--help=all")
    count = len(re.findall(r"^  --", everything, flags=re.M))
    assert f"--help=all explains {count - 3} more flags." in " ".join(shown.split())


def test_a_config_becomes_json_and_says_what_cannot():
    assert json.loads(json.dumps(to_dict(Config()))) == to_dict(Config())
    assert to_dict(Config())["data"]["_type"] == "bertjax.Data"
    assert to_dict(Stage())["losses"][1] == {"_type": f"{__name__}.Soft", "weight": 2.0, "layers": None}
    with pytest.raises(UserError, match="a config may hold numbers"):
        to_dict(Stage(rate=print))  # pyright: ignore[reportArgumentType]


def test_replacing_a_leaf_keeps_every_other_object():
    config = Config()
    changed = replace(config, {"stages.0.losses.1.weight": 9.0})
    assert changed.stages[0].losses[1] == Soft(9.0)
    assert changed.stages[0].losses[0] is config.stages[0].losses[0]
    assert changed.data is config.data


def fails_with(error: BaseException):
    def main(config: Config) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such file x\ngive another"), 2, "no such file x\ngive another\n"),
        (UserError("\n".join("abcdefgh")), 2, "a\nb\nc\nd\ne\n"),
        (Stopped(signal.SIGINT), 130, "stopped by SIGINT\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x"),
            2,
            "cannot write x: No space left on device. Free space",
        ),
    ],
)
def test_a_script_ends_with_a_code_and_a_few_lines(capsys, error, code, said):
    with pytest.raises(SystemExit) as left:
        command_line.run(fails_with(error), "Do nothing, well.", [])
    assert left.value.code == code
    assert capsys.readouterr().err.startswith(said)


def test_a_script_that_works_gets_its_config_and_ends_with_zero():
    seen = []

    def main(config: Config) -> None:
        seen.append(config)

    with pytest.raises(SystemExit) as left:
        command_line.run(main, "Do nothing, well.", ["--batch_size=3"])
    assert left.value.code == 0
    assert seen == [Config(batch_size=3)]


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError, match="ours"):
        command_line.run(fails_with(ZeroDivisionError("ours")), "Do nothing, well.", [])


def test_a_reader_who_has_seen_enough_gets_no_complaint(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        from dataclasses import make_dataclass
        from bertjax.engine.command_line import run
        Config = make_dataclass("Config", [("words", int, 3)], frozen=True)
        def main(config: Config) -> None:
            for _ in range(100_000):
                print("word")
        run(main, "Talk.")
        """)
    )
    pipe = f"{sys.executable} {program} 2>{tmp_path / 'err'} | head -n 1; echo ${{PIPESTATUS[0]}}"
    root = Path(command_line.__file__).parents[2]
    done = subprocess.run(
        ["bash", "-c", pipe], capture_output=True, text=True, env={"PYTHONPATH": str(root)}, check=True
    )
    assert done.stdout == "word\n141\n"
    assert (tmp_path / "err").read_text() == ""


def test_the_metrics_offered_are_the_ones_there_are():
    assert {"auto", *(name for names in METRICS.values() for name in names)} == set(get_args(Metric))
