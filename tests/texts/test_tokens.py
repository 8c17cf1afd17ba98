"""Rows of tokens are held without an object a row, padded a batch at a time, and met beside rows of like length."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import Tensor

from nacre.checks.worlds import TEXT
from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.lengths import FEW, PADDING, PLACES, WINDOW, bucketed, put_back, readings
from nacre.core.method import Method
from nacre.core.ragged import Ragged
from nacre.core.rows import Batch, Chain, Picked, TensorRows, batches, cat
from nacre.core.stream import Task
from nacre.data import Source, TokenRows
from nacre.heads import features_of
from nacre.memory import ClassBalanced, Reservoir
from nacre.metrics import score


def ragged(count: int, seed: int = 0, longest: int = 40) -> tuple[Ragged, list[list[int]]]:
    """Rows of 1 to `longest` tokens, and the same as lists."""
    generator = dice("ragged", seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    rows = [torch.randint(1, 23, (n,), generator=generator).tolist() for n in lengths]
    flat = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
    return Ragged({"input_ids": flat}, torch.tensor(lengths).cumsum(0)), rows


def token_rows(count: int, seed: int = 0, longest: int = 40) -> TokenRows:
    return TokenRows(ragged(count, seed, longest)[0], torch.arange(count) % 4)


def lists(batch: Batch) -> list[list[int]]:
    """The tokens of each row that its mask shows."""
    ids, mask = batch.x["input_ids"], batch.x["attention_mask"].bool()
    return [row[seen].tolist() for row, seen in zip(ids, mask, strict=True)]


def test_a_batch_is_padded_to_its_longest_row_and_no_further():
    held, rows = ragged(50)
    for index in (torch.tensor([3]), torch.tensor([7, 7, 0]), torch.randperm(50, generator=dice("order"))):
        batch = TokenRows(held, torch.arange(50)).take(index)
        assert lists(batch) == [rows[i] for i in index.tolist()]
        assert batch.x["input_ids"].shape[1] == max(len(rows[i]) for i in index.tolist())
        assert not batch.x["input_ids"][~batch.x["attention_mask"]].any(), "behind a row stands 0"
        assert batch.x["input_ids"].dtype == torch.int32 and batch.y.tolist() == index.tolist()
    empty = TokenRows(held, torch.arange(50)).take(torch.tensor([], dtype=torch.long))
    assert empty.x["input_ids"].shape == (0, 0)


def test_all_fields_of_a_row_travel_together():
    held, _ = ragged(20)
    kinds = held.fields["input_ids"] + 100
    both = Ragged({**held.fields, "token_type_ids": kinds}, held.ends)
    x = both.padded(torch.tensor([5, 1]))
    seen = x["attention_mask"]
    assert torch.equal(x["token_type_ids"][seen], x["input_ids"][seen] + 100) and not x["token_type_ids"][~seen].any()


def test_lengths_are_known_through_cuts_and_joints():
    rows, rest = token_rows(10), token_rows(6, seed=1)
    cut = Picked(rows, torch.tensor([4, 2, 9]))
    assert cut.lengths.tolist() == rows.lengths[[4, 2, 9]].tolist()
    joint = Chain((cut, Picked(rest, torch.tensor([0]))))
    assert joint.lengths.tolist() == [*cut.lengths.tolist(), int(rest.lengths[0])]
    assert lists(joint.take(torch.tensor([3, 0]))) == lists(rest.take(torch.tensor([0]))) + lists(
        rows.take(torch.tensor([4]))
    )
    plain = TensorRows(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    assert Picked(plain, torch.tensor([0])).lengths is None and Chain((rows, plain)).lengths is None


@pytest.mark.parametrize("count", [1, 7, 8, 129, 8 * WINDOW + 20, 3000])
def test_buckets_meet_each_row_once_and_end_with_the_rows_that_fill_no_batch(count):
    lengths = token_rows(count).lengths
    shuffled = torch.randperm(count, generator=dice("shuffled"))
    order = bucketed(shuffled, lengths, 8, dice("buckets"))
    assert order.sort().values.tolist() == list(range(count))
    assert torch.equal(order, bucketed(shuffled, lengths, 8, dice("buckets")))
    rest = count % 8
    assert torch.equal(order[count - rest :], shuffled[count - rest :])
    for low in range(0, count - rest, 8 * WINDOW):  # no row leaves its window: far ones stay far
        window = slice(low, min(low + 8 * WINDOW, count - rest))
        assert set(order[window].tolist()) == set(shuffled[window].tolist())


def test_buckets_save_most_of_the_padding_and_come_in_random_order():
    count, size = 4000, 16
    lengths = token_rows(count).lengths
    shuffled = torch.randperm(count, generator=dice("shuffled"))

    def padding(order: Tensor) -> float:
        batches = lengths[order].view(-1, size)
        return 1 - batches.sum().item() / (batches.max(1).values.sum().item() * size)

    order = bucketed(shuffled, lengths, size, dice("buckets"))
    assert padding(order) < 0.05 < 0.4 < padding(shuffled)
    longest = lengths[order].view(-1, size)[:WINDOW].max(1).values.double()
    place = torch.arange(WINDOW).double()
    assert torch.corrcoef(torch.stack([longest, place]))[0, 1].abs() < 0.4, "short batches do not come first"
    drawn_at = shuffled.argsort()[order].view(-1, size)
    assert (drawn_at.diff(dim=1) > 0).all(), "rows of a batch stand as they were drawn, not by length"


def test_readings_cover_all_rows_within_bounds_and_can_be_put_back():
    rows = token_rows(700, longest=300)
    pieces = readings(rows, size=128)
    for piece in pieces:
        assert len(piece) <= 128 and (len(piece) == 1 or len(piece) * int(rows.lengths[piece].max()) <= PLACES)
        places = len(piece) * int(rows.lengths[piece].max())
        assert places <= FEW or 1 - rows.lengths[piece].sum() / places <= PADDING
    assert len({len(p) for p in pieces}) > 2, "long rows come in smaller pieces"
    few = token_rows(20, longest=40)
    assert int(few.lengths.max()) * 20 <= FEW and len(readings(few)) == 1, (
        "few short rows are one piece, however padded"
    )
    back = put_back([rows.y[p] * 1000 + p for p in pieces], pieces)
    assert torch.equal(back, rows.y * 1000 + torch.arange(700))
    long = Ragged({"input_ids": torch.zeros(PLACES + 5, dtype=torch.int32)}, torch.tensor([2, PLACES + 5]))
    alone = TokenRows(long, torch.tensor([0, 1]))
    assert [p.tolist() for p in readings(alone)] == [[0], [1]]
    plain = TensorRows(torch.zeros(5, 2), torch.zeros(5, dtype=torch.long))
    assert [p.tolist() for p in readings(plain, 2)] == [[0, 1], [2, 3], [4]]


def text_task(count: int = 45) -> Task:
    held, _ = ragged(count, longest=5)
    return Task(0, TokenRows(held, torch.arange(count) % 2), (0, 1))


def answered(rows: TokenRows) -> Tensor:
    """Marks that tell rows apart: whose order is wrong would score otherwise."""
    return score(lambda batch: batch.y, rows, of=lambda scores, batch: (scores == batch.y).float() * batch.ids)  # type: ignore


def test_features_and_scores_come_back_in_the_order_of_the_rows():
    model, rows = TEXT.model(), text_task().train
    z, y = features_of(model, rows, "the test", size=8)
    assert torch.equal(y, rows.y)
    for i in (0, 7, 44):
        with torch.no_grad():
            alone = model.eval()(**rows.take(torch.tensor([i])).x).features
        torch.testing.assert_close(z[i], alone[0], atol=1e-6, rtol=0)
    assert answered(rows) == pytest.approx(44 / 2)


class Backwards(Method):
    """Says itself in which order rows are met."""

    def shape_order(self, order: Tensor, task: Task, epoch: int) -> Tensor:
        return torch.arange(task.rows).flip(0)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_drive_meets_rows_of_like_length_and_finds_its_place_again(seed):
    model = TEXT.model()

    def drive(method: Method | None = None) -> Drive:
        return Drive(method or Method(), model, lambda p: torch.optim.SGD(p.values(), 0.1), text_task(), seed=seed)

    with drive() as one:
        met = [b.ids.tolist() for b in one.batches(epoch=2, size=4)]
        again = [b.ids.tolist() for b in one.batches(epoch=2, size=4, start=5)]
        other = [b.ids.tolist() for b in one.batches(epoch=3, size=4)]
        padded = sum(b.x["input_ids"].numel() for b in one.batches(epoch=2, size=4))
    assert again == met[5:] and other != met and sorted(chain.from_iterable(met)) == list(range(45))
    lengths = text_task().train.lengths
    assert padded < 1.1 * lengths.sum()
    with drive(Backwards()) as own:
        assert [i for b in own.batches(epoch=0, size=4) for i in b.ids.tolist()] == list(range(44, -1, -1))


@pytest.mark.parametrize("memory", [Reservoir(capacity=12), ClassBalanced(capacity=12)])
def test_memories_keep_tokens_of_any_length(memory):
    rows = token_rows(60)
    for batch in batches(rows, 7):
        memory.add(batch)
    drawn = memory.draw(12)
    known = {
        tuple(tokens): label for tokens, label in zip(lists(rows.take(torch.arange(60))), rows.y.tolist(), strict=True)
    }
    assert len(drawn) == 12 and all(known[tuple(t)] == y for t, y in zip(lists(drawn), drawn.y.tolist(), strict=True))
    assert memory.block.kept["x.input_ids"].dtype == torch.int32
    joined = cat(rows.take(torch.arange(3)), drawn)
    assert lists(joined) == lists(rows.take(torch.arange(3))) + lists(drawn)


def test_a_source_may_be_made_of_tokens():
    rows = token_rows(12)
    source = Source("tokens", rows, token_rows(8, seed=1), ("a", "b", "c", "d"))
    changed = rows.tokens.fields["input_ids"].clone()
    changed[3] += 1
    other = TokenRows(Ragged({"input_ids": changed}, rows.tokens.ends), rows.y)
    assert source.sha256 != Source("tokens", other, source.test, source.classes).sha256
