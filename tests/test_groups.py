"""Near-duplicate captions and parts that never split them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfast.errors import InputError
from memfast.prompts import PromptSet, make_prompt
from memfast.prompts.groups import deal, equal_sets, near_duplicates, prompt_groups

RUGS = [f"{name} Area Rug by Andover Mills" for name in ("Melrose Gray", "Lilah Gray", "Anzell")]
OTHERS = ["Mothers influence on her young hippo", "The No Limits Podcast", "a pencil pleat curtain"]
MORE = ["Bloodborne: official art", "an old clock", "cats and dogs", "rain over Lisbon"]


def test_captions_of_a_template_are_one_group():
    texts = [RUGS[0], OTHERS[0], RUGS[1], OTHERS[1], RUGS[2], OTHERS[2], *MORE]
    groups = prompt_groups(make_prompt(text) for text in texts)
    assert groups[:6] == [0, 1, 0, 2, 0, 3]
    assert len(set(groups)) == len(texts) - 2


def test_the_list_s_own_groups_join():
    prompts = [make_prompt(text, group="g") for text in OTHERS[:2]] + [make_prompt(OTHERS[2])]
    assert prompt_groups(prompts) == [0, 0, 1]


def test_no_captions():
    assert near_duplicates([]) == []


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 5), st.integers(0, 3))
def test_dealing_never_splits_a_group(groups, parts, seed):
    dealt = deal(groups, parts, seed)
    assert sorted(place for part in dealt for place in part) == list(range(len(groups)))
    assert sum(len({groups[p] for p in part}) for part in dealt) == len(set(groups))


def test_equal_sets():
    prompts = PromptSet.of([*RUGS, *OTHERS, *MORE])
    sets = equal_sets(prompts, 3, 2, seed=0)
    assert [len(part) for part in sets] == [2, 2, 2]
    assert sum(any(text in RUGS for text in part.texts) for part in sets) <= 1
    with pytest.raises(InputError, match="do not make 9 sets"):
        equal_sets(prompts, 9, 1, seed=0)
