"""LLM-SRec in its text form, written down as the paper describes it and no faster.

Each example is assembled by itself: its prompt is cut at the slots, tokenized, embedded, and
the vectors are put in one after the other. Prompts are padded to the longest of the batch and
go through the LLM whole, those of all candidates too, however often an item occurs among them.
Nothing is kept from one step to the next. It takes its weights from a model of the package, so
both compute the same function: the benchmark compares their times, the tests their numbers.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F

from recbole_llmemb.models.llmsrec import prompts

_SLOT = re.compile(r"(\[HistoryEmb\]|\[UserOut\]|\[ItemOut\])")


def user_prompt(titles, dates=None):
    """A whole user prompt of these titles and dates, oldest first, with its slots in words."""
    dates = dates or [None] * len(titles)
    shown = [
        prompts.history_text(number, title, date) + "[HistoryEmb]"
        for number, (title, date) in enumerate(zip(titles, dates), start=1)
    ]
    return "".join(shown) + prompts.USER_END + "[UserOut]"


def item_prompt(title):
    """A whole item prompt, with its slots in words."""
    return prompts.item_text(title) + "[HistoryEmb]" + prompts.ITEM_END + "[ItemOut]"


class Reference:
    """The straightforward form of a model.

    Parameters
    ----------
    model : LLMSRec
        With ``item_input: text``.
    titles : list of str
        By item id.
    """

    def __init__(self, model, titles):
        self.model, self.titles = model, titles
        self.llm, self.form = model.llm, model.form

    def embedded(self, prompt, items, out):
        """Input embeddings ``(L, H)`` of one prompt, and where its last slot is."""
        rows, history = [], iter(items)
        ids = [*self.llm.head]
        for part in _SLOT.split(prompt):
            if not part:
                continue
            if not _SLOT.fullmatch(part):
                ids += self.llm.tokenizer(part, add_special_tokens=False)["input_ids"]
                continue
            if ids:
                rows.append(self.llm.embed(torch.tensor(ids, device=self.llm.device)))
            ids = []
            if part == "[HistoryEmb]":
                vector = self.form.history_projection(self.form.cf_items[next(history)])
            else:
                vector, end = out, sum(len(row) for row in rows)
            rows.append(vector.to(self.llm.embed.weight.dtype).unsqueeze(0))
        if self.llm.tail:
            rows.append(self.llm.embed(torch.tensor(self.llm.tail, device=self.llm.device)))
        return torch.cat(rows), end

    def states(self, examples):
        """LLM states ``(b, H)`` of prompts from :meth:`embedded`."""
        longest = max(len(rows) for rows, _ in examples)
        padded = torch.stack([F.pad(rows, (0, 0, 0, longest - len(rows))) for rows, _ in examples])
        mask = torch.zeros(len(examples), longest, dtype=torch.long, device=padded.device)
        for row, (rows, _) in enumerate(examples):
            mask[row, : len(rows)] = 1
        output = self.llm.model(inputs_embeds=padded, attention_mask=mask).last_hidden_state
        return torch.stack([output[row, end] for row, (_, end) in enumerate(examples)]).float()

    def users(self, histories, dates=None):
        """Representations ``(b, s)`` of users with these lists of item ids, oldest first."""
        examples = []
        for row, items in enumerate(histories):
            when = dates[row][-self.form.most :] if dates else None
            items = items[-self.form.most :]
            prompt = user_prompt([self.titles[item] for item in items], when)
            examples.append(self.embedded(prompt, items, self.form.user_out))
        return self.model.user_head(self.states(examples))

    def items(self, ids):
        """Representations ``(m, s)`` of these items, each time anew."""
        texts = [item_prompt(self.titles[item]) for item in ids]
        out = self.form.item_out
        examples = [self.embedded(text, [item], out) for text, item in zip(texts, ids)]
        return self.model.item_head(self.states(examples))

    def loss(self, histories, candidates, teacher_states, dates=None):
        """Retrieval, distillation and uniformity of a batch, summed.

        Parameters
        ----------
        histories : list of list of int
        candidates : list of list of int
            Each row's next item, then its random ones.
        teacher_states : torch.Tensor (b, d)
        dates : list of list of str, optional
        """
        users = self.users(histories, dates)
        items = self.items([item for row in candidates for item in row])
        items = items.view(len(users), -1, users.shape[1])
        scores = torch.stack([items[row] @ users[row] for row in range(len(users))])
        retrieval = F.cross_entropy(
            scores, torch.zeros(len(users), dtype=torch.long).to(scores.device)
        )
        users = F.normalize(users, dim=1)
        teachers = F.normalize(self.model.teacher_head(teacher_states), dim=1)
        distillation = ((users - teachers) ** 2).mean()
        return retrieval + distillation + self._uniformity(users) + self._uniformity(teachers)

    @staticmethod
    def _uniformity(rows):
        return torch.pdist(rows).pow(2).mul(-2).exp().mean()

    @torch.no_grad()
    def catalog(self, ids, batch_size):
        """Representations of many items, as evaluation needs them."""
        return torch.cat(
            [self.items(ids[i : i + batch_size]) for i in range(0, len(ids), batch_size)]
        )
