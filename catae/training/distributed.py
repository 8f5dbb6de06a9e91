"""The processes that train one net together: which of them this is, what it takes, and what it hears from the others.

They are started by `torchrun`, which tells each its rank, and speak through PyTorch's `torch.distributed` (gloo, TCP).
Each takes its share of every batch and adds up the gradients with the others, as in synchronous SGD (Goyal et al. 2017,
https://arxiv.org/abs/1706.02677), but of the batch that one process would take: so they learn what one would.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from catae.errors import WorkerLost

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0.
        count: how many there are, on all hosts.
        local: its number on its host, from 0.
        beside: how many there are on its host.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Those of the items that are this process's: each is some process's, and no two have the same."""
        return items[self.rank :: self.count]

    def all_reduce_gradients(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Puts the sum of all processes' gradients in the place of each one's own; gives the sum of their losses.

        It is one message, where DistributedDataParallel sends several while gradients are still being computed. That
        groups them otherwise in its first step than later, so that a training which goes on within an epoch would add
        in another order, and more than two processes end with other bytes. It also divides by the number of processes,
        and not by that of the pictures.

        Args:
            parameters: with gradients, all of one type.
            loss: this process's, ().
        """
        if self.count == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        message = torch.empty(sum(gradient.numel() for gradient in gradients) + 1, dtype=gradients[0].dtype)
        *parts, last = torch.split(message, [*(gradient.numel() for gradient in gradients), 1])
        # In the order in which they lie in memory, so that nothing is turned round.
        sums = [part.as_strided(like.shape, like.stride()) for part, like in zip(parts, parameters, strict=True)]
        torch._foreach_copy_(sums, gradients)
        last.copy_(loss)
        with _telling_of_loss():
            distributed.all_reduce(message)
        torch._foreach_copy_(gradients, sums)
        return last[0].clone()  # and not the whole message with it

    def totals(self, *values: float) -> list[float]:
        """The sum of each value over all processes, in float64, the same to the last bit in each of them."""
        if self.count == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        with _telling_of_loss():
            distributed.all_reduce(totals)
        return totals.tolist()

    def told(self, value: Any) -> Any:
        """What the first process gives, in every one; what the others give is of no account.

        Args:
            value: tensors and plain values, in dicts, lists and tuples. Nothing else is taken from a network.
        """
        if self.count == 1:
            return value
        buffer = io.BytesIO()
        if self.first:
            torch.save(value, buffer)
        size = torch.tensor([len(buffer.getbuffer())])
        with _telling_of_loss():
            distributed.broadcast(size, 0)
            content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8) if self.first else _bytes(size)
            distributed.broadcast(content, 0)
        return value if self.first else torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)

    def wait(self) -> None:
        """Waits until every process has come here."""
        self.totals(0)


SINGLE = World()


def launched() -> bool:
    """Whether `torchrun` has started this process."""
    return distributed.is_torchelastic_launched()


def restarted() -> bool:
    """Whether `torchrun` has started it again, since one of the processes has ended before its time."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined() -> Iterator[World]:
    """This process among those that `torchrun` has started; alone, if it was not started so.

    Raises:
        Lost: here or later, another process has ended or can't be reached.
    """
    if not launched():
        yield SINGLE
        return
    with _telling_of_loss():
        store, rank, count = next(rendezvous("env://"))
        # PyTorch 2.14's torchrun keeps its store of addresses from one start to the next, with those of processes that
        # are gone, and those who wait for them wait for ever. Hosts count their restarts each for itself: several need
        # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, with which torchrun makes a new store each time.
        if os.environ["GROUP_WORLD_SIZE"] == "1":
            store = PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    try:
        yield World(rank, count, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    finally:
        distributed.destroy_process_group()


def _bytes(size: Tensor) -> Tensor:
    return torch.empty(int(size), dtype=torch.uint8)


@contextmanager
def _telling_of_loss() -> Iterator[None]:
    """Says in a line what gloo and the store of addresses say of a connection that is gone."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(
            "another process of this training has ended or can't be reached: its last lines say why "
            f"({str(error).splitlines()[0]})"
        ) from error
