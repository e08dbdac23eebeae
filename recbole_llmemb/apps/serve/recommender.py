"""Top items for users, from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from recbole_llmemb.apps.serve import new_items
from recbole_llmemb.apps.serve.histories import Histories, Users, of_tokens
from recbole_llmemb.apps.serve.item_index import Catalogue, Choice
from recbole_llmemb.apps.serve.recommendations import Recommendations
from recbole_llmemb.apps.serve.topk import Pairs, best_products, best_scores
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.contract import as_method
from recbole_llmemb.records.items import item_titles, title_of
from recbole_llmemb.run.restore import Restored, restore

BATCH_SIZE = 1024
_SCORES_AT_ONCE = 1 << 26  # of a model that makes all scores of a batch at once
# Keys of the configuration, and what `restore` calls them.
_PLACES = {"llm_table": "table", "llm_model": "llm", "align_teacher": "teacher"}


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
    ``catalogue``: Item tokens and titles.
    """

    def __init__(self, checkpoint, title_field=None, **places):
        loaded = checkpoint
        if not isinstance(checkpoint, Restored):
            loaded = restore(checkpoint, **{_PLACES.get(key, key): places[key] for key in places})
        self.path, self.config, self.model = loaded.path, loaded.config, loaded.model
        self.dataset, self.splits = loaded.dataset, loaded.splits
        self._users = Users(self.dataset, loaded.splits)
        tokens = [str(t) for t in self.dataset.field2id_token[self.dataset.iid_field]]
        self.method = as_method(self.model)
        grows = not self.method.why_not("new_items", self.config)
        first_new_id = self.method.first_new_id if grows else len(tokens)
        self.catalogue = Catalogue(tokens, item_titles(self.config, title_field), first_new_id)
        self._learns_users = self._set_unknown_user_to_mean()
        self._items = self.method.item_matrix() if self.method.products else None
        self._counts = None

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
        if (users is None) == (histories is None):
            raise UserError("Recommendations are for users or for histories; give one of both.")
        if users is not None:
            return self._users.histories(users, split)
        dated = "times" in self.method.reads
        if dated and (times is None or any(one is None for one in times)):
            raise UserError(
                "The prompts of this LLMSRec name dates; give a time per item with each history "
                '({"history": [...], "times": [...]} in a --history_file).'
            )
        number = self.catalogue.number
        times = [self.dataset.clock.scaled(each) for each in times] if dated else None
        where = f"The model of {self.path}"
        found = of_tokens(histories, number, names, times, skip_unknown, where, places)
        self.catalogue.check_readable(found.items, self.method, self.config["model"])
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
        if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
            raise UserError(f"topk is {topk!r}; it must be a whole number of at least 1.")
        if not len(people):
            raise UserError("There is nobody to recommend to; name a user or give a history.")
        chosen = None if candidates is None else self.catalogue.positions(candidates)
        choice = Choice(self.catalogue, chosen)
        items = choice.of(self._items) if self.method.products else None
        k, size = min(topk, len(choice)), batch_size or self.batch_size
        for part in people.in_parts(size, "recommend", show_progress):
            yield self._recommend(part, k, exclude_seen, choice, items)

    @property
    def batch_size(self) -> int:
        """People at a time, unless told otherwise."""
        if self.method.rows_at_once:
            return self.method.rows_at_once
        if self.method.products:
            return BATCH_SIZE
        return max(1, min(BATCH_SIZE, _SCORES_AT_ONCE // len(self.catalogue)))

    def notes(self, people: Histories) -> list[str]:
        """What should be said about how these people's histories were read, in sentences."""
        learner = self.config["model"] if self._learns_users else ""
        return people.remarks(self.config["MAX_ITEM_LIST_LENGTH"], learner)

    # -- vectors ----------------------------------------------------------------------

    def user_vectors(self, people: Histories, show_progress=False):
        """Vectors whose inner products with :attr:`item_vectors` are the scores, ``(b, d)``."""
        self.require("vectors", "it has no vectors of users")
        if bool((people.lengths == 0).any()):
            raise UserError("A person without a history has no vector; leave such people out.")
        parts = people.in_parts(self.batch_size, "users", show_progress)
        return torch.cat([self.method.queries(self._batch(part)).cpu() for part in parts])

    @property
    def item_vectors(self):
        """Vectors of all items by position in the catalogue, ``(n, d)``; row 0 is padding."""
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
        was trained (``llm_freeze: False`` without an adapter), a new item has the vector that
        training would have started from.

        ``items``: A ``.item`` or jsonl file, a table directory with ready vectors, or mappings with
        a token under the item id field and attributes.
        Returns their tokens.
        """
        new_items.require_new_items(self.method, self.config)
        if isinstance(items, Sequence) and all(isinstance(one, Mapping) for one in items):
            found = new_items.of_mappings(items, self.config["ITEM_ID_FIELD"])
        else:
            found = new_items.read_new_items(items, self.config)
        new_items.refuse_known(found, self.catalogue.number, self.config["dataset"])
        vectors = new_items.vectors_of(found, self.config)
        self.method.extend(vectors)
        self._items = self.method.item_matrix()
        pairs = zip(found.tokens, found.attributes)
        titles = {token: title_of(attributes, self.config) for token, attributes in pairs}
        self.catalogue.add(found.tokens, {token: title for token, title in titles.items() if title})
        return found.tokens

    # -- inside -----------------------------------------------------------------------

    def _set_unknown_user_to_mean(self):
        """Give user 0, who stands for anybody new, the mean of what users have learnt.

        Returns whether the model learns something per user.
        """
        layers = self.method.user_embeddings(self.dataset.user_num)
        with torch.no_grad():
            for layer in layers:
                layer.weight[0] = layer.weight[1:].mean(0)
        return bool(layers)

    def _batch(self, part):
        batch = part.batch(self.dataset, self.config, narrow=self.method.products)
        field = self.dataset.iid_field + self.config["LIST_SUFFIX"]
        batch[field] = self.catalogue.ids(batch[field])
        return batch.to(self.config["device"])

    def _recommend(self, part, k, exclude_seen, choice, items):
        empty = part.lengths == 0
        scores, places = torch.full((len(part), k), -torch.inf), torch.zeros(len(part), k).long()
        rows = (~empty).nonzero().squeeze(1)
        if len(rows):
            some = part if len(rows) == len(part) else part.select(rows)
            scores[rows], places[rows] = self._best(some, k, exclude_seen, choice, items)
        if empty.any():
            counts = choice.of(self._popularity()).unsqueeze(0).clone()
            value, column = best_scores(counts, k)
            scores[empty], places[empty] = value, choice.places(column)
        return Recommendations(part.names, places, scores, empty, self.catalogue)

    def _best(self, part, k, exclude_seen, choice, items):
        forbidden = Pairs(*choice.columns(*part.seen())) if exclude_seen else None
        batch = self._batch(part)
        if self.method.products:
            value, column = best_products(self.method.queries(batch), items, k, forbidden)
        else:
            matrix = choice.of(self._scores(batch), dim=1).clone()
            value, column = best_scores(matrix, k, forbidden)
        value, column = value.cpu(), column.cpu()
        return value, choice.places(column).masked_fill_(value == -torch.inf, 0)

    @torch.no_grad()
    def _scores(self, batch):
        """Of all items at once, which only the model itself can make, ``(b, n_items)``."""
        return self.method.scores(batch).float().view(len(batch), -1)

    def _popularity(self):
        """How often each item was met in training, ``(n,)``; new ones never."""
        if self._counts is None:
            self._counts = self.dataset.training_counts(self.splits[0])[0].float()
        return torch.nn.functional.pad(self._counts, (0, len(self.catalogue) - len(self._counts)))
