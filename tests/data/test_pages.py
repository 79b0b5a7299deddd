"""Memory of batches: used again when nobody holds it, never before."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from dna_fast.data.pages import KEPT, Pages

SHAPE = (4, 5, 6, 3)


def _addresses(tensors: list[torch.Tensor]) -> set[int]:
    return {t.data_ptr() for t in tensors}


def test_memory_is_used_again_once_the_last_view_of_it_is_gone() -> None:
    pages = Pages()
    first = pages.empty(SHAPE, torch.float32)
    address, view = first.data_ptr(), first[1:, 2].permute(2, 0, 1)
    del first
    assert pages.empty(SHAPE, torch.float32).data_ptr() != address  # the view still holds it
    del view
    gc.collect()
    assert address in _addresses([pages.empty(SHAPE, torch.float32), pages.empty(SHAPE, torch.float32)])


@pytest.mark.parametrize("count", [2, KEPT, 3 * KEPT])
def test_tensors_that_are_held_share_nothing(count: int) -> None:
    pages = Pages()
    held = [pages.empty(SHAPE, torch.float32).fill_(k) for k in range(count)]
    assert len(_addresses(held)) == count
    for k, tensor in enumerate(held):
        assert torch.equal(tensor, torch.full(SHAPE, float(k)))


def test_a_loop_that_lets_go_needs_two_areas() -> None:
    pages, seen = Pages(), set()
    for _ in range(20):
        tensor = pages.empty(SHAPE, torch.float32)  # the last one is held until here
        seen.add(tensor.data_ptr())
    assert len(seen) == 2


def test_shapes_and_types() -> None:
    pages = Pages()
    for shape, dtype in (
        (SHAPE, torch.bfloat16),
        (SHAPE, torch.float32),
        ((1, 2), torch.float32),
        ((0, 3), torch.float32),
    ):
        tensor = pages.empty(shape, dtype)
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (torch.Size(shape), dtype, True)


def test_threads_do_not_get_the_same_memory() -> None:
    pages, wrong = Pages(), list[int]()

    def work(number: int) -> None:
        for k in range(200):
            tensor = pages.empty(SHAPE, torch.float32).fill_(1000 * number + k)
            if not torch.equal(tensor, torch.full(SHAPE, float(1000 * number + k))):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
