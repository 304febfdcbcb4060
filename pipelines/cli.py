"""`clip-es`: a command is one dataclass with a `run` method; its fields are the flags, its docstring the help. Which
there are stands in `table`.

Every command also takes `--quiet` and `--json`, before its own flags or among them.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from inspect import cleandoc
from typing import Any

import clip_es
from clip_es.collector import collector_paused
from clip_es.errors import ClipEsError, ConfigError, nearest
from clip_es.pipelines import streams
from clip_es.pipelines.explained import Printed, explain, fitted
from clip_es.pipelines.numbers import check_numbers, with_flag
from clip_es.pipelines.table import COMMANDS, SOURCES, named, pick


def program() -> int:
    """What the installed `clip-es` calls: `main` on streams that take everything."""
    streams.settle()
    try:
        return main()
    except KeyboardInterrupt:
        streams.tell(STOPPED)
        return 130
    except Exception:
        streams.tell_fault()
        return 3
    finally:
        _flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 done but some pictures failed or problems were found, 2 cannot run, 130
    stopped by Ctrl-C or SIGTERM; 3 (of the installed program) a fault of this package."""
    # OpenMP threads that wait by spinning take the core from the one they wait for: on two busy cores 30 pictures took
    # 89 s in place of 1.1 s. It is read once, when torch is loaded, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = list(sys.argv[1:] if argv is None else argv)
    quiet, json = "--quiet" in args, "--json" in args
    args = [word for word in args if word not in ("--quiet", "--json")]
    with _sigterm_as_ctrl_c():
        return _as_json(args, quiet) if json else _told(args, quiet)


def _told(args: list[str], quiet: bool) -> int:
    """Run a command, with what goes wrong as a line on standard error."""
    try:
        if not quiet:
            return _run(args)[1]
        from clip_es.pipelines.console import speaking

        with speaking(quiet=True, json=False):
            return _run(args)[1]
    except ClipEsError as error:
        streams.tell(f"{type(error).__name__}: {error}")
        return 2
    except KeyboardInterrupt:
        streams.tell(STOPPED)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has left; nothing more to tell it.
        streams.drop(sys.stdout)
        return 1
    except OSError as error:
        streams.drop(sys.stdout)
        streams.tell(_of_the_system(error))
        return 2


def _as_json(args: list[str], quiet: bool) -> int:
    """Run a command; standard output gets one line of JSON, whatever happens."""
    from clip_es.pipelines.console import speaking
    from clip_es.pipelines.summary import one_line

    start, error, command = time.perf_counter(), None, None
    with streams.only_line() as line, speaking(quiet=quiet, json=True) as figures:
        try:
            command, code = _run(args)
        except SystemExit as stop:  # tyro has explained the flags, or what is wrong with them
            code = stop.code if isinstance(stop.code, int) else 0
            error = ConfigError("the flags cannot be read", found=getattr(stop, "told", None)) if code else None
        except KeyboardInterrupt as stop:
            code, error = 130, KeyboardInterrupt(str(stop) or STOPPED)
            streams.tell(STOPPED)
        except (ClipEsError, OSError) as caught:
            code, error = 2, caught
            ours = isinstance(caught, ClipEsError)
            streams.tell(f"{type(caught).__name__}: {caught}" if ours else _of_the_system(caught))
        except Exception as caught:
            code, error = 3, caught
            streams.tell_fault()
        if args[:1] in _VERSION:
            figures["version"] = clip_es.__version__
        told = one_line(named(args)[0], command, code, time.perf_counter() - start, figures, error)
        try:
            line(told)
        except BrokenPipeError:
            streams.drop(sys.__stdout__ or sys.stderr)
            return code or 1
        except OSError as full:
            streams.drop(sys.__stdout__ or sys.stderr)
            streams.tell(_of_the_system(full))
            return code or 2
    return code


