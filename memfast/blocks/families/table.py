"""The table of families. To support another way of writing a feed-forward block, add an entry.

Blocks are recognised by the names and sizes of their linears, so that copies and subclasses of a
known block are known too. EXAMPLES (in `examples`) has a tiny model for each.
"""

from memfast.blocks.families.layout import Family

FAMILIES = (
    Family(
        "feed-forward",
        ("net.0.proj",),
        "net.2",
        gate="net.0",
        models="SD1/2/XL, SVD, SD3, PixArt, DiT, HunyuanDiT, Qwen-Image, Wan, CogVideoX, LTX, "
        "Mochi, Stable Audio; double blocks of Flux, Chroma, HunyuanVideo",
    ),
    Family(
        "fused single block",
        ("proj_mlp",),
        "proj_out",
        neurons=lambda block, contraction: contraction.in_features - contraction.out_features,
        width_attributes=("mlp_hidden_dim",),
        models="Flux, Chroma, HunyuanVideo, HunyuanImage, Bria, LongCat, Ovis",
    ),
    Family("packed gate", ("linear_in",), "linear_out", models="double blocks of Flux2"),
    Family(
        "fused attention",
        ("to_qkv_mlp_proj",),
        "to_out",
        neurons=lambda block, contraction: block.mlp_hidden_dim,
        halves=2,
        width_attributes=("mlp_hidden_dim",),
        models="single blocks of Flux2",
    ),
    Family("packed gate", ("gate_up_proj",), "down_proj", models="OmniGen"),
    Family("packed gate", ("ff_in",), "ff_out", models="MiniMax Music 3"),
    Family(
        "packed gate",
        ("proj_in",),
        "proj_out",
        only=("StableAudio3FeedForward",),
        models="Stable Audio 3",
    ),
    Family(
        "split gate",
        ("linear_1", "linear_3"),
        "linear_2",
        only=("LuminaFeedForward",),
        models="Lumina, Lumina 2",
    ),
    Family("split gate", ("linear_1", "linear_2"), "out_projection", models="AuraFlow"),
    Family("split gate", ("w1", "w3"), "w2", models="Z-Image, HiDream, Ideogram"),
    Family(
        "split gate",
        ("gate_proj", "up_proj"),
        "down_proj",
        models="ACE-Step, PRX, Cosmos 3; Llama, Gemma and Qwen text encoders",
    ),
    Family("split gate", ("gate_proj", "up_proj"), "linear_fc2", models="ERNIE-Image"),
    Family("split gate", ("gate", "up"), "down", models="Krea 2"),
    Family("split gate", ("proj", "gate_layer"), "out", models="Qwen-Image 2.1"),
    Family("split gate", ("wi_0", "wi_1"), "wo", models="T5 v1.1 and UMT5 text encoders"),
    Family("two linears", ("wi",), "wo", models="T5 text encoder"),
    Family("two linears", ("fc1",), "fc2", models="CLIP and SigLIP encoders"),
    Family(
        "two linears",
        ("in_layer",),
        "out_layer",
        only=("Kandinsky5FeedForward",),
        models="Kandinsky 5",
    ),
    Family("two linears", ("ffn.0",), "ffn.2", models="Wan-Animate 2"),
    Family(
        "mixing convolutions",
        ("conv_inverted", "conv_depth"),
        "conv_point",
        convolutions=True,
        models="Sana, Sana Video",
    ),
    Family("two linears", ("ff.0",), "ff.3", only=("AudioDiTFeedForward",), models="LongCat audio"),
)

# Children under these names are left alone: routed experts see other rows at every call, and
# projections of an image prompt run outside the denoising stack or not at all.
LEFT_ALONE = frozenset({"experts", "encoder_hid_proj", "image_embedder"})
