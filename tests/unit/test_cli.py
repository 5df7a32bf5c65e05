"""The command line: parsing, errors, help, and what starting costs."""

import gc
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import barevisor
from barevisor.cli.main import main
from barevisor.cli.run import Given, parser
from barevisor.errors import BarevisorError, ConfigError
from barevisor.testing.images import multiboot_elf

BAD = [
    ("unknown flag", ["run", "--bogus"], "--bogus"),
    ("unknown flag before a command", ["--bogus", "run"], "--bogus"),
    ("unknown flag with a value", ["run", "--bogus", "3", "--", "true"], "--bogus"),
    ("beginning of a flag", ["run", "--eng", "bt", "--", "true"], "--eng"),
    ("flag without its value", ["run", "--cpus"], "--cpus"),
    ("flag with a value", ["run", "--tty=1"], "--tty=1"),
    ("-- is no value", ["run", "--cpus", "--", "1"], "--cpus needs N"),
    ("word too many", ["doctor", "now"], "now"),
    ("unknown command", ["walk"], "walk"),
    ("no command", ["--"], "--"),
    ("unknown kernel action", ["kernel", "walk"], "walk"),
    ("no kernel action", ["kernel"], "ACTION"),
    ("two kernel actions", ["kernel", "list", "fetch"], "list fetch"),
    ("unknown engine", ["run", "--engine", "tcg", "--", "true"], "'tcg'"),
    ("memory", ["run", "--memory", "5Q", "--", "true"], "'5Q'"),
    ("too little memory", ["run", "--memory", "8M", "--", "true"], "too small"),
    ("cpus is no number", ["run", "--cpus", "x", "--", "true"], "--cpus"),
    ("no cpus", ["run", "--cpus", "0", "--", "true"], "0 CPUs"),
    ("timeout", ["run", "--timeout", "-1", "--", "true"], "-1"),
    ("share", ["run", "--share", "/no/such:/x", "--", "true"], "/no/such"),
    ("share syntax", ["run", "--share", "x", "--", "true"], "bad share"),
    ("root", ["run", "--root", "/no/such", "--", "true"], "/no/such"),
    ("rw", ["run", "--rw", "/no/such", "--", "true"], "/no/such"),
    ("environment", ["run", "--env", "=x", "--", "true"], "'=x'"),
    ("kernel is not there", ["run", "--kernel", "/no/such", "--", "true"], "/no/such"),
    ("modules are not there", ["run", "--kernel", "/bin/sh", "--modules", "/no/such"], "/no/such"),
    ("bare image without an image", ["run", "--no-root"], "--kernel"),
    ("test devices for Linux", ["run", "--debugcon", "--", "true"], "--no-root"),
    ("image is not there", ["run", "--no-root", "--kernel", "/no/such"], "/no/such"),
]


