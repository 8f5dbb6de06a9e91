"""Train one model in several processes: who this process is, and how it communicates with the others.

`torchrun` starts the processes and gives each its rank. They communicate through `torch.distributed` (gloo, TCP). Each
computes the gradients of its share of every batch, and all add them up: synchronous SGD (Goyal et al. 2017,
https://arxiv.org/abs/1706.02677), with the batch size of a single process, and hence its result.
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
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes on all hosts.
        local_rank: number of this process on its host, from 0.
        local_world_size: number of processes on its host.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's share of `items`. The shares of all processes are disjoint and cover all items."""
        return items[self.rank :: self.world_size]

    def all_reduce_gradients(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Replace the gradients by their sums over all processes, and return the sum of the losses.

        One message carries all gradients. DistributedDataParallel sends several while it computes gradients, and groups
        them differently in its first step. After a resume within an epoch, it would add in another order, and more than
        two processes would end with other bytes. It also divides by the number of processes, not of images.

        Args:
            parameters: with gradients, all of one dtype.
            loss: of this process, ().
        """
        if self.world_size == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        message = torch.empty(sum(gradient.numel() for gradient in gradients) + 1, dtype=gradients[0].dtype)
        *parts, last = torch.split(message, [*(gradient.numel() for gradient in gradients), 1])
        # With the strides of the parameters, so that copying does not transpose.
        sums = [part.as_strided(like.shape, like.stride()) for part, like in zip(parts, parameters, strict=True)]
        torch._foreach_copy_(sums, gradients)
        last.copy_(loss)
        with _explain_lost_worker():
            distributed.all_reduce(message)
        torch._foreach_copy_(gradients, sums)
        return last[0].clone()  # a view would keep the whole message in memory

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes, in float64, bit-identical in all of them."""
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with _explain_lost_worker():
            distributed.all_reduce(sums)
        return sums.tolist()

    def broadcast(self, value: Any) -> Any:
        """Return the main process's `value` in every process. The values of the others are ignored.

        Args:
            value: tensors and plain values, in dicts, lists and tuples. Other types are refused, as they come from a
                network.
        """
        if self.world_size == 1:
            return value
        buffer = io.BytesIO()
        if self.is_main:
            torch.save(value, buffer)
        size = torch.tensor([len(buffer.getbuffer())])
        with _explain_lost_worker():
            distributed.broadcast(size, 0)
            content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8) if self.is_main else _bytes(size)
            distributed.broadcast(content, 0)
        return value if self.is_main else torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)

    def barrier(self) -> None:
        """Wait until every process has called this method."""
        self.all_reduce_sum(0)


SINGLE = World()


def launched() -> bool:
    """Return whether `torchrun` started this process."""
    return distributed.is_torchelastic_launched()


def restarted() -> bool:
    """Return whether `torchrun` restarted this process because one of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def init_process_group() -> Iterator[World]:
    """Join the processes that `torchrun` started. Without torchrun, the process is alone.

    Raises:
        WorkerLost: now or later, another process has ended or cannot be reached.
    """
    if not launched():
        yield SINGLE
        return
    with _explain_lost_worker():
        store, rank, world_size = next(rendezvous("env://"))
        # torchrun of PyTorch 2.14 reuses its address store after a restart, with the addresses of dead processes, for
        # which the new ones would wait without end. Each host counts its restarts separately, so several hosts need
        # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, with which torchrun creates a new store each time.
        if os.environ["GROUP_WORLD_SIZE"] == "1":
            store = PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        yield World(rank, world_size, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    finally:
        distributed.destroy_process_group()


def _bytes(size: Tensor) -> Tensor:
    return torch.empty(int(size), dtype=torch.uint8)


@contextmanager
def _explain_lost_worker() -> Iterator[None]:
    """Turn gloo's and the address store's error about a lost connection into one line."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(
            "another process of this training has ended or cannot be reached; see its last log lines "
            f"({str(error).splitlines()[0]})"
        ) from error
