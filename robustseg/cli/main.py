"""Command line: one table of commands, each imported when it is called."""

from __future__ import annotations

import os
import re
import select
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from robustseg import __version__
from robustseg.cli.arguments import check_configurations
from robustseg.cli.messages import message_of
from robustseg.cli.signals import ended_by_sigterm, leave
from robustseg.resume.ending import exit_status
from robustseg.resume.preemption import REQUEUE
from robustseg.shipped.suggest import did_you_mean
from robustseg.terminal.display import Display, showing
from robustseg.terminal.text import complain, write

QUIET = "--quiet"
"""Option of every command that leaves warnings and results."""
INTERRUPTED = (REQUEUE, 130, 143)
"""Exit statuses after signals."""
BROKEN_PIPE = 141
"""Exit status after the reader of the output, such as ``head``, has closed it: that of a process ended by SIGPIPE."""


_QUIET = f"{QUIET} leaves warnings and results of any command, without its progress."


class Command(NamedTuple):
    """One row of the table."""

    name: str
    summary: str
    example: str
    """Example of arguments after the name."""
    work: str
    """``module:function`` that takes the arguments and returns the exit status."""
    computes: bool = False
    """True for commands that take configurations and run models, maybe on several processes."""


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train",
            "train a model and score it at the end",
            "--config quickstart",
            "robustseg.cli.train:train",
            computes=True,
        ),
        Command(
            "evaluate",
            "score a checkpoint under attacks",
            "--config RUN/config.yaml --ckpt_path FILE",
            "robustseg.cli.evaluate:evaluate",
            computes=True,
        ),
        Command(
            "merge",
            "bring shards of an evaluation together",
            "NEW SHARD SHARD ...",
            "robustseg.cli.results:merge_shards",
        ),
        Command(
            "leaderboard",
            "rank evaluations of several models",
            "EVALUATION EVALUATION ...",
            "robustseg.cli.results:leaderboard",
        ),
        Command(
            "study",
            "measure curves and ablations of a checkpoint",
            "--config RUN/config.yaml --config study/step_curve --ckpt_path FILE",
            "robustseg.cli.studies:study",
            computes=True,
        ),
        Command(
            "transfer",
            "show adversarial images of each model to all models",
            "--models A=RUN B=RUN --config study/transfer --output DIR",
            "robustseg.cli.studies:transfer",
            computes=True,
        ),
        Command(
            "configs",
            "list and copy configurations, which --config takes",
            "quickstart",
            "robustseg.cli.configs:list_configs",
        ),
        Command(
            "datasets",
            "list data sets, their layout and where to get them",
            "PascalVOC",
            "robustseg.cli.data:list_datasets",
        ),
        Command(
            "models",
            "list networks and whose checkpoints they load",
            "pspnet_r50",
            "robustseg.cli.models:list_models",
        ),
        Command(
            "inspect",
            "say what a file of weights is",
            "FILE --network pspnet_r50",
            "robustseg.cli.models:inspect_checkpoint",
        ),
        Command(
            "doctor",
            "examine this machine, or this job",
            "--config data/camvid",
            "robustseg.doctor:doctor",
            computes=True,
        ),
    )
}


def usage() -> str:
    """Return a list of all commands, in lines of at most 80 columns."""
    wrapper = textwrap.TextWrapper(80, initial_indent=" " * 17, subsequent_indent=" " * 21, break_on_hyphens=False)
    lines = ["usage: robustseg COMMAND [options]", ""]
    for command in COMMANDS.values():
        lines.append(f"  {command.name:<12} {command.summary}")
        # keep an option on the line of its value
        example = f"robustseg {command.name} " + re.sub(r"(--\w+) ", "\\1\xa0", command.example)
        lines += [line.replace("\xa0", " ") for line in wrapper.wrap(example)]
    lines += ["", "robustseg COMMAND --help lists the options of a command.", _QUIET]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None, *, whole_process: bool = False) -> int:
    """Run the command line and return the exit status.

    Args:
        args: Arguments; by default those of the process.
        whole_process: Nothing follows the command, so that the process may end at once after a signal; so it is if no
            ``args`` are given.
    """
    try:
        with ended_by_sigterm():
            status = _run(list(sys.argv[1:] if args is None else args))
        if status in INTERRUPTED and (whole_process or args is None):
            leave(status)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        # Otherwise Python would try to write the buffer again at exit, and report the error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _reader_has_left() -> bool:
    """Return whether standard output is a pipe or a socket without a reader."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        write(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        write(f"robustseg {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f" There are: {', '.join(COMMANDS)}."
        complain(f"robustseg: error: there is no command {name!r}.{hint}\nrobustseg --help says more.")
        return 2
    try:
        with showing(Display(visible=_is_first(), quiet=QUIET in rest)):
            return _call(COMMANDS[name], [each for each in rest if each != QUIET])
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit):
            sys.stdout.flush()  # of a help text, whose reader may have left
        if (message := message_of(name, error)) is None:
            raise
        complain(message)
        return exit_status(error)


def _is_first() -> bool:
    """Return whether this is the first of several processes, before they have met."""
    return all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _call(command: Command, args: list[str]) -> int:
    if not command.computes:
        return int(_imported(command.work)(args))
    check_configurations(args)
    with _imported("robustseg.cli.computing:computing")():
        return int(_imported(command.work)(args))


def _imported(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function
