"""Whose next item is asked for: users of the dataset, or people known by a history alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from recbole_llmemb.core.errors import UserError, refuse_unknown
from recbole_llmemb.data.histories import batch_of
from recbole_llmemb.data.lazy import POSITION

#: What is shown of a user: everything, or what evaluation on a split shows.
SPLITS = ("all", "valid", "test")


@dataclass
class Histories:
    """What people have met so far, oldest first, flat: row i is a stretch of ``items``."""

    names: list[str]  # User tokens, or what else they are to be called
    users: torch.Tensor  # (b,): Internal user ids; 0 for people the dataset does not know
    starts: torch.Tensor  # (b,)
    lengths: torch.Tensor  # (b,)
    items: torch.Tensor  # (m,)
    times: torch.Tensor | None = None  # (m,)
    notes: list[str] = field(default_factory=list)  # What is to be said about them

    def __len__(self):
        return len(self.names)

    def part(self, begin: int, end: int) -> Histories:
        """Rows ``begin`` to ``end``."""
        return self.select(torch.arange(begin, min(end, len(self))))

    def select(self, rows) -> Histories:
        """These rows, a LongTensor of their numbers."""
        names = [self.names[i] for i in rows.tolist()]
        users, starts, lengths = self.users[rows], self.starts[rows], self.lengths[rows]
        return replace(self, names=names, users=users, starts=starts, lengths=lengths, notes=[])

    def seen(self):
        """Row numbers in ascending order, and the items of each, all of them."""
        rows = torch.repeat_interleave(torch.arange(len(self)), self.lengths)
        before = self.lengths.cumsum(0) - self.lengths
        offsets = torch.arange(len(rows)) - before[rows]
        return rows, self.items[self.starts[rows] + offsets]

    def in_parts(self, size: int, what: str, show_progress: bool = False) -> Iterator[Histories]:
        """``size`` rows at a time, under a bar that is called ``what``."""
        disable = None if show_progress else True
        with tqdm(total=len(self), desc=what, unit="user", disable=disable) as bar:
            for begin in range(0, len(self), size):
                yield self.part(begin, begin + size)
                bar.update(min(size, len(self) - begin))

    def remarks(self, most: int, learner: str = "") -> list[str]:
        """What should be said about how these histories are read, in sentences.

        ``most``: items that the model reads.
        ``learner``: the model's name, if it learns something per user.
        """
        found, count = list(self.notes), len(self)
        longer, empty = int((self.lengths > most).sum()), int((self.lengths == 0).sum())
        if longer:
            which = f"{longer} of {count} histories are longer than the {most} items"
            found.append(f"{which} that the model reads: the last ones are used")
        if empty:
            found.append(f"{empty} of {count} have no history: they get popular items")
        if learner and bool((self.users == 0).any()):
            which = f"{learner} learns something for every user"
            found.append(f"{which}: people it does not know get the mean")
        return found

    def batch(self, dataset, config, narrow: bool):
        """What a model is given: the last items of each row, padded.

        ``narrow``: cut the padding to the longest row; else it is ``MAX_ITEM_LIST_LENGTH`` wide.
        """
        most = config["MAX_ITEM_LIST_LENGTH"]
        lengths = self.lengths.clamp(max=most)
        width = int(lengths.max()) if narrow else most
        offsets = torch.arange(width)
        inside = offsets < lengths.unsqueeze(1)
        index = (self.starts + self.lengths - lengths).unsqueeze(1) + offsets
        index = index.clamp(max=max(0, len(self.items) - 1))
        suffix = config["LIST_SUFFIX"]
        columns = {
            dataset.uid_field: self.users,
            dataset.iid_field + suffix: self.items[index] * inside,
            config["ITEM_LIST_LENGTH_FIELD"]: lengths,
        }
        if self.times is not None:
            columns[config["TIME_FIELD"] + suffix] = self.times[index] * inside
        return batch_of(columns)


class Users:
    """Finds histories by user token.

    ``splits``: training, validation and test rows.
    """

    def __init__(self, dataset, splits):
        self.dataset, self.splits = dataset, splits
        store = dataset.sorted_interactions.fields
        self.owners, self.items = store[dataset.uid_field], store[dataset.iid_field]
        self.times = store.get(dataset.time_field)
        self.tokens = [str(token) for token in dataset.field2id_token[dataset.uid_field]]
        self.number = {token: i for i, token in enumerate(self.tokens) if i}
        self._found = {}

    def histories(self, users="all", split: str = "all") -> Histories:
        """Histories of these users.

        ``users``: user tokens.
        ``split``: everything a user has met; or what evaluation on that split shows of it, which is
        what came before the target (of several, the first).
        """
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
        known, starts, lengths, row = self._rows(split)
        chosen = torch.arange(len(known))
        if users != "all":
            chosen = self._chosen([users] if isinstance(users, str) else users, row, split)
        ids = known[chosen]
        names = [self.tokens[i] for i in ids.tolist()]
        return Histories(names, ids, starts[chosen], lengths[chosen], self.items, self.times)

    def _rows(self, split):
        """Ids, first positions and lengths of a split's users, and the row of each user id."""
        if split not in self._found:
            if split == "all":
                known, lengths = torch.unique_consecutive(self.owners, return_counts=True)
                starts = lengths.cumsum(0) - lengths
            else:
                rows = self.splits[SPLITS.index(split)].inter_feat
                if not len(rows):
                    raise UserError(
                        f"The dataset {self.dataset.config['dataset']} has no {split} part under "
                        "the eval_args of the checkpoint; leave --split at all."
                    )
                users, places = rows[self.dataset.uid_field], rows[POSITION]
                # A user's first target: a split by ratio has several of each.
                order = np.lexsort((places.numpy(), users.numpy()))
                _, first = np.unique(users.numpy()[order], return_index=True)
                first = torch.from_numpy(np.sort(order[first]))
                known = users[first]
                starts = torch.searchsorted(self.owners, known)
                lengths = places[first] - starts
            row = np.full(len(self.tokens), -1, dtype=np.int64)
            row[known.numpy()] = np.arange(len(known))
            self._found[split] = known, starts, lengths, row
        return self._found[split]

    def _chosen(self, users, row, split):
        users = [str(user) for user in users]
        unknown = [user for user in users if user not in self.number]
        if unknown:
            refuse_unknown(
                "user", unknown, self.number, f"The dataset {self.dataset.config['dataset']}",
                "recommend for people outside it by their histories (--history, --history_file)",
            )  # fmt: skip
        found = row[[self.number[user] for user in users]]
        absent = [user for user, at in zip(users, found) if at < 0]
        if absent:
            raise UserError(
                f"User {absent[0]!r} has too few interactions to be part of the {split} split "
                f"({len(absent)} of those asked for); leave --split at all."
            )
        return torch.from_numpy(found)


