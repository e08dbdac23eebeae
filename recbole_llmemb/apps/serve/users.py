"""Users of the dataset and what they have met."""

from __future__ import annotations

import numpy as np
import torch

from recbole_llmemb.apps.serve.histories import Histories
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.suggestions import refuse_unknown
from recbole_llmemb.data.lazy import POSITION

#: What is shown of a user: everything, or what evaluation on a split shows.
SPLITS = ("all", "valid", "test")


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
        if isinstance(users, str) and users == "all":
            chosen = torch.arange(len(known))
        else:
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
