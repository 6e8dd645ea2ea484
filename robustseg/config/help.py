"""Help texts of commands with configurations: the package's own options first, Lightning's Trainer last."""

from __future__ import annotations

import argparse

from jsonargparse import ArgumentParser, DefaultHelpFormatter

_SECTIONS = {
    "model": "Model, attacker and optimiser",
    "data": "Data",
    "study": "Study",
    "robustness": "Suite of attacks that models are scored under, in training and at its end",
    "checkpoint": "Best checkpoints, by a figure of validation",
    "save": "Checkpoints to continue from",
    "trainer": "Lightning's Trainer",
}
"""Titles of the groups of options by their key, in the order of the help."""

_ABOUT = {
    "train": "Train a model, and score it on the test split under all attacks of its suite.",
    "evaluate": "Score a checkpoint, in the model and on the data of its run, under a suite of\nattacks.",
    "study": "Measure a study of a checkpoint, such as a curve over the number of steps; with\n"
    "--models NAME=RUN NAME=RUN ... also how these models answer its images.",
}
_EXAMPLES = {
    "train": "--config FILE --model.attack SegPGD --model.attack.steps 5",
    "evaluate": "--config RUN/config.yaml --ckpt_path FILE",
    "study": "--config RUN/config.yaml --config STUDY --ckpt_path FILE",
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """A formatter that keeps the line breaks of a description."""


def describe(command: str) -> str:
    """Describe a command, with an example and the options that print a class's help."""
    classes = ("--model.attack.help SegPGD", "--model.network.help PSPNet", "--data.help CamVid")
    return "\n".join(
        [
            _ABOUT[command],
            "",
            f"  robustseg {command} {_EXAMPLES[command]}",
            "",
            "Of several --config files, later ones replace keys of earlier ones, and options\n"
            "of the command line come last. Options of an attack, a network or a data set:",
            "",
            *(f"  robustseg {command} {example}" for example in classes),
        ]
    )


def arrange(parser: ArgumentParser) -> None:
    """Set the titles and the order of the groups of options: general ones, the sections, linked ones."""
    groups = parser.groups or {}
    sections = {id(groups[key]): title for key, title in _SECTIONS.items() if key in groups}
    for group in parser._action_groups:
        group.title = sections.get(id(group), group.title)
    titles = ["positional arguments", "options", *_SECTIONS.values()]
    places = {title: place for place, title in enumerate(titles)}
    parser._action_groups = sorted(parser._action_groups, key=lambda group: places.get(str(group.title), len(titles)))