def of_tokens(
    histories: Sequence[Sequence[str]],
    number: dict[str, int],
    names: Sequence[str] | None = None,
    times: Sequence[Sequence[float]] | None = None,
    skip_unknown: bool = False,
    where: str = "The model",
    places: Sequence[str] | None = None,
) -> Histories:
    """Histories of people the dataset does not know.

    ``histories``: item tokens, oldest first; may be empty.
    ``number``: ids of the item tokens.
    ``names``: what to call them; ``history 1`` and so on by default.
    ``times``: for each a time per item.
    ``skip_unknown``: leave unknown items out instead of refusing them.
    ``where``, ``places``: who does not know an item, and where each history stands, for messages.
    """
    if isinstance(histories, str) or any(isinstance(one, str) for one in histories):
        raise UserError("A history is a list of item tokens; give a list of such lists.")
    histories = [[str(token) for token in history] for history in histories]
    unknown = [token for history in histories for token in history if token not in number]
    notes = []
    if unknown and not skip_unknown:
        at = ""
        if places:
            first = next(i for i, h in enumerate(histories) if any(t not in number for t in h))
            at = f"{places[first]}: "
        refuse_unknown(
            "item", unknown, number, f"{at}{where}",
            "check the spelling, or leave unknown items out with --skip_unknown",
        )  # fmt: skip
    if unknown:
        distinct = len(set(unknown))
        notes.append(f"{len(unknown)} unknown items ({distinct} different) were left out")
    kept = [[i for i, token in enumerate(one) if token in number] for one in histories]
    lengths = torch.tensor([len(each) for each in kept], dtype=torch.long)
    items = [number[one[i]] for one, each in zip(histories, kept) for i in each]
    moments = None
    if times is not None:
        clocks = [float(one[i]) for one, each in zip(times, kept) for i in each]
        moments = torch.tensor(clocks, dtype=torch.float64)
    names = names or [f"history {i}" for i in range(1, len(histories) + 1)]
    return Histories(
        [str(name) for name in names],
        torch.zeros(len(lengths), dtype=torch.long),
        lengths.cumsum(0) - lengths,
        lengths,
        torch.tensor(items, dtype=torch.long),
        moments,
        notes,
    )
