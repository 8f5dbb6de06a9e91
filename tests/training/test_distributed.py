import torch

from catae.data import loader
from catae.data.image_store import ImageStore
from catae.training import distributed
from catae.training.distributed import SINGLE, World


def test_shares_are_disjoint_complete_and_balanced() -> None:
    items = list(range(17))
    for count in (1, 2, 3, 20):
        shares = [World(rank, count).share(items) for rank in range(count)]
        assert sorted(item for share in shares for item in share) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_of_a_batch_add_up_to_the_batch_of_one_process(synthetic_images: ImageStore) -> None:
    """The loader skips one batch, and the last batch has 1 image, so two of three processes have none of it."""

    def batches_of(world: World) -> list[torch.Tensor]:
        ranks = {"rank": world.rank, "world_size": world.world_size}
        return list(loader.train_loader(synthetic_images, range(97), 32, 5, 2, 1, 0.5, 2, 0.5, **ranks))

    whole = batches_of(SINGLE)
    shares = [batches_of(World(rank, 3)) for rank in range(3)]
    assert [len(batch) for batch in whole] == [32, 32, 1]
    assert [len(share[-1]) for share in shares] == [1, 0, 0]
    for number, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            assert torch.equal(share[number], batch[rank::3])


def test_a_process_without_torchrun_is_alone() -> None:
    with distributed.init_process_group() as world:
        assert world == SINGLE
        assert world.is_main
        assert world.broadcast({"a": 1}) == {"a": 1}
        assert world.all_reduce_sum(0.1, 2) == [0.1, 2]
