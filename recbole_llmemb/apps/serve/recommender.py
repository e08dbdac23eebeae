"""Top items for users, from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from numbers import Integral

import torch

from recbole_llmemb.apps.serve import item_index
from recbole_llmemb.apps.serve.histories import Histories, People
from recbole_llmemb.apps.serve.item_index import ItemIndex, best_scores, top_k_inner_products
from recbole_llmemb.apps.serve.recommendations import Recommendations
from recbole_llmemb.core.checkpoint import no_numbers
from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.data.dataset import interactions_digest
from recbole_llmemb.evaluation.loaders import ExcludedPairs
from recbole_llmemb.models.contract import as_method
from recbole_llmemb.records.items import item_titles, title_of
from recbole_llmemb.run.restore import Restored, restore, tell_other_data

BATCH_SIZE = 1024
_SCORES_AT_ONCE = 1 << 26  # of a model that makes all scores of a batch at once


class Recommender:
    """A checkpoint that recommends. Item vectors are computed once, when it is made.

    ``checkpoint``: of any sequential model of this package or of RecBole.
    ``title_field``: field of the ``.item`` file with the items' titles; by default one called title
    or name.
    ``**places``: ``device``, ``cpu`` or ``cuda:0``; by default what the configuration says and the
    machine has. ``data_path``, ``llm_table``, ``llm_model``, ``align_teacher``: where the dataset's
    folder, the table, the LLM and the CF model's checkpoint are now, if not where they were.
    ``trust_remote_code``: run code that comes with the encoder or the LLM; what the checkpoint says
    does not count.

    config, dataset, splits, model: RecBole's, rebuilt from the checkpoint.
    ``item_index``: Item tokens and titles.
    """

    def __init__(self, checkpoint, title_field=None, **places):
        ready = isinstance(checkpoint, Restored)
        loaded = checkpoint if ready else restore(checkpoint, **places)
        self.path, self.config, self.model = loaded.path, loaded.config, loaded.model
        self.dataset, self.splits = loaded.dataset, loaded.splits
        self.method = as_method(self.model)
        if type(self.model).full_sort_predict.__qualname__.startswith("AbstractRecommender."):
            told = f"{type(self.model).__name__} scores one item at a time and ranks none"
            raise UserError(f"{told}; give a checkpoint of another model.", where=self.path)
        self._people = People(self.dataset, loaded.splits)
        tokens = [str(t) for t in self.dataset.field2id_token[self.dataset.iid_field]]
        grows = not self.method.why_not("new_items", self.config)
        first_new_id = self.method.first_new_id if grows else len(tokens)
        self.item_index = ItemIndex(tokens, item_titles(self.config, title_field), first_new_id)
        # User 0, who stands for anybody new, gets the mean of what users have learned.
        self._learns_users = self.method.user_embeddings(self.dataset.user_num)
        with torch.no_grad():
            for layer in self._learns_users:
                layer.weight[0] = layer.weight[1:].mean(0)
        self._items = self._item_matrix() if self.method.products else None

    # -- asking -----------------------------------------------------------------------

    def recommend(
        self, users=None, histories=None, names=None, times=None, skip_unknown=False, split="all",
        **how,
    ) -> Recommendations:  # fmt: skip
        """The best items for users of the dataset, or for people known by a history alone.

        ``users`` to ``split``: for whom, as of :meth:`people`.
        ``**how``: ``topk``, ``exclude_seen``, ``candidates``, ``batch_size`` and ``show_progress``,
        as of :meth:`stream`.
        """
        people = self.people(users, histories, names, times, skip_unknown, split)
        return Recommendations.joined(list(self.stream(people, **how)))

    def people(
        self, users=None, histories=None, names=None, times=None, skip_unknown=False,
        split="all", places=None,
    ) -> Histories:  # fmt: skip
        """Whose next items are to be found.

        ``users``: user tokens of the dataset, or all.
        ``histories``: item tokens of each person, oldest first; instead of ``users``. An empty one
        gets the most popular items.
        ``split``: of users, read everything they have met, or what evaluation on that split shows.
        ``names``: what to call the people of ``histories``.
        ``times``: for each history a time per item, or None; LLM-SRec's prompts may name dates.
        ``skip_unknown``: leave unknown items out of histories.
        ``places``: where each history stands, for messages.
        """
        histories = None if histories is None else list(histories)
        if (users is None) == (histories is None):
            told = f"got {'neither' if users is None else 'both'}; give one of them"
            raise UserError(f"Recommendations are for users or for histories and {told}.")
        if users is not None:
            if split != "all":
                self._other_data_is_told  # noqa: B018
            return self._people.of_users(users, split)
        dated = "times" in self.method.reads
        if dated and (times is None or any(one is None for one in times)):
            told = "The prompts of this LLMSRec name dates; give each history a time per item"
            raise UserError(f"{told} (times in a --history_file).", key="history_file")
        times = [self.dataset.time_scaling.scaled(each) for each in times] if dated else None
        number, where = self.item_index.number, f"The model of {self.path}"
        found = self._people.of_items(histories, number, names, times, skip_unknown, where, places)
        _, items = found.seen(self.dataset.iid_field)
        if "item_fields" in self.method.reads and (items >= self.item_index.item_count).any():
            told = f"{self.config['model']} reads fields of a history's items, which new ones lack"
            raise UserError(f"{told}; leave new items out of histories.")
        return found

    def stream(
        self, people: Histories, topk=10, exclude_seen=False, candidates=None, batch_size=None,
        show_progress=False,
    ) -> Iterator[Recommendations]:  # fmt: skip
        """As :meth:`recommend`, one batch after the other, for any number of people.

        ``people``: from :meth:`people`.
        ``topk``: at most so many items.
        ``exclude_seen``: leave out what a history has.
        ``candidates``: item tokens to choose among.
        ``batch_size``: people at a time.
        ``show_progress``: show a bar.
        """
        if isinstance(topk, bool) or not isinstance(topk, Integral) or topk < 1:
            raise UserError(f"topk is {topk!r}; it must be a whole number of at least 1.")
        if not isinstance(exclude_seen, bool):
            told = f"exclude_seen is {exclude_seen!r}; it must be True or False."
            raise UserError(told, key="exclude_seen")
        if not len(people):
            raise UserError("There is nobody to recommend to; name a user or give a history.")
        chosen = None if candidates is None else self.item_index.positions(candidates)
        count = len(self.item_index) - 1 if chosen is None else len(chosen)
        self.model.eval()  # also where somebody has trained it since
        items = self._items[_rows(chosen)] if self.method.products else None
        for part in people.in_parts(batch_size or self.batch_size, "recommend", show_progress):
            yield self._recommend(part, min(topk, count), exclude_seen, chosen, items)

    @property
    def batch_size(self) -> int:
        """People at a time, unless told otherwise."""
        if self.method.rows_at_once:
            return self.method.rows_at_once
        if self.method.products:
            return BATCH_SIZE
        return max(1, min(BATCH_SIZE, _SCORES_AT_ONCE // len(self.item_index)))

    def notes(self, people: Histories) -> list[str]:
        """What should be said about how these people's histories were read, in sentences."""
        found, count, most = list(people.notes), len(people), self.config["MAX_ITEM_LIST_LENGTH"]
        longer, empty = int((people.lengths > most).sum()), int((people.lengths == 0).sum())
        if longer:
            which = f"{longer} of {count} histories are longer than the {most} items"
            found.append(f"{which} that the model reads: the last ones are used")
        if empty:
            found.append(f"{empty} of {count} have no history: they get popular items")
        if self._learns_users and bool((people.users == 0).any()):
            which = f"{self.config['model']} learns something for every user"
            found.append(f"{which}: people it does not know get the mean")
        return found

    # -- vectors ----------------------------------------------------------------------

    def user_vectors(self, people: Histories, show_progress=False):
        """Vectors whose inner products with :attr:`item_vectors` are the scores, ``(b, d)``."""
        self.require("vectors", "it has no vectors of users")
        if bool((people.lengths == 0).any()):
            raise UserError("A person without a history has no vector; leave such people out.")
        self.model.eval()
        parts = people.in_parts(self.batch_size, "users", show_progress)
        return torch.cat([self.method.queries(self.batch(part)).cpu() for part in parts])

    @property
    def item_vectors(self):
        """Vectors of all items by position in the index, ``(n, d)``; row 0 is padding."""
        self.require("vectors", "it has no vectors of items")
        return self._items

    def require(self, ability: str, consequence: str) -> None:
        """Refuse what the model cannot do."""
        why = self.method.why_not(ability, self.config)
        if why:
            raise UserError(f"{why}, so {consequence}; take a model such as LLMEmbSASRec.")

    # -- new items --------------------------------------------------------------------

    def add_items(self, items) -> list[str]:
        """Let items that nobody has met be ranked with the rest, without training.

        Their text is encoded with the encoder, prompt and fields of the model's table. Where that
        was trained (``llm_freeze: False`` without an adapter), a new item is put beside what
        the known items of the most similar texts have learned.

        ``items``: A ``.item`` or jsonl file, a table directory with ready vectors, or mappings with
        a token under the item id field and attributes. Items that are known already stay as they
        are, and are counted in ``known_again``; those of which nothing is said are left out, and
        counted in ``without_text``.
        Returns the tokens of those that were added, at least one.
        """
        self.require("new_items", "new items cannot be ranked")
        found = item_index.read_new_items(items, self.config)
        padding = self.item_index.tokens[0]
        if padding in found.tokens:
            told = f"A new item is called {padding!r}, which is none"
            raise UserError(f"{told}; call it otherwise.", key="new_items")
        fresh = [i for i, token in enumerate(found.tokens) if token not in self.item_index.number]
        self.known_again = len(found.tokens) - len(fresh)
        if not fresh:
            told = f"All of the new items are known already ({name_some(found.tokens)})"
            raise UserError(f"{told}; give some that the model does not know.", key="new_items")
        found = found.only(fresh)
        known = item_index.described(found, self.config)
        self.without_text = len(found.tokens) - len(known)
        found = found.only(known) if known else found  # which is refused when it is encoded
        self.method.extend(item_index.vectors_of(found, self.config))
        self._items = self._item_matrix()
        titles = [title_of(attributes, self.config) for attributes in found.attributes]
        named = {token: title for token, title in zip(found.tokens, titles) if title}
        self.item_index.add(found.tokens, named)
        return found.tokens

    def _item_matrix(self):
        items = self.method.item_matrix()
        broken = (~torch.isfinite(items)).any(1).nonzero().flatten().tolist()
        if broken and broken[0] >= self.item_index.item_count:
            told = "New items get vectors that are no numbers: theirs in the table are too large"
            raise UserError(f"{told}; leave them out.", key="new_items")
        if broken:
            raise no_numbers(f"The items' vectors of the model of {self.path}")
        return items

    # -- inside -----------------------------------------------------------------------

    def batch(self, part: Histories):
        """What the model is given for these people."""
        batch = part.batch(self.dataset, self.config, narrow=self.method.products)
        field = self.dataset.iid_field + self.config["LIST_SUFFIX"]
        batch[field] = self.item_index.ids(batch[field])
        return batch.to(self.config["device"])

    def _recommend(self, part, k, exclude_seen, chosen, items):
        """The best of the ``chosen`` positions, or of all, whose vectors are ``items``."""
        empty = part.lengths == 0
        if not empty.any():
            scores, columns = self._best(part, k, exclude_seen, chosen, items)
        else:
            counts = self._popularity()[_rows(chosen)].unsqueeze(0).clone()
            best = counts.sort(dim=1, descending=True, stable=True)  # which k does not change
            scores, columns = (one[:, :k].repeat(len(part), 1) for one in best)
            rows = (~empty).nonzero().squeeze(1)
            if len(rows):
                found = self._best(part.select(rows), k, exclude_seen, chosen, items)
                scores[rows], columns[rows] = found
        places = columns + 1 if chosen is None else chosen[columns]
        places = places.masked_fill_(scores == -torch.inf, 0)
        return Recommendations(part.names, places, scores, empty, self.item_index)

    @torch.no_grad()
    def _best(self, part, k, exclude_seen, chosen, items):
        forbidden = None
        if exclude_seen:
            rows, places = part.seen(self.dataset.iid_field)
            columns = places - 1
            if chosen is not None:
                columns = torch.searchsorted(chosen, places).clamp(max=len(chosen) - 1)
                there = chosen[columns] == places
                rows, columns = rows[there], columns[there]
            forbidden = ExcludedPairs(rows, columns)
        batch = self.batch(part)
        if self.method.products:
            value, column = top_k_inner_products(self.method.queries(batch), items, k, forbidden)
        else:  # of all items at once, which only the model itself can make
            scores = self.method.scores(batch).float().view(len(part), -1)
            value, column = best_scores(scores[:, _rows(chosen)].clone(), k, forbidden)
        if value.isnan().any():
            raise no_numbers("The model's scores")
        return value.cpu(), column.cpu()

    @cached_property
    def _other_data_is_told(self) -> bool:
        now = {"interactions": interactions_digest(self.splits[0])}
        tell_other_data(self.config["trained_on"], now, self.path)
        return True

    @cached_property
    def _counts(self):
        return self.dataset.training_counts(self.splits[0])[0].float()

    def _popularity(self):
        """How often each item was met in training, ``(n,)``; new ones never."""
        return torch.nn.functional.pad(self._counts, (0, len(self.item_index) - len(self._counts)))


def _rows(chosen):
    """Where the items among which is chosen have their rows: all without padding, uncopied."""
    return slice(1, None) if chosen is None else chosen
