"""The option ``--plan``: the bill of a command in the place of the command, with the commands that end it in time."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustseg.config.build import RobustSegCLI
from robustseg.config.options import PLAN_OPTION
from robustseg.config.saying import is_first_process
from robustseg.evaluation.benchmark import Shard
from robustseg.files import not_writable, write_json
from robustseg.planning.bill import Bill
from robustseg.planning.evaluation import Part, bill_of_evaluation
from robustseg.planning.page import as_json, memory_text, print_plan, table_of
from robustseg.planning.times import PlanError, parse_time, slurm_time, time_text
from robustseg.planning.training import Training, attacked_images, bill_of_training, length_of
from robustseg.terminal import shown

_JSON = "--json"
_DEFAULT = "24h"
_PER_NODE = 4
"""GPUs of a node in the batch files."""


class Plan(NamedTuple):
    """The options of a plan."""

    within: float
    """Seconds in which the command shall end."""
    json: Path | None
    """File for the plan as JSON."""
    arguments: list[str]
    """The command's arguments without those of the plan and the shard."""
    began: float
    """Time at which the command began."""

    @property
    def is_elsewhere(self) -> bool:
        """True in a process other than the first, which leaves the plan to that one."""
        return not is_first_process()


def split_plan(args: Sequence[str]) -> tuple[Plan | None, list[str]]:
    """Take ``--plan [TIME]`` and its ``--json FILE`` out of a command line.

    Returns:
        The options, None without ``--plan``, and the other arguments.

    Raises:
        PlanError: The time cannot be read, or an option lacks its value.
    """
    if not any(each.partition("=")[0] == PLAN_OPTION for each in args):
        return None, list(args)
    rest, within, json = [], _DEFAULT, None
    waiting = list(args)
    while waiting:
        name, equals, value = waiting.pop(0).partition("=")
        has_value = bool(waiting) and not waiting[0].startswith("-")
        if name == PLAN_OPTION:
            within = value if equals else waiting.pop(0) if has_value else _DEFAULT
        elif name == _JSON:
            if not equals and not has_value:
                raise PlanError(f"{_JSON} needs a file for the plan.")
            json = Path(value if equals else waiting.pop(0))
            if not json.absolute().parent.is_dir():
                raise PlanError(f"--json {json}: there is no folder {json.absolute().parent}; make it first.")
        else:
            rest.append(f"{name}{equals}{value}")
    return Plan(parse_time(within), json, _without_shard(rest), shown().created), rest


def _without_shard(args: Sequence[str]) -> list[str]:
    rest, waiting = [], list(args)
    while waiting:
        each = waiting.pop(0)
        if each == "--shard":
            del waiting[:1]
        elif not each.startswith("--shard="):
            rest.append(each)
    return rest


def show_plan(plan: Plan, cli: RobustSegCLI, parts: Sequence[Part], command: str, folder: Path) -> int:
    """Plan evaluations, and print the plan; return the exit status.

    Args:
        plan: The options.
        cli: The command as configured.
        parts: The evaluations.
        command: Name of the command.
        folder: Folder of its results.
    """
    for part in parts:
        part.benchmark.shard = Shard()  # the plan says how many there should be
    device, start = cli.trainer.strategy.root_device, shown().clock() - plan.began
    bill = bill_of_evaluation(parts, device, start)
    shards, limit, workers = bill.processes_within(plan.within), time_text(plan.within), cli.datamodule.data.num_workers
    lines, ranks = _facts(bill), cli.trainer.world_size
    if ranks > 1:
        lines.append(f"The configured {ranks} ranks share the images: {time_text(bill.seconds(ranks))}.")
    if not bill.batches:
        lines.append("Everything is measured: the command would only write the results again.")
    elif shards is None:
        shortest = time_text(bill.seconds(bill.batches, at_most=True))
        lines.append(
            f"Within {limit}: no number of shards ends it; {bill.batches}, one for each batch, would take {shortest}, "
            f"{time_text(bill.start)} of them for the start."
        )
    elif shards == 1:
        lines.append(f"Within {limit}: one process on this device ends it.")
        lines.append(_sbatch(plan, command, 1, workers, bill.device))
    else:
        took = time_text(bill.seconds(shards, at_most=True))
        lines.append(f"Within {limit}: {shards} shards on as many devices end it, in {took}:")
        lines.append(_sbatch(plan, command, shards, workers, bill.device))
        lines.append(f"or each by itself: {_command(command, plan.arguments)} --shard i/{shards}")
    return _show(plan, bill, f"Plan of {command}, into {folder}; nothing is written", lines, shards)


