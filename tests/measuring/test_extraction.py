"""Cliques against networkx and by hand."""

import networkx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memfast.measuring.distances import tiled_l2
from memfast.measuring.extraction import EDGE, Cliques, extract


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()


def largest_clique(images: torch.Tensor) -> int:
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(images)))
    for i in range(len(images)):
        near = (tiled_l2(images[i].expand_as(images), images) < EDGE).nonzero().flatten()
        graph.add_edges_from((i, int(j)) for j in near if int(j) != i)
    return max(len(clique) for clique in networkx.find_cliques(graph))


def test_a_clique_by_hand():
    cliques = Cliques(size=3)
    cliques.add(flat(0.0, 0.5, 0.1, 0.9, 0.05))
    assert (cliques.largest, cliques.extracted, cliques.seen) == (3, True, 5)
    torch.testing.assert_close(cliques.picture(), flat(0.05)[0])


def test_a_chain_of_near_pairs_is_no_clique():
    cliques = Cliques(size=3)
    cliques.add(flat(0.0, 0.1, 0.2))
    assert (cliques.largest, cliques.extracted) == (2, False)


def test_later_members_are_counted_but_not_kept():
    cliques = Cliques(size=4)
    cliques.add(flat(*[0.5] * 100))
    assert cliques.largest == 100
    assert [len(kept) for kept in cliques.members] == [4]


def test_memory_does_not_grow_with_unrelated_images():
    cliques = Cliques(capacity=5)
    noise = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cliques.add(noise)
    assert (len(cliques.members), cliques.largest, cliques.seen) == (5, 1, 60)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.06, 0.12, 0.2, 0.3, 0.7, 0.75]), min_size=1, max_size=14))
def test_every_reported_clique_exists(values):
    images = flat(*values)
    cliques = Cliques(size=14)
    cliques.add(images)
    assert cliques.largest <= largest_clique(images)
    for kept in cliques.members:
        assert all((tiled_l2(image.expand_as(kept), kept) < EDGE).all() for image in kept)


@given(st.lists(st.sampled_from([0.0, 0.05, 0.5, 0.55, 0.9]), min_size=1, max_size=14))
def test_separate_clusters_are_found_exactly(values):
    images = flat(*values)
    cliques = Cliques()
    cliques.add(images)
    assert cliques.largest == largest_clique(images)


def test_a_prompt_that_returns_its_training_image_is_extracted():
    noise = torch.Generator().manual_seed(0)
    training = torch.rand(3, 8, 8, generator=noise)

    def images_of(ids, seed):
        images = torch.rand(len(ids), 3, 8, 8, generator=noise)
        if "copied" in ids:
            images[ids.index("copied")] = 0.97 * training + 0.03 * images[0]
        return images

    told = []
    ids = ["free", "copied", "other"]
    outcomes = list(extract(ids, images_of, 12, batch=2, progress=told.append))
    assert [outcome.extracted for outcome in outcomes] == [False, True, False]
    assert outcomes[1].clique == outcomes[1].seeds == 12
    assert tiled_l2(outcomes[1].picture[None], training[None]) < 0.05
    assert sum(told) == 36