def _run(args: list[str]) -> tuple[Any, int]:
    """The command, after it has run, and its exit code."""
    if args[:1] in _VERSION:
        sys.stdout.write(f"clip-es {clip_es.__version__}\n")
        sys.stdout.flush()
        return None, 0
    name, rest = pick(args)
    if name is None:
        return None, 0
    asked = COMMANDS[name]
    with collector_paused():
        kind = getattr(import_module(f"clip_es.pipelines.commands.{asked.module}"), asked.kind)
        command = parse(kind, f"clip-es {name}", rest, asked.source)
    check_numbers(command)
    code = command.run()
    sys.stdout.flush()
    return command, code


_VERSION = (["--version"], ["-V"], ["version"])

STOPPED = "Stopped. What was finished is safe; the same call continues."


def _of_the_system(error: OSError) -> str:
    told = error.strerror or str(error)
    what = f"{error.filename}: {told}" if error.filename else f"what it prints cannot be written: {told}"
    step = "Repair that" if error.filename else "Send the output to a place that takes it"
    return f"{what}. {step}, then call again; what was finished is safe."


def _flush() -> None:
    """What is still to be printed, while a stream that fails can be dropped."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            streams.drop(stream)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (a scheduler, `kill`, `docker stop`) end a command as Ctrl-C does, unless the caller handles it."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def parse(kind: Any, prog: str, args: Sequence[str], source: str | None = None):
    """The command's dataclass filled from flags; the source and `--preset` choose the defaults of the others."""
    try:
        return _parsed(kind, prog, args, source)
    except ConfigError as error:
        raise with_flag(error, args) from error


def _parsed(kind: Any, prog: str, args: Sequence[str], source: str | None):
    import tyro

    kind, options = offered(kind, args, source)
    told, help_text = io.StringIO(), Printed()
    try:
        with redirect_stderr(told), redirect_stdout(help_text):
            return tyro.cli(kind, prog=prog, args=args, **options)
    except SystemExit as stop:
        sys.stdout.write(fitted(help_text.getvalue()))
        if stop.code not in (0, None):
            _check_spelling(prog, args)
            box = (line.strip(" \t│╭╮╰╯─") for line in told.getvalue().splitlines())
            stop.told = " ".join(line for line in box if line)  # pyright: ignore[reportAttributeAccessIssue]
        sys.stderr.write(told.getvalue())
        raise


def _check_spelling(prog: str, args: Sequence[str]) -> None:
    """Raises ConfigError: a flag that the command does not have."""
    from clip_es.pipelines.completion import COMMON, parser_of

    known = {word for action in parser_of(prog.removeprefix("clip-es "))._actions for word in action.option_strings}
    known |= set(COMMON)
    for word in args:
        flag = word.partition("=")[0]
        if flag == "--":
            return
        if flag.startswith("--") and flag.replace("_", "-") not in known:
            hint = nearest(flag, sorted(known))
            raise ConfigError(f"there is no flag {flag}", next_step=f"{hint}{' ' if hint else ''}See {prog} --help.")


def offered(kind: Any, args: Sequence[str], source: str | None) -> tuple[Any, dict[str, Any]]:
    """What tyro makes the flags of a command from, and its defaults under the arguments."""
    explain(kind)
    if source is None:
        return kind, (kind.chosen(args) if hasattr(kind, "chosen") else {})
    from clip_es.pipelines.commands import sources
    from clip_es.pipelines.commands.data_source import required

    data = kind.variants.get(source) or getattr(sources, SOURCES[source][0])
    explain(data)
    options = {**required(kind), **(kind.preset_options(args) if hasattr(kind, "preset_options") else {})}
    options.pop("source")
    given = kind.source_options(args, data) if hasattr(kind, "source_options") else {}
    default = kind.of(data(**{**required(data), **given}), **options)
    told = f"{cleandoc(kind.__doc__ or '')}\n\n{cleandoc(data.__doc__ or '')}"
    return kind[data], {"default": default, "description": told}


if __name__ == "__main__":
    raise SystemExit(program())
