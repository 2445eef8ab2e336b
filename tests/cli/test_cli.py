"""What every command keeps to: exit codes, streams, lazy imports."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import uamix_bench.cli as cli
from uamix_bench.cli.errors import EXIT_CODES, Terminated
from uamix_bench.plugins import registry
from uamix_bench.util.errors import BadInputError, BenchError, MachineError, RegressionFound, UsageError

from .conftest import Bench

HEAVY = ("torch", "timm", "torchaudio", "pandas", "scipy", "sklearn", "matplotlib")
RICHER = (*HEAVY, "rich", "pydantic", "numpy")


def _python(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "UAMIX_BENCH_HOME": str(tmp_path / "home")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], RICHER),
        ([], RICHER),
        (["--version"], RICHER),
        (["fewshot", "--help"], RICHER),
        (["models", "--help"], RICHER),
        (["compare", "--help"], RICHER),
        (["results", "ls", "--help"], RICHER),
        (["results", "ls"], ("torch", "timm", "torchaudio", "pandas", "matplotlib")),
        (["results", "export"], ("torch", "timm", "torchaudio")),
        (["cache", "--help"], RICHER),
        (["cache", "ls"], HEAVY),
        (["cache", "verify"], HEAVY),
        (["pretrain", "--help"], HEAVY),
        (["tune", "--help"], HEAVY),
        (["models", "ls"], HEAVY),
        (["models", "info", "uamix"], HEAVY),
        (["tasks", "ls"], HEAVY),
        (["tasks", "info", "esc50", "--json"], (*HEAVY, "rich")),
        (["fewshot", "-m", "logmle"], HEAVY),
        (["fewshot", "-m", "logmel", "-t", "./absent.csv"], ("torch", "timm", "torchaudio", "pandas")),
    ],
)
def test_heavy_packages_are_not_imported(arguments: list[str], forbidden: tuple[str, ...], tmp_path: Path) -> None:
    code = f"import sys\nfrom uamix_bench.cli import main\nmain({arguments!r})\nprint('LOADED', *sys.modules)"
    done = _python(code, tmp_path)
    loaded = done.stdout.splitlines()[-1].split()
    assert loaded[0] == "LOADED", done.stderr
    assert not set(forbidden) & set(loaded)


@pytest.mark.over_3s
def test_help_takes_a_tenth_of_importing_torch(tmp_path: Path) -> None:
    time = "import time\nstart = time.process_time()\n{}\nprint('SECONDS', time.process_time() - start)"
    helped = "from uamix_bench.cli import main\nmain(['--help'])"

    def seconds(statement: str) -> float:
        return min(float(_python(time.format(statement), tmp_path).stdout.split()[-1]) for _ in range(2))

    assert seconds(helped) < 0.1 * seconds("import torch")


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(given: str | None, tmp_path: Path) -> None:
    code = (
        "import os; import uamix_bench, uamix_bench.cli; before = os.environ.get('OMP_WAIT_POLICY'); "
        "uamix_bench.cli.main(['--version']); print(before, os.environ['OMP_WAIT_POLICY'])"
    )
    surroundings = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    surroundings |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{given} {given or 'PASSIVE'}"  # importing sets nothing


def test_no_mapped_name_is_imported_at_top_level(tmp_path: Path) -> None:
    done = _python(
        "import sys\nfrom uamix_bench.cli import main\nmain(['models', 'ls'])\nprint('LOADED', *sys.modules)", tmp_path
    )
    assert not {"tasks", "baselines", "reports"} & set(done.stdout.splitlines()[-1].split())


def test_help_states_the_exit_codes_and_every_command(bench: Bench) -> None:
    done = bench("--help")
    assert done.code == 0
    assert all(f"  {code}  " in done.out for code in EXIT_CODES)
    assert bench().out == done.out
    for name in cli.COMMANDS:
        assert name in done.out
        assert isinstance(cli.cli.get_command(click.Context(cli.cli), name), click.Command)
        assert bench(name, "--help").code == 0


def _commands(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, context)
        else:
            yield command


def test_an_option_has_the_same_names_everywhere() -> None:
    names: dict[str, set[tuple[str, ...]]] = {}
    for command in _commands(cli.cli, click.Context(cli.cli)):
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        if command.name not in ("export", "schema"):  # what these print is a form of its own
            assert {"--json", "--verbose"} <= {name for option in options for name in option.opts}, command.name
        for option in options:
            assert option.help or option.is_flag, (command.name, option.opts)
            for name in option.opts:
                names.setdefault(name, set()).add(tuple(sorted(option.opts)))
    for name, spelt in names.items():
        assert len(spelt) == 1, (name, spelt)


def test_summaries_are_whole_within_80_columns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], *([name] for name in cli.COMMANDS)):
        found = bench(*words, *(["--help"] if words else [])).out.partition("\nCommands:\n")[2].partition("\n\n")[0]
        for line in found.splitlines():
            assert len(line) <= 80, line
            assert line.endswith("."), line
            assert not line.endswith("..."), line
            assert line[2] != " ", f"{line} belongs to the line before"


@pytest.mark.parametrize("group", ["models", "tasks", "results", "cache", "leaderboard"])
def test_a_group_alone_prints_its_help(bench: Bench, group: str) -> None:
    done = bench(group)
    assert (done.code, done.err) == (0, "")
    assert done.out == bench(group, "--help").out


def test_shells_complete_commands_options_and_names(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, wanted in {
        "uamix-bench few": "fewshot",
        "uamix-bench models ": "convert",
        "uamix-bench fewshot --gro": "--group-disjoint",
        "uamix-bench fewshot --model logmel,uamix-": "logmel,uamix-tiny",
        "uamix-bench fewshot -t ": "esc50",
    }.items():
        monkeypatch.setenv("_UAMIX_BENCH_COMPLETE", "zsh_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        done = bench()
        assert (done.code, done.err) == (0, "")
        assert wanted in done.out.splitlines(), words
    for shell in ("zsh", "fish"):  # bash's own is run, to learn its version
        monkeypatch.setenv("_UAMIX_BENCH_COMPLETE", f"{shell}_source")
        assert "_UAMIX_BENCH_COMPLETE" in bench().out


def test_lists_fit_a_pipe(bench: Bench) -> None:
    """No line is cut, and none is wider than a wide screen."""
    for group in ("models", "tasks"):
        shown = bench(group, "ls").out
        assert max(map(len, shown.splitlines())) <= 160
        assert "…" not in shown


@pytest.mark.over_3s
def test_limits_of_numbers_are_given_as_a_person_would(bench: Bench) -> None:
    for name in cli.COMMANDS:
        command = import_module(f"uamix_bench.cli.{name}").command
        for words in [[name, child] for child in getattr(command, "commands", ())] or [[name]]:
            page = bench(*words, "--help").out
            assert not re.search(r"RANGE|<=?x|x>=?|2147483647|9007199254740991", page), words
    for given, line in {
        ("--folds", "1"): "1 is not at least 2",
        ("--fraction", "0"): "0.0 is not above 0",
        ("--fraction", "1.5"): "1.5 is not at most 1",
        ("--clip-seconds", "nan"): "nan is not above 0",
        ("--workers", "3000000000"): "3000000000 is not at most 2147483647",
        ("--seeds", "x"): "'x' is not a valid integer",
    }.items():
        assert line in bench("finetune", *given).error


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (UsageError("a", "b", "c"), 2),
        (BadInputError("a", "b", "c"), 3),
        (MachineError("a", "b", "c"), 4),
        (RegressionFound("a", "b"), 5),
        (BenchError("a", "b"), 1),
        (MemoryError(), 4),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 4),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), 4),
        (PermissionError(13, "Permission denied", "x"), 4),
        (OSError(28, "No space left on device", "x"), 4),
        (RuntimeError("two\nlines"), 1),
        (AssertionError(), 1),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
)
@pytest.mark.over_3s
def test_whatever_is_raised_is_one_line_and_an_exit_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(registry, "models", fail)
    done = bench("models", "ls")
    assert (done.code, done.out) == (code, "")
    assert ("report it" in done.error) == (code == 1 and not isinstance(raised, BenchError))
    assert code in {*EXIT_CODES, 143}
    assert bench("models", "ls", "--json").envelope["error"]["exit_code"] == code
    verbose = bench("models", "ls", "-v")
    assert "Traceback" in verbose.err
    assert verbose.err.splitlines()[-1] == done.error


def test_warnings_are_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> dict[str, object]:
        warnings.warn("this\nis odd", stacklevel=1)
        return {}

    monkeypatch.setattr(registry, "models", warn)
    assert bench("models", "ls").err == "uamix-bench: warning: this is odd\n"


def test_unknown_commands_suggest(bench: Bench) -> None:
    done = bench("fewshoot")
    assert done.code == 2
    assert "did you mean 'fewshot'?" in done.error
    assert bench("models", "info", "uamx").code == 2
    assert "did you mean 'esc50'?" in bench("tasks", "info", "esc5").error


def test_a_folder_without_a_slash_is_found(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_sounds").mkdir()
    assert bench("fewshot", "--task", "my_sounds").error.startswith("uamix-bench: error: my_sounds: no sound in")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "UAMIX_BENCH_HOME": str(tmp_path)}
    done = subprocess.run(
        f"{sys.executable} -m uamix_bench models info uamix | true; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_stream_of_another_encoding_gets_all_that_it_can_hold(encoding: str, tmp_path: Path) -> None:
    """The lines and signs of tables, and names of the user's own."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "UAMIX_BENCH_HOME": str(tmp_path / "Ünïcode →")}
    for json_too in ([], ["--json"]):
        command = [sys.executable, "-m", "uamix_bench", "cache", "path", *json_too]
        done = subprocess.run(command, capture_output=True, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        if json_too:
            assert json.loads(done.stdout)["items"] == [{"path": environment["UAMIX_BENCH_HOME"]}]
        else:
            assert b"\\u2192" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "uamix_bench", "models", "ls"], capture_output=True, env=environment, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "uamix-tiny" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("models ls >&-", 0, ""),
        ("models ls --json >&- 2>&-", 0, ""),
        ("models nosuch 2>&-", 2, ""),
        ("models nosuch 2>/dev/full", 2, ""),
        ("models ls >/dev/full", 4, "No space left on device"),
    ],
)
def test_streams_that_are_closed_or_full(redirected: str, code: int, said: str) -> None:
    shell = f'exec "$0" -m uamix_bench {redirected}'
    done = subprocess.run(["sh", "-c", shell, sys.executable], capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == bool(said)


def test_a_user_without_a_home_gets_no_folder_named_tilde(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: object) -> None:
        raise KeyError

    monkeypatch.chdir(tmp_path)
    for name in ("UAMIX_BENCH_HOME", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for command in (("cache", "path"), ("fewshot", "-m", "logmel")):
        refused = bench(*command)
        assert refused.code == 2
        assert "UAMIX_BENCH_HOME: is not set, and this user has no home folder; set it to a folder" in refused.error
    for command in (("cache", "path"), ("fewshot", "-t", "~nobody-here/x"), ("report", "~nobody-here/x")):
        monkeypatch.setenv("UAMIX_BENCH_HOME", "~nobody-here/x")
        assert "~nobody-here/x: begins with the home folder of a user who is not known" in bench(*command).error
    assert not list(tmp_path.iterdir())


def test_lists_come_from_the_cards(bench: Bench) -> None:
    models = bench("models", "ls", "--json").envelope["items"]
    assert [model["name"] for model in models] == sorted(registry.models())
    assert all(model["licence"] and "parameters" in model for model in models)
    assert "uamix-tiny" in bench("models", "ls").out
    assert [task["name"] for task in bench("tasks", "ls", "--json").envelope["items"]] == sorted(registry.tasks())
    info = bench("models", "info", "uamix-tiny")
    assert info.code == 0
    assert "uamix-tiny" in info.out


def test_env_says_what_a_bug_report_needs(bench: Bench, bench_home: Path) -> None:
    done = bench("env", "--json")
    (facts,) = done.envelope["items"]
    assert {"package", "python", "platform", "processor", "packages", "home"} <= set(facts)
    assert "torch 2." in facts["packages"]
    assert f"UAMIX_BENCH_HOME={bench_home}" in facts["environment"]
    assert "torch 2." in bench("env").out


def test_narrow_terminals_shorten_names_and_never_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uamix_bench.cli.tables import Table, show

    numbers = [f"{value}" for value in (12_345, 678_901, 234_567, 8_901_234, 567, 89)]
    table = Table("model", "task", *(f"column {index}>" for index in range(len(numbers))))
    table.add("a-model-with-a-long-name", "local/a-task-with-a-long-name", *numbers)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(table)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.splitlines()[-1].split()[2:] == numbers
    assert "…" in shown
    assert "\x1b" not in shown
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    show(table)
    assert "a-model-with-a-long-name  local/a-task-with-a-long-name" in capsys.readouterr().out


def test_a_column_that_is_dropped_costs_the_others_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uamix_bench.cli.tables import Table, show

    cells = ("a" * 20, "b" * 30, "c" * 9, "d" * 12)
    table = Table("first", "middle", "third", "last", dropped=("middle",))
    table.add(*cells)
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(table)
    assert capsys.readouterr().out.splitlines()[-1].split() == [cells[0], *cells[2:]]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("UAMIX_BENCH_FEWSHOT_DEVCE", "UAMIX_BENCH_FEWSHOT_DEVICE"),
        ("UAMIX_BENCH_HOMES", "UAMIX_BENCH_HOME"),
        ("UAMIX_BENCH_MODELS_CONVERT_DTYP", "UAMIX_BENCH_MODELS_CONVERT_DTYPE"),
        ("UAMIX_BENCH_CACHESIZE", "UAMIX_BENCH_CACHE_SIZE"),
    ],
)
def test_an_unknown_variable_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, known: str) -> None:
    monkeypatch.setenv(known, "1")
    assert not cli.unknown_variables()
    monkeypatch.setenv(name, "x")
    (line,) = cli.unknown_variables()
    assert line == f"{name} is set, and no such variable is known; did you mean '{known}'?"
    if "HOME" not in known:
        assert f"uamix-bench: warning: {line}" in bench("models", "ls").err


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of addresses")
@pytest.mark.parametrize(
    "mib", [60, 300, pytest.param(900, marks=pytest.mark.slow), pytest.param(2_500, marks=pytest.mark.slow)]
)
def test_too_few_addresses_are_the_machine_s_fault(mib: int, sounds: Path, tmp_path: Path) -> None:
    """Wherever that is met: in Python, in numpy, or as torch's libraries are mapped."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({mib << 20}, {mib << 20})); "
        "import sys; from uamix_bench.cli import main; "
        f"sys.exit(main(['fewshot', '-m', 'uamix', '--task', {str(sounds)!r}, '--n', '3', '--k', '1', '--q', '2']))"
    )
    done = _python(code, tmp_path)
    assert done.returncode == 4
    *remarks, line = done.stderr.splitlines()
    assert all("holds small demonstration weights" in remark for remark in remarks)
    assert line.endswith(f"not enough of it within the limit of {mib:,} MiB of addresses; raise it (ulimit -v)")