@pytest.mark.parametrize(("name", "args", "said"), BAD, ids=[row[0] for row in BAD])
def test_a_wrong_command_line_is_one_clear_line(
    name: str, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == ConfigError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert said in err
    assert len(lines) <= 2
    assert all(line.startswith("hint: ") for line in lines[1:])


def test_with_test_devices_our_errors_are_250() -> None:
    assert main(["run", "--no-root", "--testdev", "--kernel", "/no/such"]) == 250
    assert main(["run", "--testdev", "--", "true"]) == 250
    assert main(["run", "--cpus", "x", "--testdev", "--", "true"]) == 250
    assert main(["run", "--cpus", "x", "--", "true", "--testdev"]) == ConfigError.exit_code


def test_a_command_has_its_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--root", "/no/such", "ls", "--testdev"]) == ConfigError.exit_code
    assert "/no/such" in capsys.readouterr().err


def read(*words: str) -> Given:
    """What `bare run WORDS` means."""
    given = parser().read(words, Given())
    assert given is not None
    return given


COMMANDS = [
    ("none", [], []),
    ("after --", ["--", "ls", "-l"], ["--", "ls", "-l"]),
    ("flags after a word are the command's", ["ls", "--cpus", "2"], ["ls", "--cpus", "2"]),
    ("its own --", ["sh", "-c", "x", "--", "-y"], ["sh", "-c", "x", "--", "-y"]),
    ("after flags", ["--cpus", "1", "-t", "ls", "--", "-l"], ["ls", "--", "-l"]),
    ("its own --help", ["ls", "--help"], ["ls", "--help"]),
]


@pytest.mark.parametrize(
    ("words", "command"), [c[1:] for c in COMMANDS], ids=[c[0] for c in COMMANDS]
)
def test_where_the_command_begins(words: list[str], command: list[str]) -> None:
    given = read(*words)
    assert given.command == command
    assert given.cpus == 1


def test_flags() -> None:
    given = read("--rw", "/a", "--rw=/b", "--env", "K=V", "--timeout", "1.5", "--append", "a -b c")
    assert (given.rw, given.env, given.share) == (["/a", "/b"], ["K=V"], [])
    assert (given.timeout, given.append, given.tty) == (1.5, "a -b c", False)
    assert read("--append", "-x", "-", "-t").append == "-x"
    assert read("--append=", "--", "-t").append == ""
    assert read().rw == []
    assert set(vars(given)) == set(Given.__annotations__)


HELP = [[], ["--help"], ["-h"], *([c, "--help"] for c in ("run", "kernel", "doctor"))]


@pytest.mark.parametrize("args", HELP, ids=str)
def test_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: bare")
    assert "-h, --help" in out
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80


def test_help_names_every_command_and_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    out = capsys.readouterr().out
    for name in ("run", "doctor", "kernel"):
        about: str = importlib.import_module(f"barevisor.cli.{name}").ABOUT
        assert f"{name:<8}{about.splitlines()[0]}\n" in out
    main(["run", "--help"])
    out = capsys.readouterr().out
    for name in set(Given.__annotations__) - {"command"}:
        assert f"--{name.replace('_', '-')} " in out


def test_not_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096)
    assert main(["run", "--no-root", "--kernel", str(image)]) == ConfigError.exit_code
    assert "not a kernel image" in capsys.readouterr().err
    image.write_bytes(multiboot_elf(b"\xf4"))
    assert main(["run", "--kernel", str(image), "--", "true"]) == ConfigError.exit_code
    assert "--no-root" in capsys.readouterr().err


def test_kernel_list_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("barevisor.guest.kernel.BOOT", tmp_path)
    folder = tmp_path / "barevisor" / "kernels" / "6.1.0-test"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(b"x")
    assert main(["kernel", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["version"] for row in found] == ["6.1.0-test"]
    assert main(["kernel", "list"]) == 0
    assert "6.1.0-test  cache" in capsys.readouterr().out


def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in found["checks"]]
    assert names[:2] == ["engine kvm", "engine bt"]
    assert {"memory", "cpus", "cache"} <= set(names)


def test_the_facade() -> None:
    for name in barevisor.__all__:
        assert getattr(barevisor, name) is not None
    assert issubclass(barevisor.GuestCrash, BarevisorError)
    assert set(dir(barevisor)) >= set(barevisor.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        _ = getattr(barevisor, "no_such")  # noqa: B009


HEAVY = [
    "rich",
    "argparse",
    "asyncio",
    "ctypes",
    "dataclasses",
    "inspect",
    "pathlib",
    "shutil",
    "subprocess",
    "threading",
    "typing",
    "barevisor.config",
    "barevisor.cpu",
    "barevisor.vm",
    "barevisor.devices",
]


@pytest.mark.parametrize(
    "code",
    ["import barevisor", "from barevisor.cli.main import main; main(['--help'])"],
    ids=["import barevisor", "bare --help"],
)
def test_starting_imports_little(code: str) -> None:
    script = f"{code}\nimport sys\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = done.stdout.decode().rpartition("loaded:")[2].split()
    assert [name for name in HEAVY if name in loaded] == []


STARTS = {
    "bare image": "barevisor.cli.image, barevisor.cpu.kvm.vm",
    "linux": "barevisor.cli.session, barevisor.assembly, barevisor.cpu.kvm.probe",
}


@pytest.mark.parametrize("modules", STARTS.values(), ids=STARTS)
def test_a_start_on_kvm_does_without_paths_expressions_and_enums(modules: str) -> None:
    script = (
        f"import barevisor.cli.main, barevisor.cli.run, {modules}\n"
        "import sys\nprint(*{'argparse', 'enum', 'gettext', 'importlib', 'locale', 'pathlib', 're',"
        " 'signal', 'urllib', 'warnings'} & {*sys.modules})"
    )
    # -S: what other packages do at Python's start is not ours.
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, check=True,
        env={"PYTHONPATH": str(Path(barevisor.__file__).parents[1])},
    )  # fmt: skip
    assert done.stdout.split() == []


def test_the_collector_runs_again_behind_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    during = []
    monkeypatch.setattr("barevisor.cli.main._run", lambda words: during.append(gc.isenabled()) or 0)
    assert main(["run"]) == 0
    assert during == [False]
    assert gc.isenabled()
