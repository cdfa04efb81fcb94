"""The CLIP score against transformers' own forward pass, on a tiny CLIP made here."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from memfast.measuring.networks.backbones import MissingNetwork
from memfast.measuring.networks.clip import ClipScorer
from memfast.measuring.networks.table import load_network

TEXTS = ["red heart", "blue cup", "old key"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "tiny"
    torch.manual_seed(0)
    common = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = common | dict(vocab_size=9, max_position_embeddings=6, bos_token_id=0, eos_token_id=1)
    vision = common | dict(image_size=16, patch_size=8)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        path
    )
    words = ["<s>", "</s>", "red", "heart", "blue", "cup", "old", "key", "<unk>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=6,
    ).save_pretrained(path)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


def test_score_equals_transformers(folder):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = (images * 255).round() / 255
    processor = CLIPImageProcessor(
        do_resize=False,
        do_center_crop=False,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.25, 0.3],
    )
    arrays = [np.asarray((x * 255).byte().permute(1, 2, 0)) for x in images]
    pixels = processor(arrays, return_tensors="pt").pixel_values
    scorer = ClipScorer(str(folder))
    tokens = scorer.tokenizer(TEXTS, padding="max_length", max_length=6, return_tensors="pt")
    with torch.no_grad():
        model = CLIPModel.from_pretrained(folder).eval()
        output = model(input_ids=tokens.input_ids, pixel_values=pixels)
    expected = output.logits_per_image.diagonal() / model.logit_scale.exp().detach()
    torch.testing.assert_close(scorer.score(images, TEXTS), expected, atol=1e-5, rtol=0)
    assert scorer.name == "tiny"


def test_retrieval_counts_own_captions_among_the_nearest(folder):
    images = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    scorer = ClipScorer(str(folder))
    best = (scorer.image_features(images) @ scorer.text_features(TEXTS).T).argmax(1)
    expected = (best == torch.arange(3)).double().mean()
    assert scorer.retrieval(images, TEXTS) == pytest.approx(float(expected))
    assert scorer.retrieval(images, TEXTS, top=3) == 1


def test_the_folder_serves_as_feature_network(folder):
    images = torch.rand(2, 3, 16, 16)
    assert load_network("clip", str(folder))(images).shape == (2, 8)


@pytest.mark.parametrize("folder", [None, "no/such/folder"])
def test_a_missing_folder_is_named(folder):
    with pytest.raises(MissingNetwork, match="--weights clip=FOLDER"):
        ClipScorer(folder)
