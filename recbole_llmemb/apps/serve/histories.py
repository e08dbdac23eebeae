"""Whose next item is asked for: users of the dataset, or people known by a history alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from recbole_llmemb.core.errors import UserError, refuse_unknown
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.data.histories import POSITION, SortedInteractions, batch_of
from recbole_llmemb.data.windows import stretches
from recbole_llmemb.records.values import tokens_in

#: What is shown of a user: everything, or what evaluation on a split shows.
SPLITS = ("all", "valid", "test")


@dataclass
class Histories:
    """What people have met so far, oldest first: each a stretch of interactions."""

    names: list[str]  # User tokens, or what else they are to be called
    users: torch.Tensor  # (b,): Internal user ids; 0 for people the dataset does not know
    ends: torch.Tensor  # (b,): Where a history has ended among the interactions
    lengths: torch.Tensor  # (b,)
    store: SortedInteractions
    notes: list[str] = field(default_factory=list)  # What is to be said about them

    def __len__(self):
        return len(self.names)

    def select(self, rows) -> Histories:
        """These rows, a LongTensor of their numbers."""
        names = [self.names[i] for i in rows.tolist()]
        users, ends, lengths = self.users[rows], self.ends[rows], self.lengths[rows]
        return replace(self, names=names, users=users, ends=ends, lengths=lengths, notes=[])

    def sample(self, count: int, seed: int = 0) -> Histories:
        """So many rows, or all if there are fewer, drawn at random; in order."""
        draw = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(draw[:count].sort().values)

    def seen(self, item_field: str):
        """Row numbers in ascending order, and the items of each, all of them."""
        found = stretches((self.ends - self.lengths).numpy(), self.lengths.numpy())
        rows, places = map(torch.from_numpy, found)
        return rows, self.store.fields[item_field][places]

    def in_parts(self, size: int, what: str, show_progress: bool = False) -> Iterator[Histories]:
        """``size`` rows at a time, under a bar that is called ``what``; all as they are if few."""
        if len(self) <= size:
            yield self
            return
        disable = None if show_progress else True
        with progress_bar(total=len(self), desc=what, unit="user", disable=disable) as bar:
            for rows in torch.arange(len(self)).split(size):
                yield self.select(rows)
                bar.update(len(rows))

    def batch(self, dataset, config, narrow: bool):
        """What a model is given: the last items of each row, padded.

        ``narrow``: cut the padding to the longest row; else it is ``MAX_ITEM_LIST_LENGTH`` wide.
        """
        most = config["MAX_ITEM_LIST_LENGTH"]
        lengths = self.lengths.clamp(max=most)
        width = int(lengths.max()) if narrow else most
        columns = {dataset.uid_field: self.users, config["ITEM_LIST_LENGTH_FIELD"]: lengths}
        for name in self.store.list_fields:
            columns[name] = self.store.history(name, self.ends, lengths, width)
        return batch_of(columns)


class People:
    """Finds histories: of users by their tokens, of anybody else by those of items."""

    def __init__(self, dataset, splits):
        self.dataset, self.splits = dataset, splits
        store = dataset.sorted_interactions
        read = (dataset.iid_field, dataset.time_field)
        lists = {name: listed for name, listed in store.list_fields.items() if listed in read}
        self.store = SortedInteractions(store.fields, lists, store.max_length)
        self.tokens = [str(token) for token in dataset.field2id_token[dataset.uid_field]]
        self.number = {token: i for i, token in enumerate(self.tokens) if i}
        self._found = {}

    def of_users(self, users="all", split: str = "all") -> Histories:
        """Histories of these users, given by tokens.

        ``split``: everything a user has met; or what evaluation on that split shows of it, which is
        what came before the target (of several, the first).
        """
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
        if split not in self._found:
            self._found[split] = self._rows(split)
        known, ends, lengths, row = self._found[split]
        chosen = torch.arange(len(known))
        if isinstance(users, str) and users != "all":
            users = [users]
        if not isinstance(users, str):
            chosen = self._chosen(users, row, split)
        names = [self.tokens[i] for i in known[chosen].tolist()]
        return Histories(names, known[chosen], ends[chosen], lengths[chosen], self.store)

    def _rows(self, split):
        """Ids, ends and lengths of a split's users, and the row of each user id."""
        owners, user_field = self.store.fields[self.dataset.uid_field], self.dataset.uid_field
        if split == "all":
            known, lengths = torch.unique_consecutive(owners, return_counts=True)
            ends = lengths.cumsum(0)
        else:
            rows = self.splits[SPLITS.index(split)].inter_feat
            if not len(rows):
                told = (
                    f"The checkpoint's data and eval_args leave no {split} part; take --split=all."
                )
                raise UserError(told, key="split")
            places, order = rows[POSITION].sort()  # by user, then time
            known, counts = torch.unique_consecutive(rows[user_field][order], return_counts=True)
            ends = places[counts.cumsum(0) - counts]  # a split by ratio has several of each user
            lengths = ends - torch.searchsorted(owners, known)
        row = torch.full((len(self.tokens),), -1)
        row[known] = torch.arange(len(known))
        return known, ends, lengths, row

    def _chosen(self, users, row, split):
        users = tokens_in(users, "The users")
        refuse_unknown(
            "user", [user for user in users if user not in self.number], self.number,
            f"The dataset {self.dataset.config['dataset']}",
            "recommend for people outside it by their histories (--history, --history_file)",
        )  # fmt: skip
        found = row[[self.number[user] for user in users]]
        absent = [user for user, at in zip(users, found.tolist()) if at < 0]
        if absent:
            told = f"User {absent[0]!r} has too few interactions for the {split} split"
            raise UserError(f"{told} ({len(absent)} do); take --split=all.", key="split")
        return found

    def of_items(
        self,
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
        ``names``: what to call them; ``history 1`` and so on by default.
        ``skip_unknown``: leave unknown items out instead of refusing them.
        ``where``, ``places``: who does not know an item, and where each history stands, for
        messages.
        """
        if not all(isinstance(one, Iterable) and not isinstance(one, str) for one in histories):
            raise UserError("A history is a list of item tokens; give a list of such lists.")
        histories = [tokens_in(history, "The items of a history") for history in histories]
        kept = [[i for i, token in enumerate(one) if token in number] for one in histories]
        unknown = [token for history in histories for token in history if token not in number]
        if unknown and not skip_unknown:
            first = next(i for i, one in enumerate(kept) if len(one) < len(histories[i]))
            refuse_unknown(
                "item", unknown, number, f"{places[first]}: {where}" if places else where,
                "check the spelling, or leave unknown items out with --skip_unknown",
            )  # fmt: skip
        ids = [number[one[i]] for one, each in zip(histories, kept) for i in each]
        fields = {self.dataset.iid_field: torch.tensor(ids, dtype=torch.long)}
        if times is not None:
            moments = [float(one[i]) for one, each in zip(times, kept) for i in each]
            fields[self.dataset.time_field] = torch.tensor(moments, dtype=torch.float64)
        lists = {name: f for name, f in self.store.list_fields.items() if f in fields}
        lengths = torch.tensor([len(one) for one in kept], dtype=torch.long)
        names = names or [f"history {i + 1}" for i in range(len(kept))]
        left_out = f"{len(unknown)} unknown items ({len(set(unknown))} different) were left out"
        return Histories(
            list(map(str, names)), torch.zeros_like(lengths), lengths.cumsum(0), lengths,
            SortedInteractions(fields, lists, self.store.max_length), [left_out] * bool(unknown),
        )  # fmt: skip
