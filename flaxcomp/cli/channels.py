"""What `flaxcomp model NAME --groups` prints: which channels of a network go together."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxcomp.compress.prune.coupling import Coupling
    from flaxcomp.compress.prune.groups import Group


def document(coupling: "Coupling") -> dict[str, Any]:
    """The groups as one JSON object: `members` has, for each axis of an array, how many positions a channel has on it."""
    groups = [
        {
            "name": group.name,
            "channels": group.size,
            "frozen": group.frozen,
            "derived": derived(group),
            "widths": list(group.widths),
            "members": {str(axis): positions.shape[1] for axis, positions in group.members.items()},
        }
        for group in coupling.groups
    ]
    return {"widths": [entry.width for entry in coupling.entries], "groups": groups, "notes": list(coupling.notes)}


def derived(group: "Group") -> bool:
    """Whether its number of channels follows from others."""
    return group.frozen is None and not group.widths


def lines(coupling: "Coupling") -> list[str]:
    """The groups as text, each with its members below."""
    text = []
    for group in coupling.groups:
        count = f"{group.size} channel" + ("s" if group.size > 1 else "")
        text.append(f"{group.name}: {count}, {_standing(group)}")
        text += [f"  {axis}" + (f" x {ids.shape[1]}" if ids.shape[1] > 1 else "") for axis, ids in group.members.items()]
    channels = sum(group.size for group in coupling.free)
    text.append(f"\n{len(coupling.free)} of {len(coupling.groups)} groups free, {channels:,} channels in them")
    return text + [f"not followed: {note}" for note in coupling.notes]


def _standing(group: "Group") -> str:
    if group.frozen is not None:
        return f"frozen: {group.frozen}"
    if derived(group):
        return "free, as many as follow from the others"
    return "free, " + ", ".join(f"widths[{entry}]" for entry in group.widths)
