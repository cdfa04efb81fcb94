"""Latent consistency models: Stable Diffusion distilled, its UNet told the guidance scale."""

from memfast.pipelines.drivers.alpha_bar.stable_diffusion import UNetDriver


class LatentConsistency(UNetDriver):
    """The pipeline of arXiv 2310.04378; the same models in Stable Diffusion's are of that kind."""

    kind = "Latent Consistency"
    clip_attention = True
    pipelines = ("LatentConsistencyModelPipeline",)
    siblings = ("LatentConsistencyModelImg2ImgPipeline",)
    enters_by_attention = True
