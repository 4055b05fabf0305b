"""Which images share a batch, and when it is due."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from twins.serve.batching import Item, Queue, choose_batch
from twins.serve.messages import Job, Options

FILE = b"image"


def item(shape, *, content=FILE, size=None, attempts=0, arrived=0.0, key="m@1", alone=False):
    future = asyncio.new_event_loop().create_future()
    job = Job(content=content, shape=shape, size=size, alone=alone, options=Options())
    return Item(job, key, future, arrived=arrived, attempts=attempts)


def shapes(batch):
    return [one.job.shape for one in batch]


def test_a_batch_holds_images_of_one_shape_in_the_order_of_their_arrival():
    items = [item((64, 96)), item((96, 64)), item((64, 96)), item((64, 96))]
    assert choose_batch(items, 8, 0.0) == [items[0], items[2], items[3]]
    assert choose_batch(items, 2, 0.0) == [items[0], items[2]]


def test_padding_lets_like_shapes_in_up_to_its_share():
    items = [item((100, 100)), item((100, 110)), item((50, 50)), item((110, 100))]
    assert shapes(choose_batch(items, 8, 0.1)) == [(100, 100), (100, 110)]
    # 110 x 110 x 3 pixels for 10,000 + 11,000 + 11,000
    assert shapes(choose_batch(items, 8, 0.14)) == [(100, 100), (100, 110), (110, 100)]


def test_tensors_never_share_a_batch_with_files_or_with_other_shapes():
    pixels = np.zeros((64, 64, 3), np.uint8)
    items = [
        item((64, 64), content=pixels),
        item((64, 64)),
        item((64, 65), content=pixels),
        item((64, 64), content=pixels),
    ]
    items.append(item((64, 64), content=pixels, size=(32, 64)))
    assert choose_batch(items, 8, 1.0) == [items[0], items[3]]


def test_versions_of_a_model_and_large_images_share_no_batch():
    items = [item((64, 64)), item((64, 64), key="m@2"), item((64, 64), alone=True), item((64, 64))]
    assert choose_batch(items, 8, 1.0) == [items[0], items[3]]
    assert choose_batch(items[1:], 8, 1.0) == [items[1]]
    assert choose_batch(items[2:], 8, 1.0) == [items[2]]


def test_an_image_whose_worker_died_is_alone_and_due_at_once():
    items = [item((64, 64), arrived=1.0), item((64, 64), attempts=1, arrived=1.0)]
    assert choose_batch(items, 8, 0.0) == items[:1]
    queue = Queue(8, 0.5)
    queue.add(items[1:])
    assert queue.take(0.0, 1.0)[0] == items[1:]


@pytest.mark.parametrize("most", [1, 2])
def test_a_batch_is_due_when_it_is_full_or_its_first_image_has_waited(most):
    queue = Queue(2, 0.5)
    queue.add([item((64, 64), arrived=1.0) for _ in range(most)])
    batch, wait = queue.take(0.0, 1.1)
    assert (len(batch), wait) == ((2, 0.0) if most == 2 else (0, pytest.approx(0.4)))
    if most == 1:
        assert len(queue.take(0.0, 1.5)[0]) == 1
    assert queue.take(0.0, 9.0) == ([], float("inf"))


def test_a_batch_for_an_idle_worker_is_due_at_once():
    queue = Queue(8, 0.5)
    queue.add(items := [item((64, 64), arrived=1.0) for _ in range(2)])
    assert queue.take(0.0, 1.0) == ([], 0.5)
    assert queue.take(0.0, 1.0, at_once=True) == (items, 0.0)


def test_a_client_that_leaves_is_removed_from_the_queue():
    async def leave():
        queue, loop = Queue(8, 10.0), asyncio.get_running_loop()
        job = Job(content=FILE, shape=(64, 64), options=Options())
        items = [Item(job, "m@1", loop.create_future()) for _ in range(3)]
        queue.add(items)
        items[1].answer.cancel()
        await asyncio.sleep(0)
        return [items.index(one) for one in queue.items]

    assert asyncio.run(leave()) == [0, 2]