def _facts(bill: Bill) -> list[str]:
    kept = f" {bill.kept:,} scores of (image, attack) are there and kept." if bill.kept else ""
    lines = [f"{bill.device}; memory: {memory_text(bill.memory)} at its peak.{kept}"]
    reasons = dict.fromkeys(item.error for item in bill.items if item.error)
    for reason in reasons:
        names = ", ".join(item.name for item in bill.items if item.error == reason)
        lines.append(f"Cannot run on this model: {names}: {reason}")
    return [*lines, f"Measured in {time_text(bill.took)}; figures of a busy device are those of a busy device."]


def _command(command: str, args: Sequence[str]) -> str:
    return f"robustseg {command} {shlex.join(args)}"


def _sbatch(plan: Plan, command: str, shards: int, workers: int, device: str) -> str:
    """Return the line that submits all shards as one job array; each is requeued at its time limit."""
    work = f"srun {_command(command, plan.arguments)}"
    if shards > 1:
        work += f" --shard $SLURM_ARRAY_TASK_ID/{shards}"
    options = [f"--array=1-{shards}"] if shards > 1 else []
    options += ["--gpus=1"] if device.startswith("cuda") else []
    options += [f"--cpus-per-task={workers + 1}", f"--time={slurm_time(plan.within)}", "--signal=USR1@60", "--requeue"]
    return f"sbatch {' '.join(options)} --wrap {shlex.quote(work)}"


def show_training(plan: Plan, cli: RobustSegCLI) -> int:
    """Plan a training and print the plan; return the exit status.

    Args:
        plan: The options.
        cli: The training as configured, with its data opened.
    """
    folder, trainer = Path(str(cli.save.run_folder)), cli.trainer
    benchmark = cli.benchmark(None, check_images=0)
    done = 0 if cli.resumed is None else int(cli.resumed["global_step"])
    of = Training(trainer, cli.model, cli.datamodule, cli.config_init.robustness, dict(cli.config_init.trainer), done)
    device, start = trainer.strategy.root_device, shown().clock() - plan.began
    length = length_of(trainer, cli.datamodule, of.robustness, done)
    bill = bill_of_training(of, Part(benchmark, folder / benchmark.name), device, start)
    size = cli.datamodule.batch_size
    of_update = length.accumulated * trainer.world_size
    attacked = attacked_images(cli.model, size) * of_update
    lines = [
        f"{length.updates:,} updates of {size * of_update} images, {attacked} of them attacked, in {length.epochs:.4g} "
        f"epochs of {length.per_epoch:,}" + (f", after {done:,} that are done." if done else "."),
        f"{length.validations} validations, {length.attacked} of them under attack.",
    ]
    return _show_training(plan, bill, str(folder), trainer.world_size, cli.datamodule.data.num_workers, lines)


def _show_training(plan: Plan, bill: Bill, where: str, processes: int, workers: int, lines: Sequence[str]) -> int:
    within, here = plan.within, bill.seconds(processes)
    told = [*lines, *_facts(bill)]
    if processes > 1:
        told.append(f"On the configured {processes} ranks: {time_text(here)}, without their communication.")
    needed = bill.processes_within(within)
    jobs = -(-here // within)
    limit = time_text(within)
    if here <= within:
        told.append(
            f"Within {limit}: {processes} devices end it." if processes > 1 else f"Within {limit}: one device ends it."
        )
    else:
        told.append(f"Within {limit}: not on {processes}; {jobs:.0f} jobs of {limit} one after the other, requeued:")
        told.append(_train_line(plan, processes, workers, within))
    if needed is not None and needed > processes:
        told.append(
            f"or {needed} devices in {time_text(bill.seconds(needed))}; data.global_batch_size keeps the images of an "
            "update:"
        )
        told.append(_train_line(plan, needed, workers, within))
    elif here <= within:
        told.append(_train_line(plan, processes, workers, within))
    return _show(plan, bill, f"Plan of train, into {where}; nothing is written", told, needed)


def _train_line(plan: Plan, devices: int, workers: int, within: float) -> str:
    nodes, each = -(-devices // _PER_NODE), min(devices, _PER_NODE)
    file = "one_node" if nodes == 1 else "several_nodes"
    options = [f"--nodes={nodes}"] if nodes > 1 else []
    options += [f"--ntasks-per-node={each}", f"--gpus-per-node={each}", f"--cpus-per-task={workers + 1}"]
    options += [f"--time={slurm_time(within)}", "--job-name=NAME"]
    return f"sbatch {' '.join(options)} configs/slurm/{file}.sbatch {shlex.join(plan.arguments)}"


def _show(plan: Plan, bill: Bill, title: str, lines: Sequence[str], processes: int | None) -> int:
    shown().stop()
    print_plan(table_of(bill, title), lines)
    if plan.json is not None:
        content: dict[str, Any] = as_json(bill, within=plan.within, processes=processes)
        try:
            write_json(content, plan.json)
        except OSError as error:
            raise PlanError(f"--json {not_writable(plan.json, error)}.") from error
    return 0
