"""Words for a survey: what a folder holds, how it may be read, and what is wrong with it."""

from __future__ import annotations

from collections import Counter

from robustseg.data.folders import examples
from robustseg.data.survey.contents import Contents
from robustseg.data.survey.layout import Layout
from robustseg.data.survey.proposal import Proposal

_GROUPS = 12
_ROWS = 40
_PROBLEMS = 10


def report(layout: Layout, found: Contents, proposal: Proposal | None) -> str:
    """Return the survey in words."""
    total = len(layout.pairs)
    read = f"all {total}" if found.read == total else f"{found.read} of {total}, evenly spread (--most 0 reads all)"
    lines = [f"{layout.root}: {total} pairs of image and mask; read: {read}"]
    for group in layout.groups:
        names = (
            "" if group.patterns == ("{name}", "{name}") else f", called {group.patterns[0]} and {group.patterns[1]}"
        )
        split = f"{group.split or 'no split'}:"
        lines.append(f"  {split:9} {len(group.pairs)} pairs in {group.images} and {group.masks}{names}")
    if len(layout.groups) > _GROUPS:
        lines.append(f"  and {len(layout.groups) - _GROUPS} more folders")
    lines.append(f"  images    {_counts(found.image_forms)}; {_sizes(found.sizes)}")
    lines.append(f"  masks     {_counts(found.mask_forms)}")
    if proposal is not None:
        lines.append(f"  reading   data.masks: {proposal.masks}, as {proposal.reason}")
        for row in proposal.rows[:_ROWS]:
            what = f"colour {row.colour}" if proposal.masks == "colours" else f"id {row.id}"
            lines.append(f"    {100 * row.share:6.2f} %  {what:22} {row.name}{' (ignored)' * row.ignore}")
        if len(proposal.rows) > _ROWS:
            lines.append(f"    and {len(proposal.rows) - _ROWS} more")
    problems = problems_of(layout, found)
    lines.append(f"  problems  {len(problems) or 'none'}")
    lines += [f"    {problem}" for problem in problems[:_PROBLEMS]]
    if len(problems) > _PROBLEMS:
        lines.append(f"    and {len(problems) - _PROBLEMS} more")
    return "\n".join(lines)


def problems_of(layout: Layout, found: Contents) -> list[str]:
    """Return all problems, each in a line."""
    problems = []
    if alone := [name for group in layout.groups for name in group.alone]:
        problems.append(f"files without a partner ({len(alone)}): {examples(alone)}")
    if layout.others:
        names = [path.relative_to(layout.root).as_posix() for path in layout.others]
        problems.append(f"pictures outside of these folders ({len(names)}): {examples(names)}")
    if found.transparent:
        problems.append(f"masks with transparent pixels, which may be void or a class: {found.transparent}")
    for form, count in found.converted.items():
        problems.append(f"images of the form {form}, to be converted or named in data.convert: {count}")
    alike = Counter(name.casefold() for pair in layout.pairs for name in [pair.id])
    if twice := [name for name, count in alike.items() if count > 1]:
        problems.append(f"names differ in upper and lower case only: {examples(twice)}")
    return problems + found.problems


def _counts(forms: Counter[str]) -> str:
    return ", ".join(f"{count} {form}" for form, count in forms.most_common()) or "none that can be read"


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    if not sizes:
        return "no sizes"
    if len(sizes) == 1:
        width, height = next(iter(sizes))
        return f"all {width}x{height} pixels"
    small, large = (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
    return f"{len(sizes)} sizes from {small[0]}x{small[1]} to {large[0]}x{large[1]} pixels"
